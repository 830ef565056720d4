// What did we lose: where every record went, and how far off that leaves the numbers.

import { badge, card, h, note } from "./dom.js";
import { amount, bounded, margin, percent, scaled, whole } from "./format.js";
import { chip, figure, table, word } from "./table.js";

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
  return card(
    "Where the records went", null,
    h("p", { class: "big" }, seen ? percent(exported / seen) : "–", h("small", {}, `of ${whole(seen)} records were passed on`)),
    h(
      "div", { class: "stack", "aria-hidden": "true" },
      parts.map((part) => h("span", { class: kind(part), css: { "--part": part.records / seen } })),
    ),
    note("Metrics and policies count every record received; what goes to sinks is what may be sampled."),
  );
}

function outcomes({ outcomes: all }) {
  const seen = all.reduce((sum, { records }) => sum + records, 0);
  const columns = [
    word("outcome", "outcome", (row) => row.outcome, (row) => badge(kind(row), row.outcome.replace("_", " "))),
    word("reason", "reason", (row) => row.reason, (row) => row.reason.replaceAll("_", " ") || "–"),
    figure("records", "records", (row) => row.records, (row) => whole(row.records)),
    figure("share", "share", (row) => row.records / seen, (row) => percent(row.records / seen)),
  ];
  return table({ caption: "Records by outcome and reason", columns, rows: all, file: "outcomes" });
}

function upstream(exporters) {
  const lost = exporters.reduce((sum, each) => sum + each.lost_records, 0);
  const records = exporters.reduce((sum, each) => sum + each.records, 0);
  const none = "No gap in the exporters' sequence numbers.";
  const some = `${whole(lost)} records are missing by the exporters' sequence numbers, ${percent(lost / (lost + records))}.`;
  const verdict = lost ? badge("warn", "loss") : badge("good", "no loss");
  return card("Before they reached us", verdict, h("p", {}, lost ? some : none));
}

/** How likely a flow of some size is to be kept by itself: min(1, size / threshold). */
function chances(sampling) {
  const exact = "Every row is passed on: what comes out is exact as far as it came in.";
  if (!sampling) return card("Our sampling", badge("good", "none"), h("p", {}, exact));
  const { method, budget, threshold_bytes: threshold } = sampling;
  const chance = (size) => percent(Math.min(1, size / threshold));
  const row = (size) => h("tr", {}, h("td", {}, scaled(size, "B")), h("td", { class: "number" }, chance(size)));
  const rows = threshold > 0 ? SIZES.map(row) : [];
  const now = threshold > 0
    ? `Rows of ${scaled(threshold, "B")} and more are all kept; smaller ones by chance, and then they stand for more.`
    : "At present every row is kept.";
  return card(
    "Our sampling", badge("plain", method),
    h("p", {}, budget ? `At most ${whole(budget)} rows a second. ` : "", now),
    rows.length > 0 && h(
      "table", { class: "small" },
      h(
        "thead", {},
        h("tr", {}, h("th", { scope: "col" }, "a row of"), h("th", { scope: "col", class: "number" }, "is kept with")),
      ),
      h("tbody", {}, rows),
    ),
  );
}

function talkers(answer, ctx) {
  const value = (row) => answer.dimensions[0].values[row.at[0]];
  const columns = [
    word(
      "src_addr", "source address", (row) => (value(row).unknown ? null : value(row).label),
      (row) => chip(value(row), ctx.choose),
    ),
    figure(answer.measure, answer.measure.replace("_", " "), (row) => row.value, (row) => amount(row.value, answer.unit)),
    figure("interval", "95 % interval", (row) => row.error, (row) => bounded(row.value, row.error, answer.unit)),
    figure(
      "margin", "bound", (row) => (row.value ? row.error / row.value : null),
      (row) => margin(row.value, row.error, answer.certain),
    ),
  ];
  return table({ caption: "How far off each top talker may be", columns, rows: answer.rows, ctx, file: "bounds" });
}
