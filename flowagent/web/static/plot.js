// Lines over time by uPlot, with error bands, and a brush that chooses a range.

import { h } from "./dom.js";
import { clock, duration, rate } from "./format.js";
import { tone } from "./marks.js";

const { uPlot } = globalThis;

/**
 * The half width of the 95 % interval of each step. Where the answer has it, its own; else the whole range's spread
 * over the steps as variance goes with volume: error × √(step's share).
 */
export function bands(row) {
  if (row.series_error) return row.series_error;
  const sum = row.series.reduce((total, value) => total + (value ?? 0), 0);
  return row.series.map((value) => (sum > 0 ? row.error * Math.sqrt((value ?? 0) / sum) : 0));
}

/** Colours of the page as they are now, for a canvas. */
function colour(element, look, alpha) {
  const probe = h("span", { class: `probe ${look.class}`, css: { ...look.css, "--alpha": alpha } });
  element.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/**
 * Draw `lines` ({label, look, row}) of an answer with steps into `element`. `brush(from, to)` is called with Unix
 * seconds.
 */
function plot(element, answer, lines, height, brush) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--muted").trim();
  const grid = style.getPropertyValue("--line").trim();
  const toRate = (value) => (value == null ? null : value / answer.step);
  const data = [answer.times];
  const series = [{ value: (_, time) => (time == null ? "" : clock(time)) }];
  const areas = [];
  for (const { label, look, row } of lines) {
    const errors = bands(row);
    const stroke = colour(element, look, 1);
    series.push(
      {
        label, stroke, width: 1.75, points: { show: answer.times.length < 3 },
        value: (_, value) => (value == null ? "" : rate(value, answer.unit)),
      }
    );
    data.push(row.series.map(toRate));
    if (!(row.error > 0)) continue;
    const clear = { stroke: "transparent", width: 0, points: { show: false }, label: `${label} bound` };
    series.push(clear, clear);
    data.push(row.series.map((value, i) => toRate(value == null ? null : value + errors[i])));
    data.push(row.series.map((value, i) => toRate(value == null ? null : Math.max(0, value - errors[i]))));
    areas.push({ series: [series.length - 2, series.length - 1], fill: colour(element, look, lines.length > 3 ? 0.09 : 0.15) });
  }
  const axis = {
    stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 },
    font: "12px system-ui, sans-serif",
  };
  const options = {
    width: Math.max(element.clientWidth, 280), height, series, bands: areas, legend: { show: false },
    axes: [
      {
        ...axis, size: 32,
        values: (_, times) => times.map((time) => (time % 60 ? clock(time) : clock(time).slice(0, 5))),
      },
      {
        ...axis, size: 84,
        values: (_, values) => values.map((value) => rate(value, answer.unit).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ")),
      },
    ],
    scales: {
      x: { time: false, range: () => [Math.min(answer.since, answer.to - answer.step), answer.to] },
      y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] },
    },
    cursor: { drag: { setScale: false, x: true, y: false }, points: { size: 6 } },
    hooks: {
      setSelect: [(chart) => {
        const { left, width } = chart.select;
        if (width > 4) brush(chart.posToVal(left, "x"), chart.posToVal(left + width, "x"));
      }],
      setCursor: [(chart) => readout(element, chart, lines, answer)],
    },
  };
  new uPlot(options, data, element);
}

/** A place in the page where `lines` are drawn once it is there; a brush over it chooses the range. */
export function plotted(ctx, answer, lines, height, label) {
  const room = h("div", { class: "plot", role: "img", "aria-label": label });
  const brush = (from, to) => ctx.go({ from: from.toFixed(1), to: to.toFixed(1) });
  ctx.after(() => plot(room, answer, lines, height, brush));
  return room;
}

/** What the lines say under the pointer. */
function readout(element, chart, lines, answer) {
  let box = element.querySelector(".readout");
  const index = chart.cursor.idx;
  if (index == null) return box?.remove();
  if (!box) element.append((box = h("div", { class: "readout" })));
  const rows = lines.map(({ label, look, row }) => ({ label, look, value: row.series[index], error: bands(row)[index] }));
  rows.sort((a, b) => (b.value ?? -1) - (a.value ?? -1));
  box.replaceChildren(
    h("strong", {}, `${clock(answer.times[index])}, ${duration(answer.step)}`),
    ...rows.slice(0, 12).map(({ label, look, value, error }) => h(
      "div", {}, h("span", { class: `dot ${look.class}`, css: look.css }), h("span", { class: "grow" }, label),
      h(
        "span", {}, value == null ? "unknown" : rate(value / answer.step, answer.unit),
        error > 0 ? ` ± ${rate(error / answer.step, answer.unit)}` : "",
      ),
    )),
  );
  box.classList.toggle("left", chart.cursor.left > chart.bbox.width / devicePixelRatio / 2);
}

/** A step that makes about 60 to 180 points of a range, in whole steps of history. */
export function stepFor(seconds, least = 10) {
  const wished = Math.max(seconds / 120, least);
  const nice = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].find((step) => step >= wished) ?? 3600;
  return Math.ceil(nice / least) * least;
}

/** A line for each row of an answer; one for the whole where it has no columns. */
export function linesOf(answer) {
  const line = (value, row, filters) => ({ label: value.label, value, look: tone(value), row, filters });
  if (!answer.dimensions.length) return [line({ label: "all" }, answer.total, [])];
  return answer.rows.map((row) => {
    const values = answer.dimensions.map((dimension, index) => dimension.values[row.at[index]]);
    const [other, unknown] = ["other", "unknown"].map((kind) => values.every((value) => value[kind]));
    const label = other ? "Other" : values.map((value) => value.label).join(" → ");
    return line({ label, other, unknown }, row, values.map(({ filter }) => filter).filter(Boolean));
  });
}
