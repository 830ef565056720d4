// The chord diagram: who sends to whom, in one circle.

import { h, s, select } from "./dom.js";
import { layout } from "./chord-layout.js";
import { amount, bounded, entity, percent } from "./format.js";
import { interactive, mark } from "./marks.js";
import { topPicker } from "./pickers.js";
import { rowsTable } from "./table.js";

const PREFERRED = ["k8s_namespace", "subnet_label", "addr"];
const TOPS = ["5", "10", "20", "30"];
const USUAL = "10";
const RADIUS = 270;
const BAND = 16;
const LABELS = 96;

/** What both a source and a destination column tell apart. */
export function pairs(columns) {
  const names = new Set(columns.map(({ column }) => column));
  return [...names].filter((name) => name.startsWith("src_") && names.has(`dst_${name.slice(4)}`)).map((name) => name.slice(4));
}

export const view = {
  title: "Chord",

  entity(state, columns) {
    const offered = pairs(columns);
    return offered.includes(state.columns) ? state.columns : (PREFERRED.find((name) => offered.includes(name)) ?? offered[0]);
  },

  query(state, columns) {
    const chosen = this.entity(state, columns);
    return { dimensions: `src_${chosen},dst_${chosen}`, fold: "dimension", top: state.top || USUAL };
  },

  controls(ctx) {
    const options = pairs(ctx.columns).map((name) => [name, entity(name)]);
    return [
      select("Between", options, this.entity(ctx.state, ctx.columns), (columns) => ctx.go({ columns })),
      topPicker(ctx, TOPS, USUAL),
    ];
  },

  render(answer, ctx) {
    return [h("div", { class: "card chord" }, chart(answer, ctx), legend()), rowsTable(answer, ctx)];
  },
};

function chart(answer, ctx) {
  const { arcs, ribbons, total } = layout(answer);
  const { d3 } = globalThis;
  const marks = new Map();
  const side = RADIUS + LABELS;
  const outer = d3.arc().innerRadius(RADIUS - BAND).outerRadius(RADIUS);
  const inner = RADIUS - BAND - 3;
  const ribbon = d3.ribbonArrow().radius(inner).headRadius(10).padAngle(1 / inner);
  const svg = s(
    "svg",
    {
      class: "chords", viewBox: `${-side - 30} ${-side} ${2 * side + 60} ${2 * side}`, role: "group",
      "aria-label": "Chord diagram; arrow keys go from mark to mark",
    },
    s("g", {}, ribbons.map((each) => drawRibbon(each, ribbon, answer, marks))),
    s("g", {}, arcs.map((arc) => drawArc(arc, outer, answer, total, marks))),
  );
  interactive(svg, marks, { choose: ctx.choose, point: (key) => light(svg, key, marks) });
  return svg;
}

function drawRibbon({ source, target, from, to, value, variance }, ribbon, answer, marks) {
  const key = `${from.key}>${to.key}`;
  const filters = [from.sends, to.receives].filter(Boolean);
  const said = [`${from.value.label} → ${to.value.label}`, bounded(value, Math.sqrt(variance), answer.unit)];
  if (answer.total.value > 0) said.push(`${percent(value / answer.total.value)} of what is shown`);
  const attributes = mark(marks, key, "ribbon", from.value, said, filters, { ends: [from.key, to.key] });
  return s("path", { ...attributes, d: ribbon({ source, target }) });
}

function drawArc(arc, outer, answer, total, marks) {
  const { value, key, sends, receives } = arc.entity;
  const said = [
    value.label, `sent ${amount(arc.entity.out, answer.unit)} (dark)`, `received ${amount(arc.entity.in, answer.unit)} (light)`,
  ];
  // One filter for both ways: not (neither).
  const filters = sends && receives ? [`${sends} or ${receives}`] : [sends ?? receives].filter(Boolean);
  const middle = (arc.startAngle + arc.endAngle) / 2;
  const right = middle < Math.PI;
  const turn = (middle * 180) / Math.PI - 90;
  const label = value.label.length > 18 ? `${value.label.slice(0, 17)}…` : value.label;
  const seen = arc.endAngle - arc.startAngle > 0.02 || total === 0;
  return s(
    "g", mark(marks, key, "arc", value, said, filters, { ends: [key] }),
    s("path", { class: "in", d: outer(arc.in) }),
    s("path", { class: "out", d: outer(arc.out) }),
    seen && s("text", {
      transform: `rotate(${turn}) translate(${RADIUS + 8},0) ${right ? "" : "rotate(180)"}`, dy: "0.35em",
      "text-anchor": right ? "start" : "end",
    }, label),
  );
}

function legend() {
  return h(
    "ul", { class: "legend" },
    h("li", {}, h("span", { class: "swatch out" }), "dark band: sent"),
    h("li", {}, h("span", { class: "swatch in" }), "light band: received"),
    h("li", {}, h("span", { class: "swatch flow" }), "ribbon: in the sender's colour, its arrow at the receiver"),
  );
}

function light(svg, key, marks) {
  svg.classList.toggle("pointed", key != null);
  const ends = key == null ? [] : marks.get(key).ends;
  for (const element of svg.querySelectorAll("[data-mark]")) {
    const own = element.getAttribute("data-mark");
    const touches = ends.length === 1 ? marks.get(own).ends.includes(ends[0]) : own === key || ends.includes(own);
    element.classList.toggle("lit", key != null && touches);
  }
}
