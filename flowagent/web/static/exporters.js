// Who exports: templates, sampling rates and how they are known, loss.

import { h } from "./dom.js";
import { duration, whole } from "./format.js";
import { badge } from "./overview.js";
import { chip, rowsTable, table } from "./table.js";

export const view = {
  title: "Exporters",
  // What the rows themselves say of each exporter's rate; the API of exporters knows only what was announced.
  query(state, columns) {
    const offered = ["exporter", "sampling_source", "sampling_rate"].filter((name) => columns.some(({ column }) => column === name));
    return offered.length ? { dimensions: offered.join(","), fold: "row", top: "100" } : null;
  },
  optional: true,

  async load(ctx) {
    return { exporters: await ctx.get("/api/v1/exporters") };
  },

  render(answer, ctx, { exporters }) {
    return [known(exporters, answer, ctx), answer && answer.rows.length > 0 && rowsTable(answer, ctx, "Traffic by exporter and source of its sampling rate")].filter(Boolean);
  },
};

function known(exporters, answer, ctx) {
  const sources = sourcesOf(answer);
  const rates = ({ sampling_rates: announced }) => Object.entries(announced).map(([name, rate]) => `1:${rate}${name === "domain" ? "" : ` (${name})`}`);
  const columns = [
    { key: "exporter", label: "exporter", text: (row) => chip({ label: row.exporter, filter: `exporter == ${row.exporter}` }, ctx.choose), plain: (row) => row.exporter },
    { key: "observation_domain", label: "domain", number: true, plain: (row) => row.observation_domain },
    { key: "protocol", label: "protocol", text: (row) => h("span", {}, `${row.protocol} `, row.is_ovs && badge("plain", "Open vSwitch")), plain: (row) => row.protocol },
    { key: "templates", label: "templates", number: true, plain: (row) => row.templates },
    { key: "sampling_rates", label: "announced rate", text: (row) => rates(row).join(", ") || null, plain: (row) => rates(row).join(" ") || null },
    { key: "sampling_source", label: "rate known by", text: (row) => words(sources.get(row.exporter)), plain: (row) => sources.get(row.exporter)?.join(" ") ?? null },
    { key: "records", label: "records", number: true, text: (row) => whole(row.records), plain: (row) => row.records },
    { key: "lost_records", label: "lost", number: true, text: (row) => (row.lost_records ? badge("warn", whole(row.lost_records)) : "0"), plain: (row) => row.lost_records },
    { key: "not_sent_packets", label: "not sent by it", number: true, text: (row) => (row.not_sent_packets == null ? null : whole(row.not_sent_packets)), plain: (row) => row.not_sent_packets },
    { key: "restarts", label: "restarts", number: true, plain: (row) => row.restarts },
    { key: "last_seen", label: "last seen", number: true, text: (row) => `${duration(Math.max(0, Date.now() / 1000 - row.last_seen_ns / 1e9))} ago`, plain: (row) => row.last_seen_ns / 1e9 },
  ];
  return table({ caption: "Exporters and their observation domains", columns, rows: exporters, sort: ctx.state.sort, resort: (sort) => ctx.go({ sort }), file: "exporters", wide: true });
}

/** How the rate of each exporter's rows was known, largest first. */
function sourcesOf(answer) {
  const sources = new Map();
  const [exporter, source] = ["exporter", "sampling_source"].map((name) => {
    const index = answer?.dimensions.findIndex((dimension) => dimension.column === name) ?? -1;
    return index < 0 ? null : (row) => answer.dimensions[index].values[row.at[index]];
  });
  for (const row of (exporter && source && answer.rows) || []) {
    if (exporter(row).other) continue;
    const list = sources.get(exporter(row).label) ?? [];
    if (!list.includes(source(row).label)) list.push(source(row).label);
    sources.set(exporter(row).label, list);
  }
  return sources;
}

function words(sources) {
  return sources ? h("span", {}, sources.map((source) => badge(source === "unknown" ? "warn" : "plain", source))) : null;
}

