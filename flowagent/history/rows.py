"""Rows of the history: keys, and for each measure an estimate with its variance, which add up.

An estimate E of a row is unbiased and V is an unbiased estimate of its variance. Both stay so in the two things that
happen to rows here:

    merge   rows of equal keys become one, E and V are added up
    thin    a row is kept with probability q, as E / q with the variance V / q + E^2 (1 - q) / q^2

This is sampling in stages (Cohen, Duffield, Lund and Thorup, "Confident estimation for multistage measurement", 2008);
q is what threshold sampling gives for several measures at once (see `sampling/sizes.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowagent.batch import Array, Batch, constant, is_constant
from flowagent.grouping import Groups, group_rows, key_arrays
from flowagent.sampling.methods import Threshold
from flowagent.sampling.pool import Pool
from flowagent.sampling.sizes import Sizes
from flowagent.scale import probabilities, received, upstream_variance
from flowagent.schema import COLUMNS

MEASURES = ("bytes", "packets", "records", "dropped_bytes", "dropped_packets")
"""Columns that there may be estimates of."""
_SHARES = {"bytes": 0.5, "packets": 0.25, "records": 0.25}
"""What a sample is drawn to tell, and the share of the rows that each gets."""
_CHOOSE = Threshold()


@dataclass(frozen=True, slots=True)
class Rows:
    """All arrays have n rows; the dictionaries have the same measures."""

    keys: Batch
    """What tells rows apart, and times (see `merge`)."""
    value: dict[str, Array]
    """float64: estimates, scaled by the exporters' sampling and the agent's."""
    variance: dict[str, Array]
    """float64: their variances; a broadcast of 0 where nothing was sampled."""
    heaviest: dict[str, float]
    """How much a row may weigh that the agent left out, by measure; 0 where it left out none."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Array) -> Rows:
        """The rows at these positions."""
        value = {name: column.take(rows) for name, column in self.value.items()}
        variance = {name: _taken(column, rows) for name, column in self.variance.items()}
        return Rows(self.keys.take(rows), value, variance, self.heaviest)


def _taken(column: Array, rows: Array) -> Array:
    return constant(column[0], len(rows), np.float64) if is_constant(column) else column.take(rows)


def estimated(batch: Batch, keys: Sequence[str], measures: Sequence[str]) -> Rows:
    """Rows as they leave the window: what each stands for."""
    prob = probabilities(batch)
    value: dict[str, Array] = {}
    variance: dict[str, Array] = {}
    heaviest: dict[str, float] = {}
    for name in measures:
        if name not in batch and name != "records":
            continue
        came = received(batch, name)
        upstream = upstream_variance(batch, name)
        if isinstance(prob, float) and prob == 1:
            value[name], variance[name], heaviest[name] = came, upstream, 0.0
            continue
        value[name] = came / prob
        own = value[name] * (1 - prob)  # times the value: its variance, and by itself: what one draw weighs
        variance[name] = value[name] * own + upstream / prob
        heaviest[name] = float(own.max(initial=0.0))
    return Rows(batch.select(keys), value, variance, heaviest)


def merge(parts: Sequence[Rows]) -> Rows:
    """All rows, those of equal keys added up; of their times the latest counts."""
    keys = Batch.concat([part.keys for part in parts])
    if not len(keys):
        return parts[0]
    times = [name for name in keys.columns if COLUMNS[name].kind == "time"]
    groups = group_rows(list(key_arrays(keys, [name for name in keys.columns if name not in times])))
    merged = keys.take(groups.first)
    latest = {name: _latest(keys, name, groups) for name in times}
    if latest:
        merged = merged.with_columns(latest, {name: values > 0 for name, values in latest.items()})
    names = list(dict.fromkeys(name for part in parts for name in part.value))
    return Rows(
        merged,
        {name: _added([(len(p), p.value.get(name)) for p in parts], groups) for name in names},
        {name: _added([(len(p), p.variance.get(name)) for p in parts], groups) for name in names},
        {name: max(p.heaviest.get(name, 0.0) for p in parts) for name in names},
    )


def _latest(keys: Batch, name: str, groups: Groups) -> Array:
    """The latest time of each group, 0 where none is known."""
    times = np.where(keys.is_known(name), keys[name], 0)
    return np.asarray(np.maximum.reduceat(times.take(groups.order), groups.starts))


def _added(parts: Sequence[tuple[int, Array | None]], groups: Groups) -> Array:
    """The sum of each group over the rows of all parts; a part without the measure has 0."""
    columns = [constant(0.0, n, np.float64) if column is None else column for n, column in parts]
    if all(is_constant(column) and column[0] == 0 for column in columns if len(column)):
        return constant(0.0, len(groups.starts), np.float64)
    joined = columns[0] if len(columns) == 1 else np.concatenate(columns)
    return np.asarray(np.add.reduceat(joined.take(groups.order), groups.starts))


def thin(rows: Rows, budget: int, rng: np.random.Generator) -> Rows:
    """At most `budget` of the rows, which stand for all."""
    n = len(rows)
    if n <= budget:
        return rows
    shares = {name: share for name, share in _SHARES.items() if name in rows.value}
    measures = Batch(rows.value)
    sizes = Sizes(shares)
    sizes.fit(measures, budget)
    coin = 1 - rng.random(n)
    pool = Pool.of(measures, coin, sizes.of(measures), constant(False, n, np.bool_))
    pool = _CHOOSE.cut(pool, budget, 0.0)
    kept, prob = rows.take(pool.row), np.asarray(pool.prob)
    is_light = prob < 1
    value: dict[str, Array] = {}
    variance: dict[str, Array] = {}
    heaviest: dict[str, float] = {}
    for name, before in kept.value.items():
        value[name] = after = before / prob
        variance[name] = kept.variance[name] / prob + after * after * (1 - prob)
        heaviest[name] = max(rows.heaviest[name], float(after[is_light].max(initial=0.0)))
    return Rows(kept.keys, value, variance, heaviest)
