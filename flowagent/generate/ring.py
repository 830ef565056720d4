"""Datagrams that are made once and sent again and again, with the present time and the next sequence number."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowagent.clock import SECOND

if TYPE_CHECKING:
    from flowagent.batch import Array

_U32 = 0xFFFF_FFFF


class Header(NamedTuple):
    """How a protocol tells the time and counts: its header and what its numbers mean.

    `dtype` has the field sequence, perhaps seconds, uptime and nanoseconds.
    The header names an instant that is a multiple of `step_ms`, so that
    whole seconds and uptime agree; flow times count back from it. `ahead`
    seconds are added to what it says. The sequence number counts records, or
    datagrams.
    """

    dtype: np.dtype[np.void]
    step_ms: int
    ahead: int = 0
    counts_datagrams: bool = False


class Counts(NamedTuple):
    """What datagrams hold, (n,) int64 each: flow records, their packets and bytes.

    And `units`, by which each takes the sequence number further.
    """

    records: Array
    packets: Array
    bytes: Array
    units: Array


class Totals(NamedTuple):
    """Running totals of an exporter, 8 bytes each, ordered by datagram.

    `first` (n + 1,) int64: where the totals of datagram i begin in the other
    columns; `position` (t,) int64: byte in the ring's memory; `value` (t,)
    uint64: in the first round; `per_round` (t,) uint64: how much is added by
    every round.
    """

    first: Array
    position: Array
    value: Array
    per_round: Array

    def stamp(self, data: Array, rows: slice, rounds: int) -> None:
        """Write what they are in these datagrams after so many rounds."""
        mine = slice(self.first[rows.start], self.first[rows.stop])
        values = (self.value[mine] + self.per_round[mine] * np.uint64(rounds)).astype(">u8")
        data.reshape(-1)[self.position[mine][:, None] + np.arange(8)] = values.view(np.uint8).reshape(-1, 8)


class Ring:
    """`data` (n, width) uint8: one datagram a row, the first `length` (n,) bytes of it.

    `sums` (n + 1, 5) int64: cumulated counts of datagrams, records, packets,
    bytes and payload bytes before row i.
    """

    def __init__(
        self, data: Array, length: Array, header: Header, counts: Counts, *, boot_ms: int, totals: Totals | None = None
    ) -> None:
        self.data, self.length = data, length
        one = np.ones(len(data), np.int64)
        each = np.stack([one, counts.records, counts.packets, counts.bytes, length], 1)
        self.sums = np.concatenate([np.zeros((1, 5), np.int64), each.cumsum(0)])
        self._units = np.concatenate([[0], np.cumsum(counts.units)])
        self._header = header
        self._headers = np.ndarray((len(data),), header.dtype, data, 0, data.strides[:1])
        self._boot_ms = boot_ms
        self._times: list[tuple[Array, Array]] = []
        self._totals = totals
        self._position = self._rounds = 0

    def __len__(self) -> int:
        return len(self.data)

    def add_time(self, field: Array, ago: Array) -> None:
        """Keep `field`, an (n, m) view into `data`, at the header's instant less `ago` (n, m) int64 milliseconds.

        In milliseconds since the exporter's boot where the header has an uptime, else since 1970.
        """
        self._times.append((field, ago))

    def take(self, limit: int) -> slice:
        """Take the next datagrams: at most so many, and never beyond the end of a round."""
        if self._position == len(self):
            self._position = 0
            self._rounds += 1
        start = self._position
        self._position = min(start + limit, len(self))
        return slice(start, self._position)

    def stamp(self, rows: slice, sequence: int, now_ns: int) -> int:
        """Bring the rows last taken up to date; returns the sequence number for what follows them."""
        step_ms = self._header.step_ms
        instant = now_ns * 1000 // SECOND // step_ms * step_ms
        headers, units = self._headers[rows], self._units
        headers["sequence"] = (sequence + units[rows] - units[rows.start]) & _U32
        names = self._header.dtype.names or ()
        if "seconds" in names:
            headers["seconds"] = (instant // 1000 + self._header.ahead) & _U32
        if "nanoseconds" in names:
            headers["nanoseconds"] = instant % 1000 * 1_000_000
        if "uptime" in names:
            instant -= self._boot_ms
            headers["uptime"] = instant & _U32
        for field, ago in self._times:
            field[rows] = instant - ago[rows]
        if self._totals is not None and self._rounds:
            self._totals.stamp(self.data, rows, self._rounds)
        return int(sequence + units[rows.stop] - units[rows.start]) & _U32


class Export(NamedTuple):
    """All that an exporter of one protocol sends."""

    data: Ring
    templates: Ring | None
    """Sent whole at the start and every so often; None where the protocol has none."""
    first_sequence: int


def messages_ring(messages: list[bytes], units: list[int], header: Header, *, boot_ms: int) -> Ring:
    """Make a ring of ready datagrams without flow records, whose headers are still to be stamped."""
    length = np.array([len(message) for message in messages])
    data = np.zeros((len(messages), length.max()), np.uint8)
    for row, message in zip(data, messages, strict=True):
        row[: len(message)] = np.frombuffer(message, np.uint8)
    nothing = np.zeros(len(messages), np.int64)
    counts = Counts(nothing, nothing, nothing, np.array(units))
    return Ring(data, length, header, counts, boot_ms=boot_ms)
