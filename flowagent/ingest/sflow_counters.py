"""Counters that sFlow agents send of their interfaces and their samplers, as monotone totals."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from flowagent.addresses import address_text
from flowagent.batch import Array
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import gather, numbers
from flowagent.ingest.sflow_flows import Samples, Senders
from flowagent.ingest.sflow_walk import Items
from flowagent.metrics import Family

MAX_INTERFACES = 4096
MAX_SOURCES = 16384
"""Of what is remembered, the longest silent goes first."""
_GENERIC, _SIZE = 1, 88
"""The record of generic interface counters (after RFC 2233) and its bytes."""
_UNKNOWN_32, _UNKNOWN_64 = (1 << 32) - 1, (1 << 64) - 1


class _Counter(NamedTuple):
    """Where a counter stands in the record, and its place among the metrics."""

    metric: str
    labels: tuple[str, ...]
    at: int
    size: int


_LAYOUT = (
    _Counter("octets", ("in",), 24, 8),
    _Counter("packets", ("in", "unicast"), 32, 4),
    _Counter("packets", ("in", "multicast"), 36, 4),
    _Counter("packets", ("in", "broadcast"), 40, 4),
    _Counter("discards", ("in",), 44, 4),
    _Counter("errors", ("in",), 48, 4),
    _Counter("unknown_protocols", ("in",), 52, 4),
    _Counter("octets", ("out",), 56, 8),
    _Counter("packets", ("out", "unicast"), 64, 4),
    _Counter("packets", ("out", "multicast"), 68, 4),
    _Counter("packets", ("out", "broadcast"), 72, 4),
    _Counter("discards", ("out",), 76, 4),
    _Counter("errors", ("out",), 80, 4),
)
_HELP = {
    "octets": "Octets that sFlow agents counted at their interfaces.",
    "packets": "Packets that sFlow agents counted at their interfaces.",
    "discards": "Packets that interfaces discarded though nothing was wrong with them.",
    "errors": "Packets with errors, or that could not be sent because of them.",
    "unknown_protocols": "Packets of protocols that are not known or not supported.",
}


@dataclass(slots=True)
class _Interface:
    """What was last heard of an interface, and its totals since it was first heard of."""

    last: list[int]
    totals: list[int | None] = field(default_factory=lambda: [None] * len(_LAYOUT))
    is_up: bool = False


class Interfaces:
    """Interfaces by exporter and number, bounded."""

    def __init__(self) -> None:
        self._interfaces: OrderedDict[tuple[int, int, int], _Interface] = OrderedDict()
        self._sources: OrderedDict[tuple[int, int, int, int], int] = OrderedDict()
        self._drops: dict[tuple[int, int], int] = {}
        self.evicted = 0
        self.reports = 0

    def counters(self, data: Array, senders: Senders, records: Items) -> None:
        """Take in the counter records of these senders (`owner`); those of no interface are passed by."""
        records = records.take((records.kind == _GENERIC) & (records.length >= _SIZE))
        if not len(records.owner):
            return
        self.reports += len(records.owner)
        heads = gather(data, records.at, _SIZE)
        index, status = numbers(heads, 0, 4), numbers(heads, 20, 4)
        high, low = senders.exporter[:, records.owner]
        # Of several reports of an interface the newest says it all; lists stand in no order.
        order = np.lexsort((records.at, senders.order[records.owner]))
        groups = group_rows([high[order], low[order], index[order]])
        newest = order[np.maximum.reduceat(groups.order, groups.starts)]
        values = [
            (numbers(heads, c.at, 4) << 32 | numbers(heads, c.at + 4, 4)).view(np.uint64)
            if c.size == 8
            else numbers(heads, c.at, 4)
            for c in _LAYOUT
        ]
        for i in newest.tolist():
            key = int(high[i]), int(low[i]), int(index[i])
            self._take(key, [int(column[i]) for column in values], is_up=bool(status[i] & 2))

    def _take(self, key: tuple[int, int, int], values: list[int], *, is_up: bool) -> None:
        interface = self._interfaces.get(key)
        if interface is None:
            interface = self._interfaces[key] = _Interface(values)
            if len(self._interfaces) > MAX_INTERFACES:
                self._interfaces.popitem(last=False)
                self.evicted += 1
        self._interfaces.move_to_end(key)
        interface.is_up = is_up
        for i, (value, before, counter) in enumerate(zip(values, interface.last, _LAYOUT, strict=True)):
            unknown = _UNKNOWN_64 if counter.size == 8 else _UNKNOWN_32
            if value != unknown:
                growth = _growth(before, value, counter.size * 8) if before != unknown else 0
                interface.totals[i] = (interface.totals[i] or 0) + growth
        interface.last = values

    def sampler_drops(self, senders: Senders, owner: Array, samples: Samples) -> None:
        """Take in how often samplers dropped a sample for want of resources."""
        rows = np.flatnonzero(samples.drops)
        if not len(rows):
            return
        high, low = senders.exporter[:, owner[rows]]
        order = np.lexsort((samples.at[rows], senders.order[owner[rows]]))
        source, sub_agent = samples.source[rows], senders.sub_agent[owner[rows]]
        groups = group_rows([column[order] for column in (high, low, sub_agent, source)])
        for i in order[np.maximum.reduceat(groups.order, groups.starts)].tolist():
            agent = int(high[i]), int(low[i])
            key = (*agent, int(sub_agent[i]), int(source[i]))
            drops = int(samples.drops[rows[i]])
            growth = _growth(self._sources.pop(key, drops), drops, 32)
            self._sources[key] = drops
            if len(self._sources) > MAX_SOURCES:
                self._sources.popitem(last=False)
                self.evicted += 1
            if agent in self._drops or len(self._drops) < MAX_SOURCES:
                self._drops[agent] = self._drops.get(agent, 0) + growth

    def families(self, source: str, series: Callable[[str], str]) -> Iterable[Family]:
        """As metrics of a source; `series` gives the label of an exporter's address, of which there are not endless."""
        metrics: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _HELP}
        up: dict[tuple[str, ...], float] = {}
        for (high, low, index), interface in self._interfaces.items():
            name = (address_text(high, low), str(index))
            up[name] = float(interface.is_up)
            for counter, total in zip(_LAYOUT, interface.totals, strict=True):
                if total is not None:
                    metrics[counter.metric][*name, *counter.labels] = total
        base = ("exporter", "if_index", "direction")
        for metric, samples in metrics.items():
            labels = (*base, "cast") if metric == "packets" else base
            yield Family(f"flowagent_interface_{metric}", "counter", _HELP[metric], labels, samples)
        yield Family("flowagent_interface_up", "gauge", "Whether the interface is up, says its agent.", base[:2], up)
        drops: dict[tuple[str, ...], float] = {}
        for agent, count in self._drops.items():
            label = (series(address_text(*agent)),)
            drops[label] = drops.get(label, 0) + count
        text = "Samples that sFlow agents took and dropped for want of resources."
        yield Family("flowagent_sampler_drops", "counter", text, ("exporter",), drops)
        text = "Interfaces and samplers forgotten for want of room."
        yield Family("flowagent_interface_evictions", "counter", text, ("source",), {(source,): self.evicted})


def _growth(before: int, now: int, bits: int) -> int:
    """How far a counter went; one that fell by more than half of its range began anew."""
    step = (now - before) % (1 << bits)
    return step if step < 1 << (bits - 1) else 0
