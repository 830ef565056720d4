"""Counters that sFlow agents send of their interfaces and their samplers, as monotone totals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from flowagent.addresses import address_text
from flowagent.batch import Array
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import gather, numbers
from flowagent.ingest.fair import FairTable
from flowagent.ingest.sflow_flows import Samples, Senders
from flowagent.ingest.sflow_walk import Items
from flowagent.metrics import Family

MAX_INTERFACES, MAX_DATAPATHS, MAX_SOURCES = 4096, 1024, 16384
_UNKNOWN_32, _UNKNOWN_64 = (1 << 32) - 1, (1 << 64) - 1


class _Counter(NamedTuple):
    """Where a counter (or gauge) stands in the record, and its place among the metrics."""

    metric: str
    labels: tuple[str, ...]
    at: int
    size: int = 4
    is_gauge: bool = False


class _Record(NamedTuple):
    """A kind of counter record: its number, its bytes, and whether its first word is an interface's index."""

    kind: int
    size: int
    has_index: bool
    layout: tuple[_Counter, ...]


_INTERFACE = _Record(1, 88, True, (
    _Counter("octets", ("in",), 24, 8),
    _Counter("packets", ("in", "unicast"), 32),
    _Counter("packets", ("in", "multicast"), 36),
    _Counter("packets", ("in", "broadcast"), 40),
    _Counter("discards", ("in",), 44),
    _Counter("errors", ("in",), 48),
    _Counter("unknown_protocols", ("in",), 52),
    _Counter("octets", ("out",), 56, 8),
    _Counter("packets", ("out", "unicast"), 64),
    _Counter("packets", ("out", "multicast"), 68),
    _Counter("packets", ("out", "broadcast"), 72),
    _Counter("discards", ("out",), 76),
    _Counter("errors", ("out",), 80),
    _Counter("status", (), 20, is_gauge=True),
))  # fmt: skip
"""Generic interface counters (after RFC 2233)."""
_DATAPATH = _Record(2207, 24, False, (
    _Counter("lookups", ("hit",), 0),
    _Counter("lookups", ("missed",), 4),
    _Counter("lost_packets", (), 8),
    _Counter("mask_lookups", (), 12),
    _Counter("flows", (), 16, is_gauge=True),
    _Counter("masks", (), 20, is_gauge=True),
))  # fmt: skip
"""Open vSwitch's datapaths, all of a switch together."""
_HELP = {
    "octets": "Octets that sFlow agents counted at their interfaces.",
    "packets": "Packets that sFlow agents counted at their interfaces.",
    "discards": "Packets that interfaces discarded though nothing was wrong with them.",
    "errors": "Packets with errors, or that could not be sent because of them.",
    "unknown_protocols": "Packets of protocols that are not known or not supported.",
}
_DATAPATH_HELP = {
    "lookups": "Packets that Open vSwitch looked up in the flow tables of its datapaths.",
    "lost_packets": "Packets that were not found there and could not be asked ovs-vswitchd about: they were dropped.",
    "mask_lookups": "Masks that were tried to find them.",
    "flows": "Flows in those tables.",
    "masks": "Masks of those tables.",
}


@dataclass(slots=True)
class _Report:
    """What was last heard, the number of its sample, and totals since it was first heard of; None is not known."""

    number: int
    last: list[int | None]
    totals: list[int | None] = field(default_factory=list)

    def follow(self, number: int, values: list[int | None], layout: tuple[_Counter, ...]) -> None:
        """Take in a newer report."""
        # An agent that begins anew begins its numbers anew: what fell did not wrap.
        goes_on = 0 < (number - self.number) % (1 << 32) < 1 << 31
        for i, (value, before, counter) in enumerate(zip(values, self.last, layout, strict=True)):
            if counter.is_gauge:
                self.totals[i] = value
            elif value is not None:
                went = before is not None and (goes_on or value >= before)
                self.totals[i] = (self.totals[i] or 0) + (_growth(before or 0, value, counter.size * 8) if went else 0)
        self.number, self.last = number, values


class Interfaces:
    """Counters of interfaces and datapaths by exporter, bounded; room is shared among senders, see `FairTable`."""

    def __init__(self) -> None:
        self._interfaces: FairTable[tuple[int, ...], _Report] = FairTable(MAX_INTERFACES)
        self._datapaths: FairTable[tuple[int, ...], _Report] = FairTable(MAX_DATAPATHS)
        self._sources: FairTable[tuple[int, ...], int] = FairTable(MAX_SOURCES)
        self._drops: dict[tuple[int, int] | None, int] = {}
        """By agent; None stands for those beyond the bound."""
        self.reports = 0

    @property
    def evicted(self) -> int:
        """What was forgotten for want of room."""
        return self._interfaces.evicted + self._datapaths.evicted + self._sources.evicted

    def counters(self, data: Array, senders: Senders, records: Items, numbered: Array) -> None:
        """Take in the counter records of these senders (`owner`), each of a sample with this number (r,)."""
        for record, table in ((_INTERFACE, self._interfaces), (_DATAPATH, self._datapaths)):
            mine = np.flatnonzero((records.kind == record.kind) & (records.length >= record.size))
            if len(mine):
                self._take(data, senders, records.take(mine), numbered[mine], record, table)

    def _take(
        self, data: Array, senders: Senders, records: Items, numbered: Array, record: _Record,
        table: FairTable[tuple[int, ...], _Report],
    ) -> None:  # fmt: skip
        self.reports += len(records.owner) if record.has_index else 0
        heads = gather(data, records.at, record.size)
        key = [*senders.exporter[:, records.owner], *([numbers(heads, 0, 4)] if record.has_index else ())]
        # Of several reports of an interface the newest says it all; lists stand in no order.
        order = np.lexsort((records.at, senders.order[records.owner]))
        groups = group_rows([words[order] for words in key])
        newest = order[np.maximum.reduceat(groups.order, groups.starts)]
        columns = [_values(heads[newest], counter) for counter in record.layout]
        keys = zip(*(words[newest].tolist() for words in key), strict=True)
        origins = zip(*senders.sender[:, records.owner[newest]].tolist(), strict=True)
        for name, sender, number, *values in zip(keys, origins, numbered[newest].tolist(), *columns, strict=True):
            known = table.get(name)
            if known is None:
                known = _Report(number, values, [None] * len(values))
                table.put(name, known, sender)
            known.follow(number, values, record.layout)

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
            before = self._sources.get(key)
            growth = _growth(before, drops, 32) if before is not None else 0
            self._sources.put(key, drops, tuple(senders.sender[:, owner[rows[i]]].tolist()))
            name = agent if agent in self._drops or len(self._drops) < MAX_SOURCES else None
            self._drops[name] = self._drops.get(name, 0) + growth

    def families(self, source: str, series: Callable[[str], str]) -> Iterable[Family]:
        """As metrics of a source; `series` gives the label of an exporter's address, of which there are not endless."""
        found = _samples(self._interfaces, _INTERFACE)
        base = ("exporter", "if_index", "direction")
        for metric, text in _HELP.items():
            labels = (*base, "cast") if metric == "packets" else base
            yield Family(f"flowagent_interface_{metric}", "counter", text, labels, found[metric])
        up = {name: float(int(status) & 2 > 0) for name, status in found["status"].items()}
        yield Family("flowagent_interface_up", "gauge", "Whether the interface is up, says its agent.", base[:2], up)
        found = _samples(self._datapaths, _DATAPATH)
        for metric, text in _DATAPATH_HELP.items():
            kind: Literal["counter", "gauge"] = "gauge" if metric in ("flows", "masks") else "counter"
            extra = ("result",) if metric == "lookups" else ()
            yield Family(f"flowagent_datapath_{metric}", kind, text, ("exporter", *extra), found[metric])
        drops: dict[tuple[str, ...], float] = {}
        for agent, count in self._drops.items():
            label = (series(address_text(*agent)) if agent is not None else "other",)
            drops[label] = drops.get(label, 0) + count
        text = "Samples that sFlow agents took and dropped for want of resources."
        yield Family("flowagent_sampler_drops", "counter", text, ("exporter",), drops)
        text = "Interfaces, datapaths and samplers forgotten for want of room."
        yield Family("flowagent_interface_evictions", "counter", text, ("source",), {(source,): self.evicted})


def _values(heads: Array, counter: _Counter) -> list[int | None]:
    """A counter of each record; None where the agent does not keep it, which it says by all ones."""
    high, unknown = numbers(heads, counter.at, 4), _UNKNOWN_32
    if counter.size == 8:
        high = (high << 32 | numbers(heads, counter.at + 4, 4)).view(np.uint64)
        unknown = _UNKNOWN_64
    return [value if value != unknown else None for value in high.tolist()]


def _samples(table: FairTable[tuple[int, ...], _Report], record: _Record) -> dict[str, dict[tuple[str, ...], float]]:
    """By metric and labels."""
    metrics: dict[str, dict[tuple[str, ...], float]] = {counter.metric: {} for counter in record.layout}
    for (high, low, *index), (_, report) in table.items():
        name = (address_text(high, low), *map(str, index))
        for counter, total in zip(record.layout, report.totals, strict=True):
            if total is not None:
                metrics[counter.metric][*name, *counter.labels] = total
    return metrics


def _growth(before: int, now: int, bits: int) -> int:
    """How far a counter went; one that fell by more than half of its range began anew."""
    step = (now - before) % (1 << bits)
    return step if step < 1 << (bits - 1) else 0
