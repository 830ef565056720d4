"""The sketches of one policy over one period, and what they say.

Everything merges: periods of a policy into longer ones, and policies of equal
configuration from several agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from flowagent.aggregate.entropy import Bounds, entropy, normalized, pruned_entropy
from flowagent.aggregate.groups import GroupNumbers
from flowagent.aggregate.histogram import ALPHA, Histogram
from flowagent.aggregate.hll import HyperLogLog
from flowagent.aggregate.labels import keys_of, readable
from flowagent.aggregate.sums import Names, distinct, estimates_of, hashes_of, sums_of
from flowagent.aggregate.table import Table
from flowagent.batch import Array, Batch
from flowagent.clock import SECOND
from flowagent.scale import probabilities, received

Amount = Literal["bytes", "packets", "records"]
AMOUNTS: tuple[Amount, ...] = ("bytes", "packets", "records")
QUANTILES = (0.5, 0.9, 0.95, 0.99)
SECOND_BYTES = 100
"""Of a rate, for each second."""
_LONG = 3600
"""Seconds that records taken in at once may span; more comes of a clock that stepped."""


class Plan(NamedTuple):
    """What is measured, from which sketches are made."""

    group_by: Names
    groups: int
    tables: dict[tuple[Names, Amount], int]
    """Sums by these columns, and how many of them the ranking shows; 0 where only their entropy is wanted."""
    entropies: tuple[tuple[Names, Amount], ...]
    distinct: tuple[Names, ...]
    quantiles: tuple[Amount, ...]
    rates: tuple[Amount, ...]
    capacity: int
    """Keys of each table."""
    precision: int
    """Of each HyperLogLog."""


class Period:
    """Takes records in from `starts_ns` on."""

    def __init__(self, plan: Plan, starts_ns: int) -> None:
        self.plan = plan
        self.starts_ns = self.ends_ns = starts_ns
        self.records_seen = 0
        self.lowest_prob = 1.0
        """Below 1 where overload let only a part of the records through."""
        g = plan.groups
        self.totals = {amount: np.zeros(g) for amount in AMOUNTS}
        self.tables = {of_by: Table(plan.capacity) for of_by in plan.tables}
        self.distinct = {of: HyperLogLog(g, plan.precision) for of in plan.distinct}
        self.quantiles = {amount: Histogram(g) for amount in plan.quantiles}
        self.rates: dict[Amount, dict[int, float]] = {amount: {} for amount in plan.rates}

    def update(self, records: Batch, flows: Batch, numbers: GroupNumbers) -> None:
        """Take in the records that match the policy's filter; `flows` are the same, those of equal keys merged."""
        self.records_seen += flows.record_count
        self.lowest_prob = min(self.lowest_prob, float(np.min(probabilities(flows))))
        groups = numbers.numbers(flows)
        for amount in AMOUNTS:
            values = estimates_of(flows, amount)
            more = values.sum() if groups is None else np.bincount(groups, values, self.plan.groups)
            self.totals[amount] = self.totals[amount] + more
        for (of, by), table in self.tables.items():
            names = (*self.plan.group_by, *of)
            table.update(distinct(flows, names), sums_of(flows, names, by))
        for of, sketch in self.distinct.items():
            names = (*self.plan.group_by, *of)
            sketch.update(hashes_of(flows, names, of), numbers.numbers(distinct(flows, names)))
        self._spread(records, numbers)
        self._rate(records)

    def _spread(self, records: Batch, numbers: GroupNumbers) -> None:
        if not self.quantiles:
            return
        prob = probabilities(records)
        weights = None if isinstance(prob, float) and prob == 1 else np.broadcast_to(1 / prob, len(records))
        groups = numbers.numbers(records)
        for amount, histogram in self.quantiles.items():
            histogram.update(received(records, amount), weights, groups)

    def _rate(self, batch: Batch) -> None:
        if not self.rates or "received_ns" not in batch:
            return
        second = batch["received_ns"] // SECOND
        first = int(second.min())
        if int(second.max()) - first >= _LONG:
            return
        for amount, by_second in self.rates.items():
            for i, value in enumerate(np.bincount(second - first, estimates_of(batch, amount)).tolist()):
                by_second[first + i] = by_second.get(first + i, 0.0) + value

    def merge(self, other: Period) -> None:
        """Add what another period of the same policy saw."""
        self.starts_ns = min(self.starts_ns, other.starts_ns)
        self.ends_ns = max(self.ends_ns, other.ends_ns)
        self.records_seen += other.records_seen
        self.lowest_prob = min(self.lowest_prob, other.lowest_prob)
        for amount in AMOUNTS:
            self.totals[amount] = self.totals[amount] + other.totals[amount]
        for of_by, table in self.tables.items():
            table.merge(other.tables[of_by])
        for of, sketch in self.distinct.items():
            sketch.merge(other.distinct[of])
        for amount, histogram in self.quantiles.items():
            histogram.merge(other.quantiles[amount])
        for amount, by_second in self.rates.items():
            by_second.update(other.rates[amount])

    @property
    def nbytes(self) -> int:
        """Bytes of memory of all sketches."""
        tables = sum(table.nbytes for table in self.tables.values())
        sketches = sum(s.nbytes for s in self.distinct.values()) + sum(h.nbytes for h in self.quantiles.values())
        rates = sum(len(by_second) for by_second in self.rates.values()) * SECOND_BYTES
        return tables + sketches + rates + sum(totals.nbytes for totals in self.totals.values())

    def result(self, numbers: GroupNumbers) -> dict[str, Any]:
        """What the sketches say, as plain data; every estimate beside its error."""
        seconds = max((self.ends_ns - self.starts_ns) / SECOND, 1e-9)
        groups = [
            self._group(number, key, numbers, seconds)
            for number, key in enumerate(numbers.keys())
            if not numbers.names or self.totals["records"][number] > 0
        ]
        groups.sort(key=lambda group: -group["bytes"])
        return {
            "start_ns": self.starts_ns,
            "end_ns": self.ends_ns,
            "seconds": seconds,
            "records_seen": self.records_seen,
            "lowest_inclusion_prob": self.lowest_prob,
            "rates": {amount: _statistics(by_second.values()) for amount, by_second in self.rates.items()},
            "groups": groups,
        }

    def _group(self, number: int, key: Any, numbers: GroupNumbers, seconds: float) -> dict[str, Any]:
        of_group = _named(numbers.names, key) if key is not None else None
        return {
            "group": of_group,
            **{amount: float(totals[number]) for amount, totals in self.totals.items()},
            **{f"{amount}_per_second": float(totals[number]) / seconds for amount, totals in self.totals.items()},
            "top": [self._top(of, by, number, numbers) for (of, by), k in self.plan.tables.items() if k],
            "distinct": [self._distinct(of, number) for of in self.plan.distinct],
            "quantiles": [self._quantiles(amount, number) for amount in self.plan.quantiles],
            "entropy": [self._entropy(of, by, number, numbers) for of, by in self.plan.entropies],
        }

    def rows_of(self, of: Names, by: Amount, number: int, numbers: GroupNumbers) -> tuple[Batch, Array]:
        """A group's keys in a table, and their sums."""
        keys, sums = self.tables[of, by].sums()
        codes = numbers.numbers(keys, assign=False)
        if codes is None:
            return keys, sums
        rows = np.flatnonzero(codes == number)
        return keys.take(rows), sums[rows]

    def ranking(self, of: Names, by: Amount, number: int, numbers: GroupNumbers) -> list[tuple[Any, float]]:
        """The largest keys of a group with their sums, largest first."""
        keys, sums = self.rows_of(of, by, number, numbers)
        k = self.plan.tables[of, by]
        some = np.argpartition(-sums, k - 1)[:k] if len(sums) > k else np.arange(len(sums))
        ranked = sorted(zip((-sums[some]).tolist(), keys_of(keys, of, some), strict=True), key=lambda pair: (
            pair[0], tuple((value is None, value) for value in pair[1]),
        ))  # fmt: skip
        return [(key, -negative) for negative, key in ranked]

    def _top(self, of: Names, by: Amount, number: int, numbers: GroupNumbers) -> dict[str, Any]:
        ranking = self.ranking(of, by, number, numbers)
        return {
            "of": of,
            "by": by,
            "error": self.tables[of, by].offset,
            "rows": [{**_named(of, key), by: value} for key, value in ranking],
        }

    def _distinct(self, of: Names, number: int) -> dict[str, Any]:
        sketch = self.distinct[of]
        return {
            "of": of,
            "estimate": float(sketch.estimate()[number]),
            "relative_error": sketch.relative_error,
            "is_lower_bound": self.lowest_prob < 1,
        }

    def _quantiles(self, amount: Amount, number: int) -> dict[str, Any]:
        histogram = self.quantiles[amount]
        count = float(histogram.count[number])
        found = {f"p{q * 100:g}": float(histogram.quantile(q)[number]) for q in QUANTILES} if count else {}
        return {"of": amount, "count": count, **found, "relative_error": ALPHA}

    def entropy(self, of: Names, by: Amount, number: int, numbers: GroupNumbers) -> Bounds:
        """How evenly an amount is spread over a group's keys, in bits."""
        _, sums = self.rows_of(of, by, number, numbers)
        table, total = self.tables[of, by], float(self.totals[by][number])
        if table.is_exact:
            return Bounds(*[entropy(sums)] * 3)
        return pruned_entropy(sums, table.offset, total, self._keys(of, sums, number))

    def _keys(self, of: Names, sums: Array, number: int) -> float:
        """How many keys a group has: as counted where they are, else at least those that are in the table."""
        counted = float(self.distinct[of].estimate()[number]) if of in self.distinct else 0.0
        return max(counted, float(len(sums)))

    def _entropy(self, of: Names, by: Amount, number: int, numbers: GroupNumbers) -> dict[str, Any]:
        bounds = self.entropy(of, by, number, numbers)
        keys = self._keys(of, self.rows_of(of, by, number, numbers)[1], number)
        return {
            "of": of,
            "by": by,
            "bits": bounds.estimate,
            "low": bounds.low,
            "high": bounds.high,
            "normalized": normalized(bounds.estimate, keys),
        }


def _named(names: Sequence[str], key: Sequence[object]) -> dict[str, object]:
    return {name: readable(name, value) for name, value in zip(names, key, strict=True)}


def _statistics(by_second: Any) -> dict[str, float]:
    """How a rate varied: over the seconds in which anything came."""
    values = np.array(list(by_second))
    if not len(values):
        return {}
    found = {f"p{q * 100:g}": float(np.quantile(values, q)) for q in QUANTILES}
    return {"mean": float(values.mean()), **found, "max": float(values.max())}
