"""Flow samples of sFlow v5 to rows: one sampled packet each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, constant
from flowagent.ingest.datagrams import gather, numbers
from flowagent.ingest.fields import Values
from flowagent.ingest.header_columns import Columns
from flowagent.ingest.options import Sampling, constant_sampling
from flowagent.ingest.rates import MAX_RATE
from flowagent.ingest.sflow_records import READERS, Records
from flowagent.ingest.sflow_walk import Items, walk
from flowagent.ingest.state import State, protocol_column
from flowagent.schema import SAMPLING_SOURCES

_UNKNOWN, _WIRE, _CONFIG = (SAMPLING_SOURCES.index(name) for name in ("unknown", "wire", "config"))
_INTERNAL = 0x3FFFFFFF
"""No interface: the packet came from or went to the exporter itself."""
_IF_INDEX, _DISCARDED = 0, 1
"""Formats of an interface."""
_FORWARDING = {257: 137, 258: 129, 259: 128, 260: 139, 261: 138, 262: 133}
"""Reasons of a discard as IANA's forwardingStatus; below 256 they are codes of ICMP's "unreachable".

None for 256, unknown: Open vSwitch says it of every packet that it looks at again, delivered or not.
"""
_UNROUTABLE = 131


class Senders(NamedTuple):
    """What the headers of k datagrams say.

    exporter     (2, k) uint64: the agent's address
    sender       (2, k) uint64: the address that they came from
    sub_agent    (k,) int64
    sequence     (k,) int64
    received_ns  (k,) int64
    order        (k,) int64: in which they arrived
    begin        (k,) int64: where they begin in the buffer
    """

    exporter: Array
    sender: Array
    sub_agent: Array
    sequence: Array
    received_ns: Array
    order: Array
    begin: Array


class Samples(NamedTuple):
    """The fixed part of flow samples; arrays (s,) int64.

    source  class in the upper 32 bits, index in the lower
    at      where the records begin
    end     where the sample ends
    """

    source: Array
    rate: Array
    drops: Array
    in_format: Array
    in_if: Array
    out_format: Array
    out_if: Array
    records: Array
    at: Array
    end: Array

    def take(self, rows: Array) -> Samples:
        """Some of them."""
        return Samples(*(values[rows] for values in self))


def plain(data: Array, items: Items) -> Samples:
    """Format 1, of at least 32 bytes each."""
    head = gather(data, items.at, 32)
    source, rate, drops, in_if, out_if, count = (numbers(head, i, 4) for i in (4, 8, 16, 20, 24, 28))
    return Samples(
        (source >> 24) << 32 | source & 0xFFFFFF, rate, drops, in_if >> 30, in_if & 0x3FFFFFFF,
        out_if >> 30, out_if & 0x3FFFFFFF, count, items.at + 32, items.at + items.length,
    )  # fmt: skip


def expanded(data: Array, items: Items) -> Samples:
    """Format 3, of at least 44 bytes each."""
    head = gather(data, items.at, 44)
    kind, index, rate, drops, in_format, in_if, out_format, out_if, count = (
        numbers(head, i, 4) for i in (4, 8, 12, 20, 24, 28, 32, 36, 40)
    )
    return Samples(
        kind << 32 | index, rate, drops, in_format, in_if, out_format, out_if, count,
        items.at + 44, items.at + items.length,
    )  # fmt: skip


FORMATS: dict[int, tuple[int, Callable[[Array, Items], Samples]]] = {1: (32, plain), 3: (44, expanded)}
"""By type: bytes at least, reader."""


def add_flows(state: State, data: Array, senders: Senders, owner: Array, samples: Samples) -> Array:
    """Decode samples, each of the sender `owner` (s,), into `State.add`; (s,) bool: which were whole."""
    records, broken = walk(data, samples.at, samples.end, samples.records)
    whole = ~broken
    if bool(broken.any()):
        place = np.cumsum(whole) - 1
        records = records.take(whole[records.owner])
        records = records._replace(owner=place[records.owner])
        owner, samples = owner[whole], samples.take(whole)
    n = len(owner)
    if not n:
        return whole
    columns = Columns(n, state.wanted)
    if state.wants("packets"):
        columns.put("packets", None, constant(1, n, np.uint64))
    _interfaces(columns, samples)
    _read(columns, data, records)
    values = columns.values() | _origin(state, senders, owner) | _sampling(state, senders, owner, samples.rate)
    order = senders.order[owner] << 32 | samples.at - senders.begin[owner] if state.ordered else None
    state.add("sflow5", values, n, order)
    return whole


def _read(columns: Columns, data: Array, records: Items) -> None:
    standard = records.kind < 4096
    present = np.bincount(records.kind if bool(standard.all()) else records.kind[standard], minlength=4096)
    for kind, read in READERS.items():
        if not present[kind]:
            continue
        mine = np.flatnonzero(records.kind == kind)
        rows = records.owner[mine]
        in_order = len(rows) == columns.length and bool((rows == np.arange(len(rows))).all())
        read(Records(columns, data, None if in_order else rows, records.at[mine], records.length[mine]))


def _interfaces(columns: Columns, samples: Samples) -> None:
    """Interfaces by number; 0 is an unknown one. The direction is that of the interface at which was sampled."""
    known = {}
    for side, form, index in (("in", samples.in_format, samples.in_if), ("out", samples.out_format, samples.out_if)):
        known[side] = (form == _IF_INDEX) & (index != 0) & (index != _INTERNAL)
        columns.put(f"{side}_if", None, index, known[side])
    if columns.wants("direction"):
        ingress = known["in"] & (samples.source == samples.in_if)
        egress = known["out"] & (samples.source == samples.out_if)
        columns.put("direction", None, egress, ingress ^ egress)
    if columns.wants("forwardingStatus"):
        discarded = samples.out_format == _DISCARDED
        if bool(discarded.any()):
            status = np.where(samples.out_if < 256, _UNROUTABLE, 0)
            for reason, code in _FORWARDING.items():
                status[samples.out_if == reason] = code
            columns.put("forwardingStatus", None, status, discarded & (status > 0))


def _origin(state: State, senders: Senders, owner: Array) -> dict[str, Values]:
    """Columns that say where samples come from; a packet's time is that of its arrival, soon after."""
    columns = {
        "exporter": Values(_spread(senders.exporter, owner)),
        "observation_domain": Values(_spread(senders.sub_agent.astype(np.uint32), owner)),
        "export_protocol": protocol_column("sflow5", len(owner)),
    }
    times = [name for name in ("received_ns", "start_ns", "end_ns") if state.wants(name)]
    if times:
        columns |= dict.fromkeys(times, Values(_spread(senders.received_ns, owner)))
    if state.wants("sequence"):
        columns["sequence"] = Values(senders.sequence.astype(np.uint32)[owner])
    return columns


def _spread(values: Array, owner: Array) -> Array:
    """The value of each sample's sender; one for all stays one."""
    if bool((values == values[..., :1]).all()):
        return constant(values[..., 0], len(owner), values.dtype)
    return values.take(owner, axis=-1)


def _sampling(state: State, senders: Senders, owner: Array, rate: Array) -> dict[str, Values]:
    """The rate that each sample tells, or that the user set for its exporter."""
    set_rate = _overrides(state, senders)
    if set_rate is None and bool((rate == rate[0]).all()):
        known = 1 <= int(rate[0]) <= MAX_RATE
        return constant_sampling(state, len(rate), Sampling(float(rate[0]), _WIRE) if known else Sampling(None, 0))
    told = rate.astype(np.float64)
    source = np.where(rate > 0, np.uint8(_WIRE), np.uint8(_UNKNOWN))
    if set_rate is not None:
        chosen = set_rate[owner]
        told = np.where(chosen > 0, chosen, told)
        source[chosen > 0] = _CONFIG
    for number, count in enumerate(np.bincount(source, minlength=len(SAMPLING_SOURCES)).tolist()):
        state.stats.sampling[SAMPLING_SOURCES[number]] += count
    known_rows = told > 0
    return {
        "sampling_rate": Values(told, None if bool(known_rows.all()) else known_rows),
        "sampling_source": Values(source),
    }


def _overrides(state: State, senders: Senders) -> Array | None:
    """(k,) float64: rates that the user set, 0 where none; None where there are none at all."""
    if not state.exporters.has_overrides:
        return None
    found = {
        (high, low): state.exporters.override_of(high, low) or 0.0
        for high, low in set(zip(*senders.exporter.tolist(), strict=True))
    }
    return np.array([found[high, low] for high, low in zip(*senders.exporter.tolist(), strict=True)], np.float64)


def agent_addresses(data: Array, at: Array, exporter: Array) -> tuple[Array, Array, Array]:
    """Agents of datagrams whose address begins `at` (k,): words (2, k), its bytes with the type (k,), which are valid.

    One that gives no address of its own is known by its sender's, `exporter` (2, k).
    """
    raw = gather(data, at, 20)
    kind = numbers(raw, 0, 4)
    words = np.zeros((2, len(at)), np.uint64)
    v4, v6 = kind == 1, kind == 2
    words[1, v4] = numbers(raw, 4, 4)[v4].astype(np.uint64) | np.uint64(V4_MAPPED)
    for i in (0, 1):
        words[i, v6] = raw[v6, 4 + 8 * i : 12 + 8 * i].copy().view(">u8")[:, 0]
    none = (words[0] == 0) & ((words[1] == 0) | (words[1] == V4_MAPPED))
    return np.where(none, exporter, words), np.where(v4, 8, np.where(v6, 20, 4)), kind <= 2
