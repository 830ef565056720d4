// The table of flows: the largest combinations of columns.

import { columnPickers, topPicker } from "./pickers.js";
import { rowsTable } from "./table.js";

const DEFAULT = ["src_addr", "dst_addr", "dst_port", "proto"];
const TOPS = ["50", "200", "1000"];
const USUAL = "50";

export const view = {
  title: "Flows",

  columns(state, columns) {
    const names = columns.map(({ column: name }) => name);
    return state.columns ? state.columns.split(",") : DEFAULT.filter((name) => names.includes(name));
  },

  query(state, columns) {
    return { dimensions: this.columns(state, columns).join(","), fold: "row", top: state.top || USUAL };
  },

  controls(ctx) {
    return [...columnPickers(ctx, this.columns(ctx.state, ctx.columns), 1), topPicker(ctx, TOPS, USUAL)];
  },

  render(answer, ctx) {
    return [rowsTable(answer, ctx, "Flows")];
  },
};
