"""What the sketches of a policy's period say, group by group: as plain data, every estimate beside its error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from flowagent.aggregate.entropy import Bounds, entropy, normalized, pruned_entropy
from flowagent.aggregate.groups import GroupNumbers
from flowagent.aggregate.histogram import ALPHA
from flowagent.aggregate.labels import Key, keys_of, readable
from flowagent.aggregate.period import AMOUNTS, GROUP, Amount, Period
from flowagent.aggregate.sums import Names
from flowagent.batch import Array, Batch
from flowagent.clock import SECOND
from flowagent.grouping import key_arrays

QUANTILES = (0.5, 0.9, 0.95, 0.99)
_MANY = 2.0**64
"""More keys than a hash can tell apart: traffic made for it can drive an estimate beyond any number."""
_SURELY = 3
"""Standard errors of a distinct count within which it is taken to lie."""


class Reading:
    """Of a period as it is now; what is read of all groups at once is read once, however many there are."""

    def __init__(self, period: Period, numbers: GroupNumbers) -> None:
        self._period = period
        self._plan = period.plan
        self._numbers = numbers
        self._rows = {of_by: _RowsByGroup.of(*table.sums()) for of_by, table in period.tables.items()}
        self._counts = {of: np.minimum(sketch.estimate(), _MANY) for of, sketch in period.counts.items()}

    def ranking(self, of: Names, by: Amount, number: int) -> list[tuple[Key, float]]:
        """The largest keys of a group with their sums, largest first; ties in the order of the keys."""
        keys, sums, rows = self._rows[of, by].group(number)
        k = self._plan.tables[of, by]
        if 0 < k < len(rows):
            rows = rows[sums[rows] >= np.partition(sums[rows], -k)[-k]]
        some = keys.select(of).take(rows)
        by_key = list(key_arrays(some, some.columns))
        rows = rows[np.lexsort((*reversed(by_key), -sums[rows]))[:k]]
        return list(zip(keys_of(keys, of, rows), sums[rows].tolist(), strict=True))

    def entropy(self, of: Names, by: Amount, number: int) -> Bounds:
        """How evenly an amount is spread over a group's keys, in bits."""
        _, sums, rows = self._rows[of, by].group(number)
        table = self._period.tables[of, by]
        if table.is_exact:
            return Bounds(*[entropy(sums[rows])] * 3)
        most = self._keys(of, by, number) * (1 + _SURELY * self._period.counts[of].relative_error)
        return pruned_entropy(sums[rows], table.offset, float(self._period.totals[by][number]), most)

    def distinct(self, of: Names, number: int) -> float:
        """How many different keys a group has, estimated."""
        return float(self._counts[of][number])

    def result(self) -> dict[str, Any]:
        """All of it."""
        period = self._period
        seconds = max(period.lasted_ns / SECOND, 1.0)  # a rate within less says little
        groups = [self._group(number, key, seconds) for number, key in period.groups(self._numbers)]
        groups.sort(key=lambda group: -group["bytes"])
        return {
            "start_ns": period.starts_ns,
            "end_ns": period.ends_ns,
            "seconds": seconds,
            "records_seen": period.records_seen,
            "lowest_inclusion_prob": period.lowest_prob,
            "rates": {amount: _statistics(by_second.values()) for amount, by_second in period.rates.items()},
            "groups": groups,
        }

    def _group(self, number: int, key: Key | None, seconds: float) -> dict[str, Any]:
        totals: dict[str, float] = {amount: float(self._period.totals[amount][number]) for amount in AMOUNTS}
        return {
            "group": _named(self._numbers.names, key) if key is not None else None,
            **totals,
            **{f"{amount}_per_second": total / seconds for amount, total in totals.items()},
            "top": [self._top(of, by, number) for (of, by), k in self._plan.tables.items() if k],
            "distinct": [self._distinct(of, number) for of in self._plan.distinct],
            "quantiles": [self._quantiles_of(amount, number) for amount in self._plan.quantiles],
            "entropy": [self._entropy(of, by, number) for of, by in self._plan.entropies],
        }

    def _top(self, of: Names, by: Amount, number: int) -> dict[str, Any]:
        return {
            "of": of,
            "by": by,
            "error": self._period.tables[of, by].offset,
            "rows": [{**_named(of, key), by: value} for key, value in self.ranking(of, by, number)],
        }

    def _distinct(self, of: Names, number: int) -> dict[str, Any]:
        return {
            "of": of,
            "estimate": self.distinct(of, number),
            "relative_error": self._period.counts[of].relative_error,
            "is_lower_bound": self._period.lowest_prob < 1,
        }

    @cached_property
    def _quantiles(self) -> dict[Amount, tuple[Array, dict[str, Array]]]:
        """Weights and quantiles of all groups."""
        return {
            amount: (histogram.count, {f"p{q * 100:g}": histogram.quantile(q) for q in QUANTILES})
            for amount, histogram in self._period.quantiles.items()
        }

    def _quantiles_of(self, amount: Amount, number: int) -> dict[str, Any]:
        counts, quantiles = self._quantiles[amount]
        count = float(counts[number])
        found = {name: float(values[number]) for name, values in quantiles.items()} if count else {}
        return {"of": amount, "count": count, **found, "relative_error": ALPHA}

    def _entropy(self, of: Names, by: Amount, number: int) -> dict[str, Any]:
        bounds = self.entropy(of, by, number)
        return {
            "of": of,
            "by": by,
            "bits": bounds.estimate,
            "low": bounds.low,
            "high": bounds.high,
            "normalized": normalized(bounds.estimate, self._keys(of, by, number)),
        }

    def _keys(self, of: Names, by: Amount, number: int) -> float:
        """How many keys a group has: those in the table, or where some were dropped an estimate."""
        there = float(len(self._rows[of, by].group(number)[2]))
        return there if self._period.tables[of, by].is_exact else max(there, self.distinct(of, number))


class _RowsByGroup(NamedTuple):
    """Rows of a table, those of equal group numbers beside one another."""

    keys: Batch
    sums: Array
    order: Array
    numbers: Array | None
    """Those of the rows in this order; None where no groups are told apart."""

    @classmethod
    def of(cls, keys: Batch, sums: Array) -> _RowsByGroup:
        if GROUP not in keys:
            return cls(keys, sums, np.arange(len(sums)), None)
        order = np.argsort(keys[GROUP])
        return cls(keys, sums, order, keys[GROUP][order])

    def group(self, number: int) -> tuple[Batch, Array, Array]:
        """All keys and sums, and the positions of the group's."""
        if self.numbers is None:
            return self.keys, self.sums, self.order
        first, end = self.numbers.searchsorted([number, number + 1])
        return self.keys, self.sums, self.order[first:end]


def _named(names: Sequence[str], key: Sequence[object]) -> dict[str, object]:
    return {name: readable(name, value) for name, value in zip(names, key, strict=True)}


def _statistics(by_second: Iterable[float]) -> dict[str, float]:
    """How a rate varied: over the seconds in which anything came."""
    values = np.array(list(by_second))
    if not len(values):
        return {}
    found = {f"p{q * 100:g}": float(np.quantile(values, q)) for q in QUANTILES}
    return {"mean": float(values.mean()), **found, "max": float(values.max())}
