// Tables: the twin of every chart, sortable, as CSV, and in words for those who do not see it.

import { h } from "./dom.js";
import { amount, column, margin, percent, rate } from "./format.js";

const SHOWN = 25;
const opened = new Set();

/**
 * A table. `columns` have `key`, `label`, and may have `number` (right-aligned), `text(row)` (what a cell says, a
 * node or a string) and `plain` (its value for sorting and CSV; null where nothing is known). `sort` is "key" or
 * "-key", descending; `resort(sort)` is called when a heading is chosen.
 */
export function table({ caption, columns, rows, sort = "", resort = null, file = "flows", wide = false }) {
  const sorted = order(rows, columns, sort);
  const isShort = rows.length <= SHOWN + 5 || opened.has(caption);
  const body = h("tbody", {}, sorted.slice(0, isShort ? undefined : SHOWN).map((row) => line(row, columns)));
  const heads = columns.map((each) => heading(each, sort, resort));
  const more = !isShort && h(
    "button",
    {
      type: "button", class: "quiet",
      on: {
        click: (event) => {
          opened.add(caption);
          body.append(...sorted.slice(SHOWN).map((row) => line(row, columns)));
          event.target.remove();
        },
      },
    },
    `Show all ${rows.length} rows`,
  );
  const download = h("button", { type: "button", class: "quiet", on: { click: () => save(csv(columns, sorted), file) } }, "CSV");
  return h(
    "section", { class: wide ? "card twin wide" : "card twin" },
    h("div", { class: "cardhead" }, h("h2", {}, caption), rows.length > 0 && download),
    rows.length
      ? h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, h("table", {}, h("thead", {}, h("tr", {}, heads)), body))
      : h("p", { class: "muted" }, "Nothing."),
    more,
  );
}

function heading({ key, label, number }, sort, resort) {
  const direction = sort === key ? "ascending" : sort === `-${key}` ? "descending" : null;
  const next = direction === "descending" ? key : direction || !number ? (direction ? `-${key}` : key) : `-${key}`;
  const inner = resort ? h("button", { type: "button", class: "sorter", on: { click: () => resort(next) } }, label) : label;
  return h("th", { scope: "col", class: number && "number", "aria-sort": direction }, inner);
}

function line(row, columns) {
  return h("tr", {}, columns.map(({ number, text, plain }) => {
    const said = text ? text(row) : plain(row);
    return h("td", { class: number && "number" }, said ?? h("span", { class: "muted" }, "unknown"));
  }));
}

function order(rows, columns, sort) {
  const key = sort.replace(/^-/, "");
  const by = columns.find((each) => each.key === key);
  if (!by) return rows;
  const sign = sort.startsWith("-") ? -1 : 1;
  return rows.toSorted((a, b) => {
    const [x, y] = [by.plain(a), by.plain(b)];
    if (x == null || y == null) return (x == null) - (y == null);
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  });
}

/** RFC 4180: what is unknown is empty. Texts that a spreadsheet would run as a formula begin with an apostrophe. */
export function csv(columns, rows) {
  const field = (value) => {
    if (value == null) return "";
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [columns.map(({ key }) => key), ...rows.map((row) => columns.map(({ plain }) => plain(row)))];
  return lines.map((cells) => cells.map(field).join(",")).join("\r\n") + "\r\n";
}

function save(text, file) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  h("a", { href: url, download: `${file}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** A value of a column as a button that filters by it. */
export function chip(value, choose) {
  if (value.other) return h("span", { class: "muted" }, "Other");
  const label = value.unknown ? h("em", { class: "muted" }, "unknown") : value.label;
  if (!value.filter) return label;
  const click = (event) => choose([value.filter], event.shiftKey);
  return h("button", { type: "button", class: "chip", title: `${value.filter}: click filters, shift-click excludes`, on: { click } }, label);
}

/** The rows of an answer: a column for each dimension, the amount, its bound and its share. */
export function rowsTable(answer, ctx, caption = "The same numbers as a table") {
  const { unit, total, seconds } = answer;
  const at = (row, index) => answer.dimensions[index].values[row.at[index]];
  const columns = answer.dimensions.map((dimension, index) => ({
    key: dimension.column, label: column(dimension.column),
    text: (row) => chip(at(row, index), ctx.choose),
    plain: (row) => (at(row, index).unknown ? null : at(row, index).label),
  }));
  columns.push(
    { key: answer.measure, label: answer.measure.replace("_", " "), number: true, text: (row) => amount(row.value, unit), plain: (row) => row.value },
    { key: "error", label: "95 % bound", number: true, text: (row) => margin(row.value, row.error, answer.certain), plain: (row) => row.error },
    { key: "rate", label: "mean rate", number: true, text: (row) => rate(row.value / seconds, unit), plain: (row) => row.value / seconds },
    { key: "share", label: "share", number: true, text: (row) => share(row.value / total.value), plain: (row) => (total.value ? row.value / total.value : null) },
  );
  return table({
    caption, columns, rows: answer.rows, sort: ctx.state.sort, resort: (sort) => ctx.go({ sort }), file: `flows-${answer.measure}`, wide: true,
  });
}

function share(part) {
  const bar = h("span", { class: "meter", css: { "--part": Number.isFinite(part) ? part : 0 } });
  return h("span", { class: "share" }, bar, percent(part));
}

