// The table of flows: the largest combinations of columns.

import { choice, select } from "./dom.js";
import { column } from "./format.js";
import { rowsTable } from "./table.js";

const DEFAULT = ["src_addr", "dst_addr", "dst_port", "proto"];
const TOPS = [50, 200, 1000];

export const view = {
  title: "Flows",

  columns(state, columns) {
    const names = columns.map(({ column: name }) => name);
    return state.columns ? state.columns.split(",") : DEFAULT.filter((name) => names.includes(name));
  },

  query(state, columns) {
    return { dimensions: this.columns(state, columns).join(","), fold: "row", top: state.top || "50" };
  },

  controls(ctx) {
    const chosen = this.columns(ctx.state, ctx.columns);
    const options = ctx.columns.map(({ column: name }) => [name, column(name)]);
    const set = (index) => (name) => ctx.go({ columns: (name ? chosen.toSpliced(index, 1, name) : chosen.toSpliced(index, 1)).join(","), sort: "" });
    const pickers = chosen.map((name, index) => {
      const free = options.filter(([option]) => option === name || !chosen.includes(option));
      return select(`Column ${index + 1}`, [...free, ...(chosen.length > 1 ? [["", "(remove)"]] : [])], name, set(index), false);
    });
    const spare = options.filter(([name]) => !chosen.includes(name));
    const add = chosen.length < 4 && select("Add a column", [["", "+ column"], ...spare], "", set(chosen.length), false);
    const top = TOPS.map((n) => [String(n), `top ${n}`]);
    return [...pickers, add, choice("How many rows", top, ctx.state.top || "50", (value) => ctx.go({ top: value === "50" ? "" : value }))];
  },

  render(answer, ctx) {
    return [rowsTable(answer, ctx, "Flows")];
  },
};
