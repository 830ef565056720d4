"""Numbers a component exposes, read when somebody asks.

Nothing here is on the hot path: a component keeps plain integers and hands a
function that turns them into families at scrape time. `export/prometheus.py`
prints them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values that are not negative are spread, counted in buckets that grow exponentially.

    Bucket `i` counts the values in (base^(i-1), base^i] with base = 2^(2^-schema), 0 <= schema <= 8, so that every
    power of two is a bound. These are the buckets of Prometheus' native histograms; schema 5 makes them 2.2 % wide.

    `count` and `sum` are of all values, `zero` counts those that are 0. `buckets` holds pairs (i, count) with i
    ascending and empty buckets left out. Counts may be fractions, where values have weights. They only ever grow,
    and so does what follows from them here: a sum of distributions and `cumulative`.
    """

    count: float = 0
    sum: float = 0
    zero: float = 0
    schema: int = 5
    buckets: tuple[tuple[int, float], ...] = ()

    def __add__(self, other: Distribution) -> Distribution:
        """Both together, bucket by bucket; ValueError where the schemas differ."""
        if self.schema != other.schema:
            raise ValueError(f"buckets of schema {self.schema} and {other.schema} cannot be added")
        buckets = dict(self.buckets)
        for index, count in other.buckets:
            buckets[index] = buckets.get(index, 0) + count
        return Distribution(
            self.count + other.count,
            self.sum + other.sum,
            self.zero + other.zero,
            self.schema,
            tuple(sorted(buckets.items())),
        )

    def cumulative(self, exponents: Iterable[int]) -> list[float]:
        """For each of these exponents k, ascending: how many values are at most 2^k."""
        counts = []
        so_far, rest = self.zero, iter(self.buckets)
        index, count = next(rest, _LAST)
        for exponent in exponents:
            while index <= exponent << self.schema:
                so_far += count
                index, count = next(rest, _LAST)
            # Fractions add up to a little more or less than `count`, depending on their order.
            counts.append(min(so_far, self.count))
        return counts


_LAST = (math.inf, 0.0)
Value = float | Distribution
Samples = Mapping[Any, Value]
"""Values by their label values, tuples of str as long as the family's labels."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `samples` maps label values (in the order of `labels`) to the number, or a histogram's distribution.

    A counter's name is written without its `_total`, which the exposition adds,
    as it adds `_bucket`, `_sum` and `_count` to a histogram's.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    samples: Samples = field(default_factory=dict)


Collector = Callable[[], Iterable[Family]]


class Metrics:
    """The collectors of a running agent."""

    def __init__(self, since_ns: int = 0) -> None:
        self.since_ns = since_ns
        """When counting began, ns since 1970; 0 where nobody said."""
        self._collectors: list[Collector] = []
        self._gone: dict[str, Family] = {}

    def add(self, collector: Collector) -> None:
        """From now on ask this function at every scrape."""
        self._collectors.append(collector)

    def remove(self, collector: Collector) -> None:
        """Stop asking; what it counted so far stays. Unknown collectors are ignored."""
        if collector in self._collectors:
            self._collectors.remove(collector)
            self.keep(collector())

    def keep(self, families: Iterable[Family]) -> None:
        """Go on showing the counters and histograms of a component that ends: what is counted never falls."""
        for family in families:
            if family.kind != "gauge":
                _join(self._gone, family)

    def collect(self) -> list[Family]:
        """Every family once; samples of the same family from several components are joined."""
        joined = dict(self._gone)
        for collector in self._collectors:
            for family in collector():
                _join(joined, family)
        return list(joined.values())


def _join(families: dict[str, Family], family: Family) -> None:
    """Add a family to those of its name; different labels under one name would be no metric."""
    known = families.get(family.name)
    samples: dict[Any, Any] = dict(known.samples) if known is not None else {}
    if known is not None and known.labels != family.labels:
        raise ValueError(f"{family.name} has labels {known.labels} and {family.labels}")
    for labels, value in family.samples.items():
        samples[labels] = samples[labels] + value if labels in samples else value
    families[family.name] = Family(family.name, family.kind, family.help, family.labels, samples)
