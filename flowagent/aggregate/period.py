"""The sketches of one policy over one period; `reading` tells what they say. Periods merge into longer ones."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from flowagent.aggregate.groups import NUMBER, GroupNumbers
from flowagent.aggregate.histogram import Histogram
from flowagent.aggregate.hll import HyperLogLog
from flowagent.aggregate.labels import Key
from flowagent.aggregate.sums import Names, distinct, estimates_of, groups_of, hashes_of, sums_of
from flowagent.aggregate.table import Table
from flowagent.batch import Array, Batch
from flowagent.clock import SECOND
from flowagent.scale import probabilities, received

Amount = Literal["bytes", "packets", "records"]
AMOUNTS: tuple[Amount, ...] = ("bytes", "packets", "records")
GROUP = "group"
"""The column of a table that holds the number of a group."""
SECOND_BYTES = 100
"""Of a rate, for each second."""


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
    seconds: int
    """Of a rate that are kept."""
    capacity: int
    """Keys of each table."""
    precision: int
    """Of each HyperLogLog."""

    @property
    def counted(self) -> tuple[Names, ...]:
        """What HyperLogLogs count: bounds of an entropy need the number of keys, too."""
        return tuple(dict.fromkeys((*self.distinct, *(of for of, _ in self.entropies))))


class Period:
    """Takes records in from `starts_ns` on."""

    def __init__(self, plan: Plan, starts_ns: int) -> None:
        self.plan = plan
        self.starts_ns = self.ends_ns = starts_ns
        self.lasted_ns = 0
        """Time in which records were taken in; that from start to end has gaps where periods were skipped."""
        self.records_seen = 0
        self.lowest_prob = 1.0
        """Below 1 where overload let only a part of the records through."""
        g = plan.groups
        self.totals = {amount: np.zeros(g) for amount in AMOUNTS}
        self.tables = {of_by: Table(plan.capacity) for of_by in plan.tables}
        self.counts = {of: HyperLogLog(g, plan.precision) for of in plan.counted}
        self.distinct = {of: self.counts[of] for of in plan.distinct}
        self.quantiles = {amount: Histogram(g) for amount in plan.quantiles}
        self.rates: dict[Amount, dict[int, float]] = {amount: {} for amount in plan.rates}

    def goes_on(self, now_ns: int) -> None:
        """It lasts until now at least."""
        if now_ns > self.ends_ns:
            self.lasted_ns += now_ns - self.ends_ns
            self.ends_ns = now_ns

    def update(self, records: Batch, flows: Batch, numbers: GroupNumbers) -> None:
        """Take in the records that match the policy's filter; `flows` are the same, those of equal keys merged."""
        self.records_seen += flows.record_count
        self.lowest_prob = min(self.lowest_prob, float(np.min(probabilities(flows))))
        groups = numbers.numbers(flows)
        for amount in AMOUNTS:
            values = estimates_of(flows, amount)
            more = values.sum() if groups is None else np.bincount(groups, values, self.plan.groups)
            self.totals[amount] = self.totals[amount] + more
        for of in dict.fromkeys((*(of for of, _ in self.tables), *self.counts)):
            self._add(flows, of, groups)
        if self.quantiles:
            self._spread(records, groups if records is flows else numbers.numbers(records, assign=False))
        if self.rates and "received_ns" in records:
            self._rate(records)

    def _add(self, flows: Batch, of: Names, groups: Array | None) -> None:
        """Take in what is measured of these columns."""
        names = (*self.plan.group_by, *of)
        keys = distinct(flows, names)
        if groups is not None:
            groups = groups.take(groups_of(flows, names).first)
            keys = keys.select(of).with_columns({GROUP: groups.astype(NUMBER)})
        for amount in AMOUNTS:
            if (of, amount) in self.tables:
                self.tables[of, amount].update(keys, sums_of(flows, names, amount))
        if of in self.counts:
            self.counts[of].update(hashes_of(flows, names, of), groups)

    def _spread(self, records: Batch, groups: Array | None) -> None:
        prob = probabilities(records)
        weights = None if isinstance(prob, float) and prob == 1 else np.broadcast_to(1 / prob, len(records))
        for amount, histogram in self.quantiles.items():
            values, w, g = received(records, amount), weights, groups
            if amount in records.valid or (amount not in records and amount != "records"):
                known = np.flatnonzero(records.is_known(amount))  # what is unknown is not 0
                values, w, g = values[known], None if w is None else w[known], None if g is None else g[known]
            histogram.update(values, w, g)

    def _rate(self, records: Batch) -> None:
        second = records["received_ns"] // SECOND
        last = int(second.max())
        # Records come within moments: others are old ones from a file, or of a clock that stepped.
        near = (second > last - self.plan.seconds) & records.is_known("received_ns")
        age = last - (second if near.all() else second[near])
        for amount, by_second in self.rates.items():
            values = estimates_of(records, amount)
            sums = np.bincount(age, values if len(age) == len(values) else values[near])
            self._add_seconds(by_second, {last - i: value for i, value in enumerate(sums.tolist()) if value})

    def _add_seconds(self, by_second: dict[int, float], more: dict[int, float]) -> None:
        for second, value in more.items():
            if second in by_second or len(by_second) < self.plan.seconds:
                by_second[second] = by_second.get(second, 0.0) + value

    def merge(self, other: Period) -> None:
        """Add what another period of the same policy saw."""
        self.starts_ns = min(self.starts_ns, other.starts_ns)
        self.ends_ns = max(self.ends_ns, other.ends_ns)
        self.lasted_ns += other.lasted_ns
        self.records_seen += other.records_seen
        self.lowest_prob = min(self.lowest_prob, other.lowest_prob)
        for amount in AMOUNTS:
            self.totals[amount] = self.totals[amount] + other.totals[amount]
        for of_by, table in self.tables.items():
            table.merge(other.tables[of_by])
        for of, sketch in self.counts.items():
            sketch.merge(other.counts[of])
        for amount, histogram in self.quantiles.items():
            histogram.merge(other.quantiles[amount])
        for amount, by_second in self.rates.items():
            for second, value in other.rates[amount].items():
                by_second[second] = by_second.get(second, 0.0) + value

    def groups(self, numbers: GroupNumbers) -> list[tuple[int, Key | None]]:
        """Number and key of those that saw anything, None the key of the others; one `()` where none are told apart."""
        seen = self.totals["records"]
        return [(number, key) for number, key in enumerate(numbers.keys()) if not numbers.names or seen[number] > 0]

    @property
    def nbytes(self) -> int:
        """Bytes of memory of all sketches."""
        tables = sum(table.nbytes for table in self.tables.values())
        sketches = sum(s.nbytes for s in self.counts.values()) + sum(h.nbytes for h in self.quantiles.values())
        rates = sum(len(by_second) for by_second in self.rates.values()) * SECOND_BYTES
        return tables + sketches + rates + sum(totals.nbytes for totals in self.totals.values())

    def rows_of(self, of: Names, by: Amount, number: int, numbers: GroupNumbers) -> tuple[Batch, Array]:
        """A group's keys in a table, and their sums."""
        keys, sums = self.tables[of, by].sums()
        if not numbers.names or not len(sums):
            return keys, sums
        rows = np.flatnonzero(keys[GROUP] == number)
        return keys.take(rows).select(of), sums[rows]
