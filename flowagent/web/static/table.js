// Tables: the twin of every chart, sortable, as CSV, and in words for those who do not see it.

import { button, h } from "./dom.js";
import { amount, column, margin, percent, rate } from "./format.js";

const SHOWN = 25;
const opened = new Set();

/**
 * A column of words: `plain(row)` is a cell's value for sorting and CSV, null where nothing is known; `text(row)` what
 * the cell says where that is something else, a string or an element.
 */
export const word = (key, label, plain, text = plain) => ({ key, label, plain, text });

/** A column of numbers, right-aligned. */
export const figure = (key, label, plain, text = plain) => ({ key, label, plain, text, number: true });

/** A table that saves itself as CSV. With a `ctx` it can be sorted: the address says by what, "key" or "-key". */
export function table({ caption, columns, rows, ctx = null, file = "flows" }) {
  const sort = ctx?.state.sort ?? "";
  const resort = ctx && ((next) => ctx.go({ sort: next }));
  const sorted = order(rows, columns, sort);
  const isShort = rows.length <= SHOWN + 5 || opened.has(caption);
  const body = h("tbody", {}, sorted.slice(0, isShort ? undefined : SHOWN).map((row) => line(row, columns)));
  const heads = columns.map((each) => heading(each, sort, resort));
  const all = (event) => {
    opened.add(caption);
    body.append(...sorted.slice(SHOWN).map((row) => line(row, columns)));
    event.target.remove();
  };
  const more = !isShort && button(`Show all ${rows.length} rows`, all, { class: "quiet" });
  const download = button("CSV", () => save(csv(columns, sorted), file), { class: "quiet" });
  return h(
    "section", { class: "card twin" },
    h("div", { class: "cardhead" }, h("h2", {}, caption), rows.length > 0 && download),
    rows.length
      ? h(
        "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
        h("table", {}, h("thead", {}, h("tr", {}, heads)), body),
      )
      : h("p", { class: "muted" }, "Nothing."),
    more,
  );
}

function heading({ key, label, number }, sort, resort) {
  const direction = sort === key ? "ascending" : sort === `-${key}` ? "descending" : null;
  const next = direction === "descending" ? key : direction || !number ? (direction ? `-${key}` : key) : `-${key}`;
  const inner = resort ? button(label, () => resort(next), { class: "sorter" }) : label;
  return h("th", { scope: "col", class: number && "number", "aria-sort": direction }, inner);
}

function line(row, columns) {
  return h("tr", {}, columns.map(({ number, text }) => {
    const said = text(row);
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
    return sign * (
      typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true })
    );
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
  const title = `${value.filter}: click filters, shift-click excludes`;
  return button(label, (event) => choose([value.filter], event.shiftKey), { class: "chip", title });
}

/** The rows of an answer: a column for each dimension, the amount, its bound and its share. */
export function rowsTable(answer, ctx, caption = "The same numbers as a table") {
  const { unit, total, seconds } = answer;
  const at = (row, index) => answer.dimensions[index].values[row.at[index]];
  const columns = answer.dimensions.map((dimension, index) => word(
    dimension.column, column(dimension.column),
    (row) => (at(row, index).unknown ? null : at(row, index).label), (row) => chip(at(row, index), ctx.choose),
  ));
  columns.push(
    figure(answer.measure, answer.measure.replace("_", " "), (row) => row.value, (row) => amount(row.value, unit)),
    figure("error", "95 % bound", (row) => row.error, (row) => margin(row.value, row.error, answer.certain)),
    figure("rate", "mean rate", (row) => row.value / seconds, (row) => rate(row.value / seconds, unit)),
    figure(
      "share", "share", (row) => (total.value ? row.value / total.value : null),
      (row) => share(row.value / total.value),
    ),
  );
  return table({ caption, columns, rows: answer.rows, ctx, file: `flows-${answer.measure}` });
}

function share(part) {
  const bar = h("span", { class: "meter", css: { "--part": Number.isFinite(part) ? part : 0 } });
  return h("span", { class: "share" }, bar, percent(part));
}

