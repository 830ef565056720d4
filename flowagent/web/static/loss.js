// What did we lose: where every record went, and how far off that leaves the numbers.

import { h } from "./dom.js";
import { amount, bounded, margin, percent, scaled, whole } from "./format.js";
import { badge } from "./overview.js";
import { chip, table } from "./table.js";

const SIZES = [1e3, 1e4, 1e5, 1e6, 1e7];
const KINDS = { exported: "good", pending: "plain", spooled: "plain", sampled_out: "plain", dropped: "bad" };
// Records that were left out because somebody said so are no loss.
const MEANT = new Set(["filter", "filtered", "duplicate", "duplicate_direction"]);
const kind = ({ outcome, reason }) => (MEANT.has(reason) ? "other" : (KINDS[outcome] ?? "other"));

export const view = {
  title: "What did we lose",
  query: () => ({ dimensions: "src_addr", fold: "row", top: "20" }),

  async load(ctx) {
    const [status, exporters] = await Promise.all([ctx.get("/api/v1/status"), ctx.get("/api/v1/exporters")]);
    return { status, exporters };
  },

  render(answer, ctx, { status, exporters }) {
    return [
      h("div", { class: "grid two" }, h("div", {}, kept(status), upstream(exporters)), chances(status.sampling)),
      outcomes(status), talkers(answer, ctx),
    ];
  },
};

function kept({ outcomes: all }) {
  const seen = all.reduce((sum, { records }) => sum + records, 0);
  const exported = all.filter(({ outcome }) => outcome === "exported").reduce((sum, { records }) => sum + records, 0);
  const parts = all.filter(({ records }) => records > 0).toSorted((a, b) => b.records - a.records);
  return h(
    "section", { class: "card" }, h("div", { class: "cardhead" }, h("h2", {}, "Where the records went")),
    h("p", { class: "big" }, seen ? percent(exported / seen) : "–", h("small", {}, `of ${whole(seen)} records were passed on as rows`)),
    h("div", { class: "stack", "aria-hidden": "true" }, parts.map((part) => h("span", { class: kind(part), css: { "--part": part.records / seen } }))),
    h("p", { class: "muted small" }, "Metrics and policies count every record received; what goes to sinks is what may be sampled."),
  );
}

function outcomes({ outcomes: all }) {
  const seen = all.reduce((sum, { records }) => sum + records, 0);
  const columns = [
    { key: "outcome", label: "outcome", text: (row) => badge(kind(row), row.outcome.replace("_", " ")), plain: (row) => row.outcome },
    { key: "reason", label: "reason", text: (row) => row.reason.replaceAll("_", " ") || "–", plain: (row) => row.reason },
    { key: "records", label: "records", number: true, text: (row) => whole(row.records), plain: (row) => row.records },
    { key: "share", label: "share", number: true, text: (row) => percent(row.records / seen), plain: (row) => row.records / seen },
  ];
  return table({ caption: "Records by outcome and reason", columns, rows: all, file: "outcomes", wide: true });
}

function upstream(exporters) {
  const lost = exporters.reduce((sum, each) => sum + each.lost_records, 0);
  const records = exporters.reduce((sum, each) => sum + each.records, 0);
  return h(
    "section", { class: "card" }, h("div", { class: "cardhead" }, h("h2", {}, "Before they reached us"), lost ? badge("warn", "loss") : badge("good", "no loss")),
    h("p", {}, lost ? `${whole(lost)} records are missing by the exporters' sequence numbers, ${percent(lost / (lost + records))} of what they sent.` : "No gap in the exporters' sequence numbers."),
  );
}

/** How likely a flow of some size is to be kept by itself: min(1, size / threshold). */
function chances(sampling) {
  const head = (look, text) => h("div", { class: "cardhead" }, h("h2", {}, "Our sampling"), badge(look, text));
  if (!sampling) return h("section", { class: "card" }, head("good", "none"), h("p", {}, "Every row is passed on: what comes out is exact as far as it came in."));
  const { method, budget, threshold_bytes: threshold } = sampling;
  const rows = threshold > 0 ? SIZES.map((size) => h("tr", {}, h("td", {}, scaled(size, "B")), h("td", { class: "number" }, percent(Math.min(1, size / threshold))))) : [];
  return h(
    "section", { class: "card" }, head("plain", method),
    h("p", {}, budget ? `At most ${whole(budget)} rows a second. ` : "", threshold > 0 ? `Rows of ${scaled(threshold, "B")} and more are all kept; smaller ones by chance, and then they stand for more.` : "At present every row is kept."),
    rows.length > 0 && h("table", { class: "small" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "a row of"), h("th", { scope: "col", class: "number" }, "is kept with"))), h("tbody", {}, rows)),
  );
}

function talkers(answer, ctx) {
  const value = (row) => answer.dimensions[0].values[row.at[0]];
  const columns = [
    { key: "src_addr", label: "source address", text: (row) => chip(value(row), ctx.choose), plain: (row) => (value(row).unknown ? null : value(row).label) },
    { key: answer.measure, label: answer.measure.replace("_", " "), number: true, text: (row) => amount(row.value, answer.unit), plain: (row) => row.value },
    { key: "interval", label: "95 % interval", number: true, text: (row) => bounded(row.value, row.error, answer.unit), plain: (row) => row.error },
    { key: "margin", label: "bound", number: true, text: (row) => margin(row.value, row.error, answer.certain), plain: (row) => (row.value ? row.error / row.value : null) },
  ];
  return table({ caption: "How far off each top talker may be", columns, rows: answer.rows, sort: ctx.state.sort, resort: (sort) => ctx.go({ sort }), file: "bounds", wide: true });
}
