"""NetFlow v1, v5 and v7: fixed records, no templates (Cisco, "NetFlow Export Datagram Format")."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, constant
from flowagent.grouping import group_rows
from flowagent.ingest import fields as f
from flowagent.ingest.datagrams import Datagrams, gather, numbers
from flowagent.ingest.exporters import DomainKey, Session
from flowagent.ingest.fields import Values
from flowagent.ingest.options import Sampling, constant_sampling
from flowagent.ingest.state import State, protocol_column
from flowagent.ingest.stats import PROTOCOL_OF_VERSION
from flowagent.schema import COLUMNS, SAMPLING_SOURCES

_COMMON = {"src_addr": (0, 4), "dst_addr": (4, 4), "next_hop": (8, 4), "in_if": (12, 2), "out_if": (14, 2),
           "packets": (16, 4), "bytes": (20, 4), "src_port": (32, 2), "dst_port": (34, 2)}  # fmt: skip
_TAIL = {"tcp_flags": (37, 1), "proto": (38, 1), "tos": (39, 1), "src_as": (40, 2), "dst_as": (42, 2),
         "src_mask": (44, 1), "dst_mask": (45, 1)}  # fmt: skip
_TAIL_1 = {"proto": (38, 1), "tos": (39, 1), "tcp_flags": (40, 1)}


class _Format(NamedTuple):
    header_size: int
    record_size: int
    fields: dict[str, tuple[int, int]]


_FORMATS = {
    1: _Format(16, 52, _COMMON | _TAIL_1),
    5: _Format(24, 48, _COMMON | _TAIL),
    7: _Format(24, 52, _COMMON | _TAIL),
}
_TIMES = {"start_ns": 24, "end_ns": 28}
_SHORT_1 = 48
"""Bytes of a v1 record of softflowd, which leaves out the last, unused word."""
_RATE_BITS = 0x3FFF
"""The sampling word's two high bits are the mode."""


class NetFlow5:
    """Decodes all three versions; the observation domain is the v5 engine's type and id."""

    def __init__(self, state: State) -> None:
        self._state = state

    def feed(self, datagrams: Datagrams, rows: Array) -> None:
        """Decode these datagrams, in order of arrival, all of one version."""
        stats = self._state.stats
        version = int(datagrams.data[datagrams.offset[rows[0]] + 1])
        protocol, form = PROTOCOL_OF_VERSION[version], _FORMATS[version]
        stats.datagrams[protocol] += len(rows)
        whole = datagrams.length[rows] >= form.header_size
        if not bool(whole.all()):
            stats.error(protocol, "truncated", int((~whole).sum()))
            rows = rows[whole]
        if not len(rows):
            return
        heads = datagrams.heads(rows, form.header_size)
        claimed = numbers(heads, 2, 2)
        body = datagrams.length[rows] - form.header_size
        size = np.full(len(rows), form.record_size)
        if version == 1:
            size[body == claimed * _SHORT_1] = _SHORT_1
        room = body // size
        wrong = int(np.count_nonzero(claimed > room))
        if wrong:
            stats.error(protocol, "bad_record_count", wrong)
        counts = np.minimum(claimed, room)
        engine = numbers(heads, 20, 2) if version == 5 else np.zeros(len(rows), np.int64)
        sampling = numbers(heads, 22, 2) & _RATE_BITS if version == 5 else np.zeros(len(rows), np.int64)
        high, low, port = datagrams.exporter[0][rows], datagrams.exporter[1][rows], datagrams.port[rows]
        groups = group_rows([high, low, port, engine, sampling, counts, size])
        sessions: dict[int, tuple[Session, list[Array]]] = {}
        for part in np.split(groups.order, groups.starts[1:]):
            part.sort()
            i = part[0]
            key = DomainKey(int(high[i]), int(low[i]), version, int(engine[i]))
            session = self._state.exporters.session(key, int(port[i]), int(datagrams.received_ns[rows[i]]))
            session.datagrams += len(part)
            session.records += len(part) * int(counts[i])
            sessions.setdefault(id(session), (session, []))[1].append(part)
            if counts[i]:
                self._records(
                    datagrams, rows[part], heads[part], session, (int(counts[i]), int(size[i])), int(sampling[i])
                )
        if version == 1:
            return
        for session, parts in sessions.values():
            mine = np.sort(np.concatenate(parts))
            session.sequence.follow(numbers(heads[mine], 16, 4), counts[mine], np.ones(len(mine), np.bool_))

    def _records(
        self, datagrams: Datagrams, rows: Array, heads: Array, session: Session, shape: tuple[int, int], sampling: int
    ) -> None:
        """Decode datagrams of equal `shape`: number of records, bytes of each."""
        state = self._state
        version = session.domain.key.version
        protocol, form = PROTOCOL_OF_VERSION[version], _FORMATS[version]
        count, size = shape
        n = len(rows) * count
        area = gather(datagrams.data, datagrams.offset[rows] + form.header_size, count * size)
        records = area.reshape(len(rows), count, size)
        export_ns = numbers(heads, 8, 4) * 1_000_000_000 + numbers(heads, 12, 4)
        head = f.Head(export_ns[:, None], numbers(heads, 4, 4)[:, None])
        columns: dict[str, Values] = {}
        for name, (offset, length) in form.fields.items():
            if state.wants(name):
                read = f.address if COLUMNS[name].kind == "addr" else f.unsigned(COLUMNS[name].dtype)
                values = read(records[..., offset : offset + length], head)
                if values is not None:
                    columns[name] = values
        for name, offset in _TIMES.items():
            if state.wants(name):
                times = f.uptime(records[..., offset : offset + 4], head)
                if times is not None:
                    columns[name] = times
        key = session.domain.key
        columns["exporter"] = Values(constant((key.high, key.low), n, np.uint64))
        columns["observation_domain"] = Values(constant(key.domain, n, np.uint32))
        columns["export_protocol"] = protocol_column(protocol, n)
        columns.update(self._sampling(session, n, sampling))
        if state.wants("received_ns"):
            columns["received_ns"] = Values(np.repeat(datagrams.received_ns[rows], count))
        if state.wants("sequence") and version != 1:
            columns["sequence"] = Values(np.repeat(numbers(heads, 16, 4).astype(np.uint32), count))
        order = None
        if state.ordered:
            order = ((rows.astype(np.int64) << 32)[:, None] + np.arange(count)).reshape(-1)
        state.add(protocol, columns, n, order)

    def _sampling(self, session: Session, n: int, rate: int) -> dict[str, Values]:
        override = self._state.exporters.override(session.domain)
        if override is not None:
            return constant_sampling(self._state, n, Sampling(override, SAMPLING_SOURCES.index("config")))
        source = SAMPLING_SOURCES.index("wire" if rate else "unknown")
        return constant_sampling(self._state, n, Sampling(rate or None, source))
