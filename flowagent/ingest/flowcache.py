"""The flow cache: packets into flow records, as a metering process does (RFC 7011, section 2; RFC 5470, section 5).

A flow is one direction of a conversation: packets of equal key. Time is that of
the packets and is looked at once a second: what is over by then becomes a
record. So a batch is cut at the full seconds, and within one second packets are
only added up: grouped by key, then merged into the table, whose rows are found
by a sorted array of hashes. The records do not depend on how packets were
batched, as long as the table is not full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.clock import SECOND
from flowagent.grouping import group_rows, key_arrays
from flowagent.ingest.flowtable import FIRST, FLAGS_KNOWN, KEY, FlowTable, Rows

IDLE, ACTIVE, ENDED, FORCED, LACK = 1, 2, 3, 4, 5
"""Why a flow ended: the values of IPFIX flowEndReason (RFC 5102, section 5.11.3)."""
_LINGER_NS = SECOND
"""How long a conversation that was closed must be quiet: the last acknowledgements belong to it."""
_STEP_BACK_NS = 60 * SECOND
"""Packets may come out of order; when time goes back by more, it was set."""
_FIN, _RST, _TCP = 1, 4, 6
_NEVER = -(1 << 62)


class Limits(NamedTuple):
    """When flows end.

    idle_ns    without a packet for this long
    active_ns  this long after their first packet, though packets still come: the rest is another record
    most       flows in the table; those without a packet for the longest time make room for more
    """

    idle_ns: int = 15 * SECOND
    active_ns: int = 60 * SECOND
    most: int = 200_000


class FlowCache:
    """Adds packets up by flow; bounded by `limits.most` flows and the packets of one second or one batch.

    Records have the columns of `flowtable.KEY` and `FIRST` that packets had (the
    latter of the first packet), `bytes`, `packets`, `tcp_flags` (all that were
    seen), `start_ns`, `end_ns`, `flow_end_reason`, and `received_ns`, the time at
    which the record was made. A TCP conversation ends with a FIN from both sides or a RST from
    either, once it is quiet for a second: both its flows are then `ENDED`.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.evicted = 0
        """Flows that ended for want of room."""
        self._table = FlowTable()
        self._clock = _NEVER

    def __len__(self) -> int:
        """Flows under way."""
        return len(self._table)

    def add(self, packets: Batch, ns: Array) -> Iterator[Batch]:
        """Take packets in; yields the records that were over before them, or must go to make room.

        `packets` has n rows with `bytes` and what there is of `KEY`, `FIRST` and
        `tcp_flags`; `ns` (n,) int64 is their time, in about that order.
        """
        while len(packets):
            clock = np.maximum.accumulate(np.maximum(ns, self._clock))
            back = np.flatnonzero(clock - ns > _STEP_BACK_NS)
            stop = int(back[0]) if len(back) else len(ns)
            yield from self._forward(packets.rows(0, stop), ns[:stop], clock[:stop])
            if stop == len(ns):
                return
            yield from self.flush()
            packets, ns = packets.rows(stop, len(ns)), ns[stop:]

    def expire(self, now_ns: int) -> Iterator[Batch]:
        """Time went on without packets."""
        if now_ns // SECOND > self._clock // SECOND:
            yield from self._tick(now_ns)
            self._clock = max(self._clock, now_ns)

    def flush(self) -> Iterator[Batch]:
        """End all flows and forget the time."""
        rows = self._table.live
        if len(rows):
            yield self._out(rows, np.full(len(rows), FORCED, np.uint8), self._clock)
        self._clock = _NEVER

    def _forward(self, packets: Batch, ns: Array, clock: Array) -> Iterator[Batch]:
        """Packets of which none goes back in time too far."""
        seconds = clock // SECOND
        cuts = np.flatnonzero(seconds[1:] != seconds[:-1]) + 1
        start = 0
        for stop in [*cuts.tolist(), len(ns)] if len(ns) else []:
            if seconds[start] > self._clock // SECOND:
                yield from self._tick(int(seconds[start]) * SECOND)
            self._table.add(_merged(packets.rows(start, stop), ns[start:stop]))
            self._clock = int(clock[stop - 1])
            yield from self._make_room()
            start = stop

    def _tick(self, now_ns: int) -> Iterator[Batch]:
        """The flows that are over at this time, which begins a second."""
        now_ns = now_ns // SECOND * SECOND
        rows = self._table.live
        if not len(rows):
            return
        start, end, flags = (self._table.counts[name][rows] for name in ("start_ns", "end_ns", "tcp_flags"))
        reasons = np.zeros(len(rows), np.uint8)
        reasons[start <= now_ns - self.limits.active_ns] = ACTIVE
        reasons[end <= now_ns - self.limits.idle_ns] = IDLE
        reasons[self._closed(rows, flags, now_ns - _LINGER_NS)] = ENDED
        over = reasons > 0
        if bool(over.any()):
            yield self._out(rows[over], reasons[over], now_ns)

    def _closed(self, rows: Array, flags: Array, quiet_since_ns: int) -> Array:
        """(rows,) bool: flows of conversations that were closed and are quiet."""
        closing = rows[(flags & (_FIN | _RST) != 0)]
        closing = closing[self._table.columns["proto"][closing] == _TCP]
        table = self._table.counts
        back = self._table.find(self._table.reversed(closing))
        known = back >= 0
        mine, theirs = table["tcp_flags"][closing], np.where(known, table["tcp_flags"][back], 0)
        last = np.maximum(table["end_ns"][closing], np.where(known, table["end_ns"][back], _NEVER))
        over = ((mine | theirs) & _RST != 0) | (mine & theirs & _FIN != 0)
        over &= last <= quiet_since_ns
        marked = np.zeros(self._table.size, np.bool_)
        marked[closing[over]] = True
        marked[back[over & known]] = True
        return marked[rows]

    def _make_room(self) -> Iterator[Batch]:
        excess = len(self._table) - self.limits.most
        if excess > 0:
            rows = np.sort(self._table.live)
            oldest = rows[np.argpartition(self._table.counts["end_ns"][rows], excess - 1)[:excess]]
            self.evicted += excess
            yield self._out(oldest, np.full(excess, LACK, np.uint8), self._clock)

    def _out(self, rows: Array, reasons: Array, now_ns: int) -> Batch:
        # By their beginning, then in the order in which packets came.
        order = np.lexsort((rows, self._table.counts["start_ns"][rows]))
        return self._table.take_out(rows[order]).with_columns({
            "flow_end_reason": reasons[order],
            "received_ns": constant(now_ns, len(rows), np.int64),
        })  # fmt: skip


def _merged(packets: Batch, ns: Array) -> Rows:
    """One row a flow."""
    keys = packets.select(KEY)
    groups = group_rows(list(key_arrays(keys, keys.columns)))
    order, starts, sizes = groups.order, groups.starts, groups.sizes()
    if bool((ns[1:] >= ns[:-1]).all()):
        start, end = ns[groups.first], ns[order[starts + sizes - 1]]
    else:
        sorted_ns = ns.take(order)
        start, end = np.minimum.reduceat(sorted_ns, starts), np.maximum.reduceat(sorted_ns, starts)
    flags = np.zeros(len(packets), np.uint16)
    if "tcp_flags" in packets:
        flags = np.where(packets.is_known("tcp_flags"), packets["tcp_flags"] | FLAGS_KNOWN, 0)
    counts = {
        "start_ns": start,
        "end_ns": end,
        "bytes": np.add.reduceat(packets["bytes"].take(order), starts, dtype=np.uint64),
        "packets": sizes.astype(np.uint64),
        "tcp_flags": np.bitwise_or.reduceat(flags.take(order), starts),
    }
    # New flows take their places in the order of arrival, so that the same packets give the same rows.
    arrival = np.argsort(groups.first)
    return Rows.of(
        packets.select((*KEY, *FIRST)).take(groups.first[arrival]),
        {name: values[arrival] for name, values in counts.items()},
    )
