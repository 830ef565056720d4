// Numbers, times and names as people read them.

const PREFIXES = ["", "k", "M", "G", "T", "P", "E"];

/** The power of 1000 that a number is written in. */
function power(value) {
  const size = Math.abs(value);
  return size < 999.5 ? 0 : Math.min(Math.floor(Math.log10(size * 1.0005) / 3), PREFIXES.length - 1);
}

/** Three figures: 1.24, 12.4, 124; whole numbers below 1000 as they are. */
function figures(value, steps) {
  if (!steps && Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** A number with its prefix: "12.4 k"; `unit` comes straight after it: "12.4 kB". */
export function scaled(value, unit = "") {
  if (value == null || !Number.isFinite(value)) return "unknown";
  const steps = power(value);
  return `${figures(value / 1000 ** steps, steps)} ${PREFIXES[steps]}${unit}`.trim();
}

/** An amount of a measure: "12.4 MB", "3.2 k packets". */
export function amount(value, unit) {
  return unit === "bytes" ? scaled(value, "B") : `${scaled(value)} ${unit}`;
}

/** An amount by the second: bytes as bit/s. */
export function rate(value, unit) {
  return unit === "bytes" ? scaled(value * 8, "bit/s") : `${scaled(value)} ${unit}/s`;
}

/** An amount and its bound, both in one unit and with as many decimals as the bound allows: "15.2 ± 0.7 kB". */
export function bounded(value, error, unit) {
  if (!(error > 0)) return amount(value, unit);
  const steps = Math.max(power(value), power(error));
  const scale = 1000 ** steps;
  const decimals = Math.max(0, Math.min(2, 1 - Math.floor(Math.log10(error / scale))));
  const name = unit === "bytes" ? `${PREFIXES[steps]}B` : `${PREFIXES[steps]} ${unit}`.trim();
  return `${(value / scale).toFixed(decimals)} ± ${(error / scale).toFixed(decimals)} ${name}`;
}

/** How far off a number may be: "± 4.5 %", and where it has no bound what that means. */
export function margin(value, error, certain = "exact") {
  if (!(error > 0)) return certain;
  return value > 0 ? `± ${percent(error / value)}` : "±";
}

export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = share * 100;
  return `${value >= 10 || value === 0 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : "< 0.1"} %`;
}

export const whole = (value) => (value == null ? "unknown" : Math.round(value).toLocaleString("en").replaceAll(",", "\u202f"));

/** Seconds as "4 s", "12 min", "2.5 h", "3 days". */
export function duration(seconds) {
  if (seconds < 90) return `${Number(seconds.toFixed(seconds < 10 && seconds % 1 ? 1 : 0))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Number((seconds / 3600).toFixed(1))} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const two = (number) => String(number).padStart(2, "0");

/** The time of day of Unix seconds, here. */
export function clock(seconds) {
  const date = new Date(seconds * 1000);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** What an input of type datetime-local holds, of Unix seconds. */
export function local(seconds) {
  const date = new Date(seconds * 1000);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T${clock(seconds)}`;
}

const WORDS = {
  addr: "address", port: "port", k8s_zone: "zone", k8s_host_name: "node", k8s_host_ip: "node address",
  k8s_namespace: "namespace", k8s_owner_name: "workload", k8s_owner_type: "workload kind", k8s_name: "pod",
  k8s_type: "pod kind", k8s_network_name: "network", subnet_label: "subnet", as: "AS", as_name: "AS name",
  mac: "MAC", proto: "protocol", in_if_name: "in interface", out_if_name: "out interface", in_if: "in index",
  out_if: "out index",
};
const SIDES = { src: "source", dst: "destination" };

/** A column's name in words: "source namespace". */
export function column(name) {
  const [, side, rest] = /^(src|dst)_(.*)$/.exec(name) ?? [];
  if (side) return `${SIDES[side]} ${WORDS[rest] ?? rest.replaceAll("_", " ")}`;
  return WORDS[name] ?? name.replaceAll("_", " ");
}

/** What a pair of columns (src_…, dst_…) tells apart: "namespace". */
export const entity = (rest) => WORDS[rest] ?? rest.replaceAll("_", " ");

export const MEASURES = {
  bytes: "bytes", packets: "packets", flows: "flows", dropped_bytes: "dropped bytes",
  dropped_packets: "dropped packets",
};
