// From rows of an answer to the places of a Sankey's nodes and links. No page is needed: tests run it as it is.

const NODE = 14;
const GAP = 16;

/** Known values by size, then what is unknown, then the fold. */
const rank = (value) => (value.other ? 2 : value.unknown ? 1 : 0);

/**
 * Nodes and links of an answer with two columns or more. A node is a value in its column, so however traffic goes
 * there is no cycle. A link's `rows` are the indexes of the rows in it; every row is in one link of each gap.
 */
export function graph(answer) {
  const nodes = new Map();
  const links = new Map();
  const node = (column, index) => {
    const id = `${column}:${index}`;
    if (!nodes.has(id)) nodes.set(id, { id, column, value: 0, of: answer.dimensions[column].values[index], rows: [] });
    return nodes.get(id);
  };
  answer.rows.forEach((row, number) => {
    if (!(row.value > 0)) return;
    row.at.forEach((index, column) => {
      const here = node(column, index);
      here.value += row.value;
      here.variance = (here.variance ?? 0) + row.error ** 2;
      here.rows.push(number);
      if (column + 1 === row.at.length) return;
      const next = node(column + 1, row.at[column + 1]);
      const id = `${here.id}>${next.id}`;
      if (!links.has(id)) links.set(id, { id, source: here.id, target: next.id, value: 0, variance: 0, rows: [] });
      const link = links.get(id);
      link.value += row.value;
      link.variance += row.error ** 2;
      link.rows.push(number);
    });
  });
  return { nodes: [...nodes.values()], links: [...links.values()] };
}

/** The height that leaves every node room for its label. */
function heightFor({ nodes }) {
  const counts = new Map();
  for (const { column } of nodes) counts.set(column, (counts.get(column) ?? 0) + 1);
  return Math.max(360, Math.max(0, ...counts.values()) * 30);
}

/** The same graph with places: nodes have x0 x1 y0 y1, links y0 y1 width. Sizes are in the same unit as `width`. */
export function layout(answer, width) {
  const made = graph(answer);
  const tall = heightFor(made);
  const bySize = (a, b) => rank(a.of) - rank(b.of) || b.value - a.value || (a.id < b.id ? -1 : 1);
  const many = made.links.length > 400;
  const sankey = globalThis.d3
    .sankey()
    .nodeId((node) => node.id)
    .nodeAlign((node) => node.column)
    .nodeSort(bySize)
    .nodeWidth(NODE)
    .nodePadding(GAP)
    .iterations(many ? 2 : 6)
    .extent([[0, 4], [width, tall - 4]]);
  return made.nodes.length ? { ...sankey(made), width, height: tall } : { ...made, width, height: tall };
}
