// All that a page shows is in its address: #/VIEW?name=value. Here it is read, written and changed.

const DEFAULTS = { from: "-15m", to: "now", measure: "bytes", top: "", columns: "", live: "1", sort: "" };

/** The state that an address stands for; what is left out has its default. */
export function parse(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?", 2);
  const given = new URLSearchParams(query ?? "");
  const state = { view: path || "overview", filters: given.getAll("filter").filter(Boolean) };
  for (const [name, value] of Object.entries(DEFAULTS)) state[name] = given.get(name) ?? value;
  return state;
}

/** The address of a state. */
export function format(state) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (state[name] !== value) query.set(name, state[name]);
  for (const filter of state.filters) query.append("filter", filter);
  const text = query.toString();
  return `#/${state.view}${text && `?${text}`}`;
}

/** Whether the range moves with the time. */
export const isMoving = (state) => state.to === "now";
export const isLive = (state) => isMoving(state) && state.live === "1";

/** One filter of all parts, and where each part begins in it. */
export function combined(filters) {
  if (filters.length === 1) return { text: filters[0], starts: [0] };
  const starts = [];
  let text = "";
  for (const filter of filters) {
    text += text ? " and (" : "(";
    starts.push(text.length);
    text += `${filter})`;
  }
  return { text, starts };
}

/** The part that a position in the combined filter lies in, and the position there. */
export function located(filters, position) {
  const { starts } = combined(filters);
  const index = Math.max(0, starts.findLastIndex((start) => start <= position));
  return { index, position: Math.min(Math.max(position - (starts[index] ?? 0), 0), filters[index]?.length ?? 0) };
}

const columnOf = (filter) => /^(\w+) ==? /.exec(filter)?.[1];
const negated = (filter) => `not (${filter})`;

/** The filters with more that must hold; a value of a column gives way to another of the same column. */
export function including(filters, more) {
  const columns = new Set(more.map(columnOf).filter(Boolean));
  const gone = new Set(more.map(negated));
  const kept = filters.filter((filter) => !gone.has(filter) && !columns.has(columnOf(filter)));
  return [...new Set([...kept, ...more])];
}

/** The filters with all of `more` together ruled out. */
export function excluding(filters, more) {
  if (!more.length) return filters;
  const all = more.length === 1 ? more[0] : more.map((filter) => `(${filter})`).join(" and ");
  return [...new Set([...filters.filter((filter) => filter !== all), negated(all)])];
}

/** Parameters of a query that the state's range, filters and measure make, with those of a view. */
export function parameters(state, more) {
  const { text } = combined(state.filters);
  return { from: state.from, to: state.to, measure: state.measure, ...(text && { filter: text }), ...more };
}

/**
 * An answer with `since` and `seconds`, the part of its range that the history knows: steps before that are unknown,
 * not nothing.
 * `certain` says how good a number without a bound is.
 */
export function withinHistory(answer) {
  const { oldest } = answer.history;
  const since = Math.min(Math.max(answer.from, oldest ?? answer.from), answer.to);
  const seconds = Math.max(answer.to - since, answer.step ?? answer.history.step ?? 1);
  const known = answer.times?.map((time) => oldest != null && time >= oldest - 0.001);
  const cut = (sum) => (known ? { ...sum, series: sum.series.map((value, index) => (known[index] ? value : null)) } : sum);
  const certain = answer.unscaled || answer.prescaled ? "not known" : "exact";
  return { ...answer, since, seconds, certain, total: cut(answer.total), rows: answer.rows.map(cut) };
}
