"""First stage: count every packet once.

Open vSwitch reports a packet when it comes in (direction 0) and again when it
goes out (direction 1), unless told otherwise. Of an exporter that reports
both, only ingress is counted. Other exporters are taken at their word: two
interfaces of a router are two observation points.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.clock import SECOND
from flowagent.grouping import group_rows
from flowagent.metrics import Family
from flowagent.outcome import Outcomes
from flowagent.schema import SAMPLING_SOURCES

_PRESCALED = SAMPLING_SOURCES.index("prescaled")
_REMEMBER_NS = 900 * SECOND
_MAX_EXPORTERS = 16384
COLUMNS = frozenset({"exporter", "observation_domain", "direction", "sampling_source"})


class Prepare:
    """Drops the second report of a packet by the same Open vSwitch bridge."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._ingress_seen: OrderedDict[tuple[int, int, int], int] = OrderedDict()
        self._evicted = 0

    def process(self, batch: Batch, now_ns: int) -> Batch:
        """The rows to count."""
        if COLUMNS - batch.columns.keys():
            return batch
        ovs = batch["sampling_source"] == _PRESCALED
        if not bool(ovs.any()):
            return batch
        egress = ovs & (batch["direction"] == 1) & batch.is_known("direction")
        ingress = ovs & ~egress
        if bool(ingress.any()):
            for exporter, _ in self._exporters(batch, np.flatnonzero(ingress)):
                self._ingress_seen[exporter] = now_ns
                self._ingress_seen.move_to_end(exporter)
            while len(self._ingress_seen) > _MAX_EXPORTERS:
                self._ingress_seen.popitem(last=False)
                self._evicted += 1
        keep = np.ones(len(batch), np.bool_)
        for exporter, rows in self._exporters(batch, np.flatnonzero(egress)):
            if now_ns - self._ingress_seen.get(exporter, -_REMEMBER_NS) < _REMEMBER_NS:
                keep[rows] = False
        dropped = len(batch) - int(keep.sum())
        if dropped:
            self._outcomes.dropped("duplicate_direction", dropped)
        return batch.take(keep)

    @staticmethod
    def _exporters(batch: Batch, rows: Array) -> Iterable[tuple[tuple[int, int, int], Array]]:
        if not len(rows):
            return
        high, low, domain = batch["exporter"][0][rows], batch["exporter"][1][rows], batch["observation_domain"][rows]
        groups = group_rows([high, low, domain])
        for part in np.split(groups.order, groups.starts[1:]):
            i = part[0]
            yield (int(high[i]), int(low[i]), int(domain[i])), rows[part]

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        yield Family("flowagent_prepare_evictions", "counter", "Exporters forgotten by the direction de-duplication.",
                     (), {(): self._evicted})  # fmt: skip
