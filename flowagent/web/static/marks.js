// Marks: parts of a chart that can be pointed at, focused and chosen.
//
// A chart is one stop of the Tab key; arrows go from mark to mark. A click or Enter keeps what a mark stands for,
// with Shift it rules that out. Hovering or focusing shows the mark's sentence.

import { byId, h, say } from "./dom.js";

const ATTRIBUTE = "data-mark";
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/**
 * Attributes that make an element of class `kind` a mark for a value, whose tone it has. `marks` learns what it says
 * and does; `key` stays the same over redraws.
 */
export function mark(marks, key, kind, value, lines, filters, more = {}) {
  marks.set(key, { lines, filters, ...more });
  const can = filters.length > 0;
  const look = tone(value);
  return {
    [ATTRIBUTE]: key, class: `${kind} ${can ? "mark" : "mark fixed"} ${look.class}`, css: look.css,
    role: can ? "button" : "img", tabindex: "-1",
    "aria-label": lines.join(", ") + (can ? ". Enter filters, Shift+Enter excludes." : "."),
  };
}

/**
 * Make the marks within `chart` work. `marks` tells of each key its `lines` and `filters`; `choose(filters, exclude)`
 * is called for those that have some; `point(key | null)` where one is pointed at.
 */
export function interactive(chart, marks, { choose, point }) {
  const all = () => [...chart.querySelectorAll(`[${ATTRIBUTE}]`)];
  const keyOf = (event) => event.target.closest?.(`[${ATTRIBUTE}]`)?.getAttribute(ATTRIBUTE);
  const act = (key, exclude) => {
    const { filters, lines } = marks.get(key);
    if (!filters.length) return;
    say(`${exclude ? "Excluded" : "Filtered by"} ${lines[0]}`);
    hide();
    choose(filters, exclude);
  };
  const show = (key, place) => {
    tip(marks.get(key), place);
    point?.(key);
  };
  const leave = () => {
    hide();
    point?.(null);
  };
  chart.addEventListener("click", (event) => {
    const key = keyOf(event);
    if (key != null) act(key, event.shiftKey);
  });
  chart.addEventListener("pointermove", (event) => {
    const key = keyOf(event);
    if (key == null) leave();
    else show(key, { x: event.clientX, y: event.clientY });
  });
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("focusin", (event) => {
    const key = keyOf(event);
    if (key == null) return;
    for (const other of chart.querySelectorAll(`[${ATTRIBUTE}][tabindex="0"]`)) other.setAttribute("tabindex", "-1");
    event.target.setAttribute("tabindex", "0");
    const box = event.target.getBoundingClientRect();
    if (event.target.matches(":focus-visible")) show(key, { x: box.left + box.width / 2, y: box.top + box.height / 2 });
  });
  chart.addEventListener("focusout", leave);
  chart.addEventListener("keydown", (event) => {
    const key = keyOf(event);
    if (key == null) return;
    if (event.key === "Enter" || event.key === " ") act(key, event.shiftKey);
    else if (event.key === "Escape") leave();
    else if (event.key in STEPS || event.key === "Home" || event.key === "End") step(all(), event);
    else return;
    event.preventDefault();
  });
  all()[0]?.setAttribute("tabindex", "0");
}

function step(marks, event) {
  const at = marks.indexOf(event.target.closest(`[${ATTRIBUTE}]`));
  const last = marks.length - 1;
  const next = event.key === "Home" ? 0 : event.key === "End" ? last : at + STEPS[event.key];
  marks[Math.min(Math.max(next, 0), last)].focus();
}

function tip({ lines, filters }, { x, y }) {
  const box = byId("tip");
  const hint = filters.length ? "click filters · shift-click excludes" : "";
  box.replaceChildren(
    h("strong", {}, lines[0]), ...lines.slice(1).map((line) => h("div", {}, line)), hint && h("div", { class: "hint" }, hint),
  );
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
  box.style.top = `${y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18}px`;
}

export function hide() {
  byId("tip").hidden = true;
}

// Hues far apart come first; a label keeps its hue while the page is open, so it has the same in every view.
const HUES = [255, 45, 155, 320, 95, 205, 15, 285, 125, 350, 70, 180];
const hues = new Map();

/** The class and the hue of a value. What is unknown and what is folded have no hue. */
export function tone(value) {
  if (value.other) return { class: "other", css: {} };
  if (value.unknown) return { class: "unknown", css: {} };
  if (!hues.has(value.label)) hues.set(value.label, HUES[hues.size % HUES.length]);
  return { class: "hued", css: { "--hue": hues.get(value.label) } };
}
