// What stands above every view: navigation, live and theme switches, time range, measure, and the filter's parts.

import { button, byId, choice, h, replace, say, select } from "./dom.js";
import { clock, local, MEASURES } from "./format.js";
import { isLive, isMoving, located } from "./state.js";

const RANGES = [["-5m", "5 min"], ["-15m", "15 min"], ["-1h", "1 h"]];
let draft = ""; // what was typed and not added yet
const THEMES = [["", "auto"], ["light", "light"], ["dark", "dark"]];

export function navigation(views, ctx) {
  replace(byId("views"), ...Object.entries(views).map(([name, { title }]) =>
    h("a", { href: ctx.link({ view: name }), "aria-current": name === ctx.state.view ? "page" : null }, title),
  ));
}

export function tools(ctx, redraw) {
  const chosen = document.documentElement.dataset.theme ?? "";
  const theme = (value) => {
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    try {
      if (value) localStorage.setItem("flowagent-theme", value);
      else localStorage.removeItem("flowagent-theme");
    } catch {
      // without storage it holds until the page is closed
    }
    tools(ctx, redraw);
    redraw();
  };
  const live = isLive(ctx.state);
  const label = isMoving(ctx.state) ? "Live" : "Live (the range is fixed)";
  replace(
    byId("tools"),
    h("button", {
      type: "button", class: "live", role: "switch", "aria-checked": String(live), "aria-label": label,
      disabled: !isMoving(ctx.state),
      on: { click: () => ctx.go({ live: live ? "0" : "1" }) },
    }, h("span", { class: "lamp" }), "Live"),
    choice("Theme", THEMES, chosen, theme),
  );
}

/** The second row. `problem` is an error of the filter, with its position. */
export function bar(ctx, measures, problem) {
  const { state } = ctx;
  const units = measures.map(({ name }) => [name, MEASURES[name] ?? name]);
  replace(
    byId("bar"),
    h("div", { class: "row" },
      range(ctx), select("Measure", units, state.measure, (measure) => ctx.go({ measure }), false), entry(ctx)),
    ...(state.filters.length ? [crumbs(ctx, problem)] : []),
    ...(problem ? [mistake(state, problem)] : []),
  );
}

function range(ctx) {
  const { state } = ctx;
  const fixed = !isMoving(state);
  const offered = RANGES.some(([value]) => value === state.from) || fixed ? RANGES : [
    ...RANGES, [state.from, state.from.slice(1)],
  ];
  const set = (from) => ctx.go({ from, to: "now" });
  return h("div", { class: "range" }, choice("Time range", offered, fixed ? "" : state.from, set), times(ctx, fixed));
}

function times(ctx, fixed) {
  const { state } = ctx;
  const now = Date.now() / 1000;
  const input = (name, value) => h(
    "input", { type: "datetime-local", step: 1, name, "aria-label": name, value: local(value), required: true },
  );
  const submit = (event) => {
    event.preventDefault();
    const [from, to] = ["from", "to"].map((name) => new Date(event.target.elements[name].value).getTime() / 1000);
    if (from < to) ctx.go({ from: String(from), to: String(to) });
    else say("The range must begin before it ends");
  };
  const [from, to] = fixed ? [Number(state.from), Number(state.to)] : [now - 900, now];
  return h(
    "details", { class: fixed ? "times chosen" : "times" }, h("summary", {}, fixed ? `${clock(from)} – ${clock(to)}` : "fixed"),
    h(
      "form", { on: { submit } }, input("from", from), h("span", { "aria-hidden": "true" }, "–"), input("to", to),
      h("button", { type: "submit" }, "Show"),
    ),
  );
}

function entry(ctx) {
  const input = h("input", {
    type: "text", name: "filter", value: draft, on: {
      input: (event) => (draft = event.target.value)
    }, id: "filter", "aria-label": "Add a filter", spellcheck: "false", autocomplete: "off",
    placeholder: "Filter: dst_port == 443 and not src_addr in 10.0.0.0/8",
  });
  const submit = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    draft = "";
    if (text) ctx.go({ filters: [...new Set([...ctx.state.filters, text])] });
  };
  return h("form", { class: "filter", on: { submit } }, input, h("button", { type: "submit" }, "Add"));
}

function crumbs(ctx, problem) {
  const { filters } = ctx.state;
  const wrong = problem?.position == null ? -1 : located(filters, problem.position).index;
  const without = (index) => filters.toSpliced(index, 1);
  const items = filters.map((filter, index) => {
    const excluded = filter.startsWith("not ");
    const edit = () => {
      draft = filter;
      byId("filter").focus();
      ctx.go({ filters: without(index) });
    };
    return h(
      "li", { class: `crumb${excluded ? " excluded" : ""}${index === wrong ? " wrong" : ""}` },
      button(filter, edit, { title: "Change it" }),
      button("×", () => ctx.go({ filters: without(index) }), { class: "cross", "aria-label": `Remove ${filter}` }),
    );
  });
  const all = filters.length > 1 && h("li", {}, button("Remove all", () => ctx.go({ filters: [] }), { class: "quiet" }));
  return h("ul", { class: "crumbs", "aria-label": "Filters that hold" }, items, all);
}

/** The part that is wrong, with the place marked, and what is wrong with it. */
function mistake({ filters }, { message, position }) {
  const what = message.split("\n")[0];
  if (position == null || !filters.length) return h("div", { class: "mistake", role: "alert" }, what);
  const { index, position: place } = located(filters, position);
  const part = filters[index];
  const at = h("mark", {}, part.slice(place, place + 1) || " ");
  return h(
    "div", { class: "mistake", role: "alert" }, h("code", {}, part.slice(0, place), at, part.slice(place + 1)),
    h("span", {}, what),
  );
}

