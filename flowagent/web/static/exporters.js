// Who exports: templates, sampling rates and how they are known, loss.

import { badge, h } from "./dom.js";
import { duration, whole } from "./format.js";
import { chip, figure, rowsTable, table, word } from "./table.js";

export const view = {
  title: "Exporters",
  // What the rows themselves say of each exporter's rate; the API of exporters knows only what was announced.
  query(state, columns) {
    const offered = ["exporter", "sampling_source", "sampling_rate"].filter(
      (name) => columns.some(({ column }) => column === name)
    );
    return offered.length ? { dimensions: offered.join(","), fold: "row", top: "100" } : null;
  },
  optional: true,

  async load(ctx) {
    return { exporters: await ctx.get("/api/v1/exporters") };
  },

  render(answer, ctx, { exporters }) {
    return [
      known(exporters, answer, ctx),
      answer && answer.rows.length > 0 && rowsTable(answer, ctx, "Traffic by exporter and source of its sampling rate"),
    ].filter(Boolean);
  },
};

function known(exporters, answer, ctx) {
  const sources = sourcesOf(answer);
  const rates = ({ sampling_rates: announced }) => Object.entries(announced).map(
    ([name, rate]) => `1:${rate}${name === "domain" ? "" : ` (${name})`}`
  );
  const columns = [
    word(
      "exporter", "exporter", (row) => row.exporter,
      (row) => chip({ label: row.exporter, filter: `exporter == ${row.exporter}` }, ctx.choose),
    ),
    figure("observation_domain", "domain", (row) => row.observation_domain),
    word(
      "protocol", "protocol", (row) => row.protocol,
      (row) => h("span", {}, `${row.protocol} `, row.is_ovs && badge("plain", "Open vSwitch")),
    ),
    figure("templates", "templates", (row) => row.templates),
    word("sampling_rates", "announced rate", (row) => rates(row).join(" ") || null, (row) => rates(row).join(", ") || null),
    word(
      "sampling_source", "rate known by", (row) => sources.get(row.exporter)?.join(" ") ?? null,
      (row) => words(sources.get(row.exporter)),
    ),
    figure("records", "records", (row) => row.records, (row) => whole(row.records)),
    figure(
      "lost_records", "lost", (row) => row.lost_records,
      (row) => (row.lost_records ? badge("warn", whole(row.lost_records)) : "0"),
    ),
    figure(
      "not_sent_packets", "not sent by it", (row) => row.not_sent_packets,
      (row) => (row.not_sent_packets == null ? null : whole(row.not_sent_packets)),
    ),
    figure("restarts", "restarts", (row) => row.restarts),
    figure(
      "last_seen", "last seen", (row) => row.last_seen_ns / 1e9,
      (row) => `${duration(Math.max(0, Date.now() / 1000 - row.last_seen_ns / 1e9))} ago`,
    ),
  ];
  return table({ caption: "Exporters and their observation domains", columns, rows: exporters, ctx, file: "exporters" });
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

