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

    def add(self, collector: Collector) -> None:
        """From now on ask this function at every scrape."""
        self._collectors.append(collector)

    def remove(self, collector: Collector) -> None:
        """Stop asking; unknown collectors are ignored."""
        if collector in self._collectors:
            self._collectors.remove(collector)

    def collect(self) -> list[Family]:
        """Every family once; samples of the same family from several components are joined."""
        joined: dict[str, Family] = {}
        for collector in self._collectors:
            for family in collector():
                known = joined.get(family.name)
                if known is None:
                    joined[family.name] = Family(
                        family.name, family.kind, family.help, family.labels, dict(family.samples)
                    )
                else:
                    samples = dict(known.samples)
                    for labels, value in family.samples.items():
                        samples[labels] = samples.get(labels, 0) + value
                    joined[family.name] = Family(known.name, known.kind, known.help, known.labels, samples)
        return list(joined.values())
