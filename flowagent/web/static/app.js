// The page: reads its address, asks the agent, and shows the view that was chosen.

import { ApiError, follow, get, keepToken, pause } from "./api.js";
import { bar, navigation, tools } from "./bar.js";
import { view as chord } from "./chord.js";
import { badge, button, byId, h, message, replace, say } from "./dom.js";
import { view as exporters } from "./exporters.js";
import { view as flows } from "./flows.js";
import { bounded, clock, duration, margin, rate } from "./format.js";
import { view as loss } from "./loss.js";
import { hide } from "./marks.js";
import { view as overview } from "./overview.js";
import { view as policies } from "./policies.js";
import { view as sankey } from "./sankey.js";
import { view as series } from "./series.js";
import { excluding, format, including, isLive, parameters, parse, withinHistory } from "./state.js";

const VIEWS = { overview, sankey, chord, series, flows, exporters, loss, policies };
const MAIN = byId("main");
const POLL_SECONDS = 5;
const STALE_SECONDS = 20;
const BUSY_MS = 150;
// Names that mean something in one view only.
const OF_A_VIEW = { columns: "", top: "", sort: "" };

let state = parse(location.hash);
let offered = null; // what the agent can tell apart: dimensions, measures, history
let running = new AbortController();
let shown = null; // the last answer of this view: { answer, extra }
let heard = 0; // when the last answer came, in ms

const change = (patch) => ({ ...state, ...(patch.view ? OF_A_VIEW : {}), ...patch });

function context(signal) {
  return {
    state, signal,
    columns: offered?.dimensions ?? [],
    history: offered?.history ?? {},
    width: byId("body")?.clientWidth ?? MAIN.clientWidth,
    link: (patch) => format(change(patch)),
    go: (patch) => (location.hash = format(change(patch))),
    choose: (filters, exclude) => (
      location.hash = format(change({ filters: (exclude ? excluding : including)(state.filters, filters) }))
    ),
    get: (path, query) => get(path, query, signal),
    ask: async (query) => withinHistory(await get("/api/v1/query", parameters(state, query), signal)),
    after: (draw) => pending.push(draw), // once what was rendered is in the page
  };
}
const pending = [];

/** Show what the address says. */
async function route() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const before = state;
  state = parse(location.hash);
  if (!Object.hasOwn(VIEWS, state.view)) state.view = "overview"; // "constructor" is no view
  const view = VIEWS[state.view];
  const same = shown != null && before.view === state.view;
  if (!same) shown = null;
  hide();
  document.title = `${view.title} · flowagent`;
  frame(view, signal, same);
  try {
    offered ??= await first(signal);
    if (!same || !MAIN.querySelector(".controls")) frame(view, signal, same);
    await run(view, signal);
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

/** What does not change while the page is open. */
async function first(signal) {
  const [columns, status] = await Promise.all([get("/api/v1/columns", {}, signal), get("/api/v1/status", {}, signal)]);
  byId("node").textContent = status.node ?? "";
  return columns;
}

/** Bars and heading; the body keeps what it shows until there is something new. */
function frame(view, signal, same) {
  const ctx = context(signal);
  navigation(VIEWS, ctx);
  tools(ctx, redraw);
  byId("bar").hidden = Boolean(view.bare);
  bar(ctx, offered?.measures ?? [{ name: state.measure }], null);
  const controls = offered && view.controls ? view.controls(ctx) : [];
  const head = h("div", { class: "head" }, h("h1", {}, view.title), h("div", { class: "summary", id: "summary" }));
  const row = h("div", { class: "controls", hidden: !controls.length }, controls);
  const old = same && byId("body");
  const body = old || h("div", { id: "body", class: "body" }, h("div", { class: "card loading", role: "status" }, "Loading…"));
  replace(MAIN, head, row, h("div", { id: "notice" }), body);
  const asked = performance.now();
  const busy = () => signal === running.signal && heard < asked && body.setAttribute("aria-busy", "true");
  if (old) setTimeout(busy, BUSY_MS);
}

/** Ask once, or again and again while the page is live. */
async function run(view, signal) {
  const ctx = context(signal);
  const once = async (answer) => {
    const extra = view.load ? await view.load(ctx) : {};
    if (!signal.aborted) show(view, answer && withinHistory(answer), extra, signal);
  };
  const asked = view.query?.(state, ctx.columns, ctx.history);
  const query = asked && parameters(state, asked);
  if (!query) {
    for (await once(null); isLive(state) && !signal.aborted; await once(null)) await pause(POLL_SECONDS, signal);
    return;
  }
  if (!isLive(state)) return once(await get("/api/v1/query", query, signal));
  let failed;
  const watch = setInterval(() => stale(), 1000);
  signal.addEventListener("abort", () => clearInterval(watch), { once: true });
  const broken = new Promise((_, reject) => (failed = reject));
  const result = (answer) => once(answer).catch((error) => signal.aborted || failed(error));
  await Promise.race(
    [follow(query, { result, lost: (error) => notice("warn", `${error.message} Trying again.`) }, signal), broken]
  );
}

function show(view, answer, extra, signal) {
  // A chart that is being dragged over stays until the pointer is up.
  if (MAIN.matches(":active") && shown) return void setTimeout(() => signal.aborted || show(view, answer, extra, signal), 300);
  shown = { view, answer, extra };
  heard = performance.now();
  const ctx = context(signal);
  if (answer) offered = { ...offered, history: answer.history };
  const empty = answer && !view.optional && emptiness(answer, ctx);
  const scroll = scrollY;
  pending.length = 0;
  replace(byId("body"), ...(empty ? [empty] : view.render(answer, ctx, extra)));
  for (const draw of pending.splice(0)) draw();
  byId("body").removeAttribute("aria-busy");
  scrollTo({ top: scroll });
  byId("summary").replaceChildren(...(answer && !view.optional ? summary(answer) : []));
  notice();
  if (!document.body.dataset.ready) say(`${view.title} is shown`);
  document.body.dataset.ready = String(Number(document.body.dataset.ready ?? 0) + 1);
}

function redraw() {
  if (shown && !running.signal.aborted) show(shown.view, shown.answer, shown.extra, running.signal);
}

/** How much it is in all, and how far it may be trusted. */
function summary({ total, unit, exact, unscaled, prescaled, seconds, to, history }) {
  const isNew = history.newest != null && history.newest <= to + history.step;
  return [
    h("strong", {}, bounded(total.value, total.error, unit)),
    h("span", { class: "muted" }, `in ${duration(seconds)}, ${rate(total.value / seconds, unit)}`),
    exact ? badge("good", "exact") : total.error > 0 && badge("plain", `sampled ${margin(total.value, total.error)}`),
    prescaled && badge("other", "bounds leave out what exporters sampled and scaled themselves"),
    unscaled && badge("warn", "partly unscaled: a sampling rate is unknown"),
    isNew && h("span", { class: "muted" }, `up to ${clock(history.newest)}`),
  ].filter(Boolean);
}

function emptiness(answer, ctx) {
  if (answer.history.newest == null) {
    return message(
      "No flows yet",
      h(
        "p", {}, "Send IPFIX, NetFlow or sFlow to this agent. Without exporters at hand, ",
        h("code", {}, "flowagent generate"), " sends some and ", h("code", {}, "flowagent demo"),
        " shows a whole cluster's.",
      ),
      h(
        "p", { class: "muted" },
        `The first numbers come with the first finished window, every ${duration(answer.history.step || 10)}.`,
      ),
    );
  }
  if (answer.total.value > 0 || answer.times) return null; // a series may begin with its next step
  const { filters } = state;
  const widen = state.from !== "-1h" && button("Look at the last hour", () => ctx.go({ from: "-1h", to: "now" }));
  const clear = filters.length > 0 && button("Remove the last filter", () => ctx.go({ filters: filters.slice(0, -1) }));
  const why = filters.length ? "No traffic in this range matches the filters." : "There was no such traffic in this range.";
  return message("Nothing here", h("p", {}, why), h("p", { class: "actions" }, clear, widen));
}

function stale() {
  const silent = (performance.now() - heard) / 1000;
  const limit = STALE_SECONDS + 2 * (offered?.history.step ?? 10);
  if (!shown || silent < limit) return;
  byId("body").dataset.stale = "";
  notice("warn", `Nothing new for ${duration(silent)}: shown is what was known at ${clock(Date.now() / 1000 - silent)}.`);
}

function notice(kind, text) {
  if (!text) delete byId("body").dataset.stale;
  byId("notice").replaceChildren(...(text ? [h("div", { class: `notice ${kind}`, role: "status" }, text)] : []));
}

function fail(error) {
  if (error.status === 401) return login(error);
  if (!(error instanceof ApiError)) console.error(error);
  if (error.path === "filter") {
    bar(context(running.signal), offered?.measures ?? [], error);
    const what = "The place is marked above. Change it by choosing it there.";
    byId("body").replaceChildren(message("The filter is not right", h("p", {}, what)));
  } else {
    const again = h("p", { class: "actions" }, button("Try again", route));
    byId("body").replaceChildren(message("That did not work", h("p", { role: "alert" }, error.message), again));
  }
  byId("body").removeAttribute("aria-busy");
  shown = null;
  if (error.status === 0) pause(POLL_SECONDS, running.signal).then(() => running.signal.aborted || route());
}

function login() {
  const submit = (event) => {
    event.preventDefault();
    keepToken(event.target.elements.token.value.trim());
    route();
  };
  const why = sessionStorage.getItem("flowagent-token")
    ? "The one that was given is not right."
    : "This agent asks who reads from it. The token is what http.token_file holds; it is kept until the tab is closed.";
  byId("bar").hidden = true;
  shown = null;
  const input = { type: "password", name: "token", "aria-label": "Token", autocomplete: "current-password", required: true };
  MAIN.replaceChildren(h(
    "form", { class: "card message", on: { submit } }, h("h1", {}, "A token is needed"), h("p", {}, why),
    h("p", { class: "actions" }, h("input", input), h("button", { type: "submit" }, "Go on")),
  ));
  MAIN.querySelector("input").focus();
}

let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(redraw, 150);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("hashchange", route);
// A browser has few connections to one agent: pages that nobody sees hold none.
document.addEventListener("visibilitychange", () => (document.hidden ? running.abort() : route()));
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the state's
  MAIN.focus();
});
route();
