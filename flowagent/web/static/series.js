// Rates over time, one line for each of the largest, with their error bands.

import { h, note, select } from "./dom.js";
import { amount, bounded, clock, column, rate } from "./format.js";
import { interactive, mark } from "./marks.js";
import { topPicker } from "./pickers.js";
import { linesOf, plotted, stepFor } from "./plot.js";
import { figure, table, word } from "./table.js";

const PREFERRED = ["src_k8s_namespace", "src_subnet_label", "src_addr"];
const TOPS = ["3", "5", "8", "12"];
const USUAL = "5";

export const rangeOf = (state) => {
  const units = { s: 1, m: 60, h: 3600 };
  const moment = (text) => {
    const [, count, unit] = /^-(\d+)([smh])$/.exec(text) ?? [];
    return count ? Date.now() / 1000 - count * units[unit] : text === "now" ? Date.now() / 1000 : Number(text);
  };
  return Math.max(1, moment(state.to) - moment(state.from));
};

export const view = {
  title: "Time series",

  columns(state, columns) {
    if (state.columns) return state.columns === "none" ? [] : state.columns.split(",");
    const names = columns.map(({ column: name }) => name);
    return [PREFERRED.find((name) => names.includes(name)) ?? names[0]];
  },

  query(state, columns, history) {
    const step = stepFor(rangeOf(state), history.step || 10);
    const dimensions = this.columns(state, columns).join(",");
    return { ...(dimensions && { dimensions }), fold: "row", top: state.top || USUAL, step: `${step}s` };
  },

  controls(ctx) {
    const options = [["none", "nothing: the total"], ...ctx.columns.map(({ column: name }) => [name, column(name)])];
    return [
      select("A line for each", options, this.columns(ctx.state, ctx.columns)[0] ?? "none", (columns) => ctx.go({ columns })),
      topPicker(ctx, TOPS, USUAL),
    ];
  },

  render(answer, ctx) {
    const lines = linesOf(answer);
    const said = `Rates from ${clock(answer.since)} to ${clock(answer.to)}; the table below has the numbers`;
    const hint = "Drag over the chart to choose a range. Bands are 95 % bounds, those of the whole range shared out by volume.";
    const room = plotted(ctx, answer, lines, 340, said);
    const card = h("div", { class: "card" }, room, key(lines, answer, ctx), note(hint));
    return [card, numbers(lines, answer)];
  },
};

/** The legend: each line's name and amount, a mark like those of other charts. */
function key(lines, answer, ctx) {
  const marks = new Map();
  const entries = lines.map(({ label, look, value, row, filters }, index) => {
    const amounts = bounded(row.value, row.error, answer.unit);
    return h(
      "span", mark(marks, String(index), "entry", value, [label, amounts], filters),
      h("span", { class: `dot ${look.class}`, css: look.css }), label, h("span", { class: "muted" }, amounts),
    );
  });
  const list = h("div", { class: "key", role: "group", "aria-label": "Lines" }, entries);
  interactive(list, marks, { choose: ctx.choose });
  return list;
}

function numbers(lines, answer) {
  const columns = [
    word("time", "from", (index) => answer.times[index], (index) => clock(answer.times[index])),
    ...lines.map(({ label, row }) => figure(label, label, (index) => row.series[index], (index) => {
      const value = row.series[index];
      return value == null ? null : h("span", { title: amount(value, answer.unit) }, rate(value / answer.step, answer.unit));
    })),
  ];
  const rows = answer.times.map(
    (_, index) => answer.times.length - 1 - index
  ).filter((index) => answer.total.series[index] != null);
  return table({ caption: "The same numbers as a table, newest first", columns, rows, file: `series-${answer.measure}` });
}
