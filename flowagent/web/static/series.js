// Rates over time, one line for each of the largest, with their error bands.

import { choice, h, select } from "./dom.js";
import { amount, bounded, clock, column, rate } from "./format.js";
import { interactive, mark } from "./marks.js";
import { linesOf, plot, stepFor } from "./plot.js";
import { table } from "./table.js";

const PREFERRED = ["src_k8s_namespace", "src_subnet_label", "src_addr"];
const TOPS = [3, 5, 8, 12];

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
    return { ...(dimensions && { dimensions }), fold: "row", top: state.top || "5", step: `${step}s` };
  },

  controls(ctx) {
    const options = [["none", "nothing: the total"], ...ctx.columns.map(({ column: name }) => [name, column(name)])];
    const top = TOPS.map((n) => [String(n), `top ${n}`]);
    return [
      select("A line for each", options, this.columns(ctx.state, ctx.columns)[0] ?? "none", (columns) => ctx.go({ columns })),
      choice("How many lines", top, ctx.state.top || "5", (value) => ctx.go({ top: value === "5" ? "" : value })),
    ];
  },

  render(answer, ctx) {
    const lines = linesOf(answer);
    const room = h("div", { class: "plot", role: "img", "aria-label": `Rates from ${clock(answer.since)} to ${clock(answer.to)}; the table below has the numbers` });
    const card = h("div", { class: "card" }, room, key(lines, answer, ctx), h("p", { class: "muted small" }, "Drag over the chart to choose a range. Bands are 95 % bounds, those of the whole range shared out by volume."));
    ctx.after(() => plot(room, answer, lines, { height: 340, brush: (from, to) => ctx.go({ from: from.toFixed(1), to: to.toFixed(1) }) }));
    return [card, numbers(lines, answer)];
  },
};

/** The legend: each line's name and amount, a mark like those of other charts. */
export function key(lines, answer, ctx) {
  const marks = new Map();
  const entries = lines.map(({ label, look, row, filters }, index) => {
    const said = [label, bounded(row.value, row.error, answer.unit)];
    marks.set(String(index), { lines: said, filters });
    const { class: marked, ...attributes } = mark(String(index), said, filters);
    return h(
      "span", { ...attributes, class: `entry ${marked}` }, h("span", { class: `dot ${look.class}`, css: look.css }), label,
      h("span", { class: "muted" }, bounded(row.value, row.error, answer.unit)),
    );
  });
  const list = h("div", { class: "key", role: "group", "aria-label": "Lines" }, entries);
  interactive(list, marks, { choose: ctx.choose });
  return list;
}

function numbers(lines, answer) {
  const columns = [
    { key: "time", label: "from", text: (index) => clock(answer.times[index]), plain: (index) => answer.times[index] },
    ...lines.map(({ label, row }) => ({
      key: label, label, number: true,
      text: (index) => (row.series[index] == null ? null : h("span", { title: amount(row.series[index], answer.unit) }, rate(row.series[index] / answer.step, answer.unit))),
      plain: (index) => row.series[index],
    })),
  ];
  const rows = answer.times.map((_, index) => answer.times.length - 1 - index).filter((index) => answer.total.series[index] != null);
  return table({ caption: "The same numbers as a table, newest first", columns, rows, file: `series-${answer.measure}`, wide: true });
}
