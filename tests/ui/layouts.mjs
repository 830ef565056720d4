// Reads answers from stdin, one JSON object, and writes the layouts that the page would make of them.
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const root = new URL("../../flowagent/web/static/", import.meta.url);
for (const name of ["array", "path", "shape", "chord", "sankey"]) {
  runInThisContext(readFileSync(new URL(`vendor/d3-${name}.min.js`, root), "utf8"));
}
const sankey = await import(new URL("sankey-layout.js", root));
const chord = await import(new URL("chord-layout.js", root));
const state = await import(new URL("state.js", root));
const format = await import(new URL("format.js", root));

const wanted = JSON.parse(readFileSync(0, "utf8"));
const flat = ({ id, column, value, x0, x1, y0, y1 }) => ({ id, column, value, x0, x1, y0, y1 });
const made = wanted.map(({ kind, answer, call, args }) => {
  if (kind === "call") return call.split(".").reduce((at, name) => at[name], { state, format })(...args);
  if (kind === "chord") return chord.layout(answer);
  const began = performance.now();
  const { nodes, links, height } = sankey.layout(answer, 1000);
  return {
    height, ms: performance.now() - began, nodes: nodes.map(flat),
    links: links.map((link) => ({ value: link.value, width: link.width, source: link.source.id, target: link.target.id, y0: link.y0, y1: link.y1 })),
  };
});
process.stdout.write(JSON.stringify(made));
