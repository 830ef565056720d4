// Elements in one call. Styles go through the CSSOM, since the page's policy forbids style attributes.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. `attributes` may hold `on` (listeners), `css` (custom properties); null and false are left out. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element, made in the same way. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value == null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "css") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

const nameOf = (element) => element.getAttribute("data-mark") ?? element.getAttribute("aria-label") ?? element.textContent;

/** Give a region other children; what had the focus there has it afterwards, if there is something of its name. */
export function replace(region, ...children) {
  const active = document.activeElement;
  const name = region !== active && region.contains(active) ? nameOf(active) : null;
  region.replaceChildren(...children);
  if (name == null || region.contains(document.activeElement)) return;
  const again = [...region.querySelectorAll(active.tagName)].find((element) => nameOf(element) === name);
  again?.focus({ preventScroll: true });
}

/** Tell those who listen instead of looking. */
export function say(text) {
  byId("said").textContent = text;
}

export const button = (text, click, attributes) => h("button", { type: "button", on: { click }, ...attributes }, text);

export const badge = (look, text) => h("span", { class: `badge ${look}` }, text);

export const note = (text) => h("p", { class: "muted small" }, text);

/** A part of the page under a heading, with what stands beside that. */
export const card = (title, aside, ...children) =>
  h("section", { class: "card" }, h("div", { class: "cardhead" }, h("h2", {}, title), aside), ...children);

/** A card alone on the page: what is, or what to do. */
export const message = (title, ...children) => h("div", { class: "card message" }, h("h2", {}, title), ...children);

/** A labelled choice of few, as buttons of which one is pressed. */
export function choice(label, options, chosen, choose) {
  const made = ([value, text]) => button(text, () => choose(value), { "aria-pressed": String(value === chosen) });
  return h("div", { class: "choice", role: "group", "aria-label": label }, options.map(made));
}

/** A labelled drop-down. */
export function select(label, options, chosen, choose, shown = true) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  const element = h("select", { "aria-label": label, on: { change: (event) => choose(event.target.value) } }, made);
  return h("label", { class: "field" }, shown && h("span", {}, label), element);
}
