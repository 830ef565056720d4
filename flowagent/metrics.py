"""Numbers a component exposes, read when somebody asks.

Nothing here is on the hot path: a component keeps plain integers and hands a
function that turns them into families at scrape time. `export/prometheus.py`
prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Samples = Mapping[Any, float]
"""Numbers by their label values, tuples of str as long as the family's labels."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `samples` maps label values (in the order of `labels`) to the number.

    A counter's name is written without its `_total`, which the exposition adds.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    samples: Samples = field(default_factory=dict)


Collector = Callable[[], Iterable[Family]]


class Metrics:
    """The collectors of a running agent."""

    def __init__(self) -> None:
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
        """Go on showing the counters of a component that ends: a counter never falls."""
        for family in families:
            if family.kind == "counter":
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
    samples = dict(known.samples) if known is not None else {}
    if known is not None and known.labels != family.labels:
        raise ValueError(f"{family.name} has labels {known.labels} and {family.labels}")
    for labels, value in family.samples.items():
        samples[labels] = samples.get(labels, 0) + value
    families[family.name] = Family(family.name, family.kind, family.help, family.labels, samples)
