// From rows of an answer to the arcs and ribbons of a chord diagram. No page is needed: tests run it as it is.

const TURN = 2 * Math.PI;
const rank = (value) => (value.other ? 2 : value.unknown ? 1 : 0);
const identity = (value) => (value.other ? "\u0000other" : value.unknown ? "\u0000unknown" : value.label);

/**
 * Who sends how much to whom: `entities` (both columns' values, those with the same label once, largest first) and
 * `matrix[from][to]`, which sums to what the rows sum to. An entity's `sends` and `receives` are filters.
 */
export function matrixOf(answer) {
  const entities = new Map();
  const places = answer.dimensions.map(({ values }, side) =>
    values.map((value) => {
      const key = identity(value);
      if (!entities.has(key)) entities.set(key, { value, key, out: 0, in: 0 });
      entities.get(key)[side ? "receives" : "sends"] = value.filter;
      return key;
    }),
  );
  for (const { at, value } of answer.rows) {
    entities.get(places[0][at[0]]).out += value;
    entities.get(places[1][at[1]]).in += value;
  }
  const order = [...entities.values()].filter((entity) => entity.out + entity.in > 0);
  order.sort((a, b) => rank(a.value) - rank(b.value) || b.out + b.in - (a.out + a.in));
  const index = new Map(order.map((entity, number) => [entity.key, number]));
  const matrix = order.map(() => new Array(order.length).fill(0));
  const variances = order.map(() => new Array(order.length).fill(0));
  for (const { at, value, error } of answer.rows) {
    const [from, to] = [index.get(places[0][at[0]]), index.get(places[1][at[1]])];
    if (from === undefined || to === undefined) continue;
    matrix[from][to] += value;
    variances[from][to] += error ** 2;
  }
  return { entities: order, matrix, variances };
}

/**
 * Angles in radians: `arcs` with `out` and `in` bands ({startAngle, endAngle}), and `ribbons` with `source` and
 * `target`. Within an arc everything received comes first, then everything sent, each in one band.
 */
export function layout(answer, padding = 0.03) {
  const { entities, matrix, variances } = matrixOf(answer);
  const pad = entities.length > 1 ? Math.min(padding, (0.4 * TURN) / entities.length) : 0;
  const chords = globalThis.d3.chordDirected().padAngle(pad)(matrix);
  const arcs = chords.groups.map((group) => {
    const entity = entities[group.index];
    const all = entity.out + entity.in;
    const middle = group.startAngle + (group.endAngle - group.startAngle) * (all ? entity.in / all : 0);
    return {
      ...group, entity,
      in: { startAngle: group.startAngle, endAngle: middle },
      out: { startAngle: middle, endAngle: group.endAngle },
    };
  });
  const ribbons = [...chords].map(({ source, target }) => ({
    source, target, value: source.value, variance: variances[source.index][target.index],
    from: entities[source.index], to: entities[target.index],
  }));
  return { arcs, ribbons: ribbons.sort((a, b) => b.value - a.value), total: matrix.flat().reduce((a, b) => a + b, 0) };
}
