// The Sankey: chosen columns side by side, and what goes from each value to the next.

import { h, s } from "./dom.js";
import { bounded, column, percent } from "./format.js";
import { interactive, mark } from "./marks.js";
import { columnPickers, topPicker } from "./pickers.js";
import { layout } from "./sankey-layout.js";
import { rowsTable } from "./table.js";

const PREFERRED = [
  ["src_k8s_namespace", "src_k8s_owner_name", "dst_k8s_owner_name", "dst_k8s_namespace"],
  ["src_subnet_label", "dst_subnet_label", "service"],
  ["src_subnet_label", "dst_subnet_label", "dst_port"],
  ["src_addr", "dst_addr", "service"],
  ["src_addr", "dst_addr", "dst_port"],
];
const MARGIN = 168;
const LEAST = 190; // from one column to the next, so that labels have room
const TOPS = ["5", "10", "20", "50"];
const USUAL = "10";

/** Columns to begin with: the first of these that history can tell apart. */
function defaults(columns) {
  const names = columns.map(({ column: name }) => name);
  return PREFERRED.find((group) => group.every((name) => names.includes(name))) ?? names.slice(0, 2);
}

export const view = {
  title: "Sankey",
  columns: (state, columns) => (state.columns ? state.columns.split(",") : defaults(columns)),

  query(state, columns) {
    const chosen = this.columns(state, columns);
    return { dimensions: chosen.join(","), fold: "dimension", top: state.top || USUAL };
  },

  controls(ctx) {
    return [...columnPickers(ctx, this.columns(ctx.state, ctx.columns), 2, "→"), topPicker(ctx, TOPS, USUAL)];
  },

  render(answer, ctx) {
    return [h("div", { class: "card wide" }, chart(answer, ctx)), rowsTable(answer, ctx)];
  },
};

function chart(answer, ctx) {
  const last = answer.dimensions.length - 1;
  const width = Math.max(ctx.width - 42, 2 * MARGIN + last * LEAST); // a narrower window scrolls
  const heading = 26;
  const placed = layout(answer, width - 2 * MARGIN);
  const height = placed.height + heading;
  const names = answer.dimensions.map((dimension) => column(dimension.column));
  const marks = new Map();
  const links = s("g", { class: "links", fill: "none" }, placed.links.map((link) => drawLink(link, answer, marks)));
  const nodes = s("g", {}, placed.nodes.map((node) => drawNode(node, answer, marks)));
  const headings = answer.dimensions.map((dimension, index) => {
    const x = (index / last) * (placed.width - 14) + 7;
    return s("text", { class: "heading", x, y: -heading / 2, "text-anchor": "middle" }, column(dimension.column));
  });
  const svg = s(
    "svg",
    {
      class: "sankey", viewBox: `${-MARGIN} ${-heading} ${width} ${height}`, width, height,
      role: "group", "aria-label": `Sankey of ${names.join(", ")}; arrow keys go from mark to mark`,
    },
    s("g", {}, headings), links, nodes,
  );
  interactive(svg, marks, { choose: ctx.choose, point: (key) => light(svg, key == null ? null : marks.get(key).rows, marks) });
  return svg;
}

function drawLink(link, answer, marks) {
  const [from, to] = [link.source.of, link.target.of];
  const filters = [from.filter, to.filter].filter(Boolean);
  const said = [`${from.label} → ${to.label}`, ...amounts(link, answer)];
  return s("path", {
    ...mark(marks, link.id, "link", from, said, filters, { rows: new Set(link.rows) }),
    d: globalThis.d3.sankeyLinkHorizontal()(link), "stroke-width": Math.max(1, link.width),
  });
}

function drawNode(node, answer, marks) {
  const { label, filter } = node.of;
  const filters = filter ? [filter] : [];
  const name = answer.dimensions[node.column].column;
  const said = [`${column(name)} ${label}`, ...amounts(node, answer)];
  const last = node.column === answer.dimensions.length - 1;
  const first = node.column === 0;
  const height = Math.max(1, node.y1 - node.y0);
  const x = first ? node.x0 - 8 : node.x1 + 8;
  const y = (node.y0 + node.y1) / 2;
  const short = label.length > 24 ? `${label.slice(0, 23)}…` : label;
  const value = s("tspan", { class: "muted", dx: "6" }, bounded(node.value, 0, answer.unit));
  return s(
    "g", mark(marks, node.id, "node", node.of, said, filters, { rows: new Set(node.rows) }),
    s("rect", { x: node.x0, y: node.y0, width: node.x1 - node.x0, height, rx: 2 }),
    s(
      "text", { x, y, dy: "0.35em", "text-anchor": first ? "end" : "start", class: first || last ? "" : "halo" }, short,
      value,
    ),
  );
}

function amounts({ value, variance }, answer) {
  const parts = [bounded(value, Math.sqrt(variance), answer.unit)];
  if (answer.total.value > 0) parts.push(`${percent(value / answer.total.value)} of what is shown`);
  return parts;
}

/** Light what shares rows with a mark: the whole way of its traffic. */
function light(svg, rows, marks) {
  svg.classList.toggle("pointed", rows != null);
  for (const element of svg.querySelectorAll("[data-mark]")) {
    const own = marks.get(element.getAttribute("data-mark")).rows;
    element.classList.toggle("lit", rows != null && !own.isDisjointFrom(rows));
  }
}

