// Controls that several views have: which columns, and how many values.

import { choice, h, select } from "./dom.js";
import { column } from "./format.js";

const MOST = 4;

/** Drop-downs for at least `least` columns, each at most once, and one more to add another. */
export function columnPickers(ctx, chosen, least, between = null) {
  const options = ctx.columns.map(({ column: name }) => [name, column(name)]);
  const free = options.filter(([name]) => !chosen.includes(name));
  const set = (index) => (name) => {
    const next = name ? chosen.toSpliced(index, 1, name) : chosen.toSpliced(index, 1);
    ctx.go({ columns: next.join(","), sort: "" });
  };
  const pickers = chosen.map((name, index) => {
    const offered = options.filter((option) => option[0] === name || free.includes(option));
    const none = chosen.length > least ? [["", "(remove)"]] : [];
    return select(`Column ${index + 1}`, [...offered, ...none], name, set(index), false);
  });
  const more = chosen.length < MOST && free.length > 0;
  const add = more && select("Add a column", [["", "+ column"], ...free], "", set(chosen.length), false);
  const arrow = () => between && h("span", { class: "arrow", "aria-hidden": "true" }, between);
  return [...pickers.flatMap((picker, index) => (index ? [arrow(), picker] : [picker])), add];
}

/** How many values or rows; `usual` is what there are without a word in the address. */
export function topPicker(ctx, counts, usual) {
  const options = counts.map((count) => [count, `top ${count}`]);
  return choice("How many", options, ctx.state.top || usual, (top) => ctx.go({ top: top === usual ? "" : top }));
}
