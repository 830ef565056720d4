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

/** A labelled choice of few, as buttons of which one is pressed. */
export function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, text]) =>
    h("button", { type: "button", "aria-pressed": String(value === chosen), on: { click: () => choose(value) } }, text),
  );
  return h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

/** A labelled drop-down. */
export function select(label, options, chosen, choose, shown = true) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  const element = h("select", { "aria-label": label, on: { change: (event) => choose(event.target.value) } }, made);
  return h("label", { class: "field" }, shown && h("span", {}, label), element);
}
