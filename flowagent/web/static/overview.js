// The first look: how much there is, who talks most, and whether the agent is well.

import { badge, card, h } from "./dom.js";
import { amount, bounded, column, duration, margin, percent, rate, scaled, whole } from "./format.js";
import { interactive, mark } from "./marks.js";
import { linesOf, plotted, stepFor } from "./plot.js";
import { rangeOf } from "./series.js";

const TALKERS = [["src_k8s_owner_name", "src_addr"], ["dst_k8s_owner_name", "dst_addr"], ["service", "dst_port"]];
const TOP = 6;

export const view = {
  title: "Overview",

  query: (state, columns, history) => ({ step: `${stepFor(rangeOf(state), history.step || 10)}s` }),

  /** The rest beside the rates: talkers by what history can tell apart, the agent's own state, its exporters. */
  async load(ctx) {
    const names = ctx.columns.map(({ column: name }) => name);
    const wanted = TALKERS.map((group) => group.find((name) => names.includes(name))).filter(Boolean);
    const [status, exporters, ...talkers] = await Promise.all([
      ctx.get("/api/v1/status"), ctx.get("/api/v1/exporters"),
      ...wanted.map((name) => ctx.ask({ dimensions: name, fold: "row", top: TOP })),
    ]);
    return { status, exporters, talkers };
  },

  render(answer, ctx, { status, exporters, talkers }) {
    const mean = `Rate over time, on average ${rate(answer.total.value / answer.seconds, answer.unit)}`;
    const room = plotted(ctx, answer, linesOf(answer), 230, mean);
    return [
      tiles(answer, status),
      card("Rate", h("a", { href: ctx.link({ view: "series" }) }, "by source →"), room),
      h("div", { class: "grid" }, talkers.map((each) => ranking(each, ctx))),
      h("div", { class: "grid two" }, health(status), sources(exporters, ctx)),
    ];
  },
};

function tiles(answer, { rates }) {
  const tile = (label, value, note) => h(
    "div", { class: "tile" }, h("dt", {}, label), h("dd", {}, value, note && h("small", {}, note)),
  );
  const { value, error } = answer.total;
  return h(
    "dl", { class: "tiles" },
    tile(`${answer.measure.replace("_", " ")} in range`, amount(value, answer.unit), margin(value, error, answer.certain)),
    tile("mean rate in range", rate(value / answer.seconds, answer.unit)),
    tile("rate in the last minute", rates ? scaled(rates.bytes * 8, "bit/s") : "–"),
    tile("packets in the last minute", rates ? `${scaled(rates.packets)}/s` : "–"),
    tile("flow records in the last minute", rates ? `${scaled(rates.records)}/s` : "–"),
  );
}

/** The largest values of one column, as bars. */
function ranking(answer, ctx) {
  const [dimension] = answer.dimensions;
  const marks = new Map();
  const named = answer.rows.filter((row) => !dimension.values[row.at[0]].other);
  const most = Math.max(...named.map((row) => row.value), 1e-9); // Other may be more; then its bar is full
  const bars = answer.rows.map((row) => {
    const value = dimension.values[row.at[0]];
    const key = value.other ? "\u0000other" : value.label;
    const said = [value.label, bounded(row.value, row.error, answer.unit), `${percent(row.value / answer.total.value)} of all`];
    const filters = value.filter ? [value.filter] : [];
    const attributes = mark(marks, key, "talker", value, said, filters);
    return h(
      "div", { ...attributes, css: { ...attributes.css, "--part": Math.min(1, row.value / most) } },
      h("span", { class: "name" }, value.label), h("span", { class: "figure" }, bounded(row.value, row.error, answer.unit)),
    );
  });
  const list = h("div", { class: "talkers", role: "group", "aria-label": `Largest by ${column(dimension.column)}` }, bars);
  interactive(list, marks, { choose: ctx.choose });
  const title = `Top ${column(dimension.column)}`;
  return card(title, null, bars.length ? list : h("p", { class: "muted" }, "Nothing in this range."));
}

function health({ ready, sinks, uptime, version, history }) {
  const problems = ready.map((problem) => h("li", {}, badge("bad", "not ready"), problem));
  const outputs = sinks.map(({ name, records, errors, failing }) => h(
    "li", {}, failing == null ? badge("other", "idle") : failing ? badge("bad", "failing") : badge("good", "works"), h(
      "strong", {}, name,
    ),
    h("span", { class: "muted" }, `${whole(records)} records${errors ? `, ${whole(errors)} errors` : ""}`),
  ));
  const age = history.newest != null && history.oldest != null ? duration(history.newest - history.oldest) : "nothing yet";
  return card(
    "Health", ready.length ? badge("bad", "not ready") : badge("good", "ready"),
    h("ul", { class: "facts" }, problems, outputs,
      h(
        "li", {}, h("span", { class: "muted" }, "History"),
        `${age}, ${whole(history.windows)} windows, ${whole(history.rows)} rows`,
      ),
      h("li", {}, h("span", { class: "muted" }, "Agent"), `${version}, up ${duration(uptime)}`)),
  );
}

function sources(exporters, ctx) {
  const lost = exporters.reduce((sum, each) => sum + each.lost_records, 0);
  const rows = exporters.slice(0, 6).map(({ exporter, protocol, records, lost_records: gone }) => h(
    "li", {}, h("strong", {}, exporter), h(
      "span", { class: "muted" }, `${protocol}, ${whole(records)} records`,
    ), gone > 0 && badge("warn", `${whole(gone)} lost`),
  ));
  const loss = lost ? badge("warn", `${whole(lost)} records lost`) : badge("good", "no loss");
  const all = h("a", { href: ctx.link({ view: "exporters" }) }, `all ${exporters.length} →`);
  return card(
    "Exporters", [loss, all],
    rows.length ? h("ul", { class: "facts" }, rows) : h("p", { class: "muted" }, "Nobody has sent anything yet."),
  );
}
