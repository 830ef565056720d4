"""Messages of protobuf 3, read column by column (https://protobuf.dev/programming-guides/encoding/).

All messages are walked at once: of those whose next field has the lowest tag, that field is read, and so on. Writers
order fields by their numbers, so there are about as many steps as there are different fields, however many messages.
Any order is read, though, and what is damaged costs its own message only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; groups, which are 3 and 4, nobody writes any more."""
MAX_FIELDS = 128
"""Fields of a message; one with more is refused."""
_NUMBERS = 2048
"""Fields with greater numbers are skipped."""
_FEW = 16
"""Values that are worth a loop of their own."""
_U64 = np.uint64
_TOPS = _U64(0x8080808080808080)
_BITS = _U64(0x7F7F7F7F7F7F7F7F)
_HALVES = tuple(
    (_U64(low), _U64(high), _U64(shift))
    for low, high, shift in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)
_ONE, _SEVEN = _U64(1), _U64(0x7F)
_DONE = np.uint32(0xFFFFFFFF)
_UNKNOWN = np.uint32(0xFFFFFF00)
"""With a wire type: the tag of any field that is skipped."""
_PAD = 16
"""Bytes that may be read behind the last message."""


class Field(NamedTuple):
    """One field of those messages that have it next; arrays (k,)."""

    number: int
    wire_type: int
    rows: Array
    """Messages, by their position."""
    values: Array
    """uint64: the number, the bits of a fixed one, or where bytes begin."""
    lengths: Array | None
    """int64: how many bytes."""


class Buffer:
    """Octets that can be read as words at any place."""

    def __init__(self, data: bytes) -> None:
        self.data = np.frombuffer(data + bytes(_PAD), np.uint8)
        self.size = len(data)
        self._words: Array = np.ndarray((self.size + _PAD - 7,), "V8", buffer=self.data, strides=(1,))

    def words(self, at: Array) -> Array:
        """(k,) uint64: eight octets from each place on, the first one lowest; behind the end are zeros."""
        return self._words[np.minimum(at, self.size + _PAD - 8)].view("<u8")

    def varints(self, at: Array) -> tuple[Array, Array]:
        """(k,) uint64 and the places (k,) int64 behind them; one that has no end within 10 octets ends far outside."""
        words = self.words(at)
        ends = ~words & _TOPS
        last = ends & (~ends + _ONE)
        used = (last << _ONE) - _ONE
        bits = words & used & _BITS
        for low, high, shift in _HALVES:
            bits = (bits & low) | ((bits & high) >> shift)
        after = at + (np.bitwise_count(used) >> 3)
        long = np.flatnonzero(ends == 0)
        if len(long):
            rest = self.words(at[long] + 8)
            more = (rest & _U64(0x80)) != 0
            bits[long] |= ((rest & _SEVEN) << _U64(56)) | np.where(more, (rest >> _U64(8) & _ONE) << _U64(63), _U64(0))
            is_bad = more & ((rest & _U64(0xFE00)) != 0)
            after[long] = at[long] + 9 + more + np.where(is_bad, 1 << 40, 0)
        return bits, after


class Messages:
    """Messages that lie at these places of a buffer; `bad` (n,) bool says which are damaged, once all were walked."""

    def __init__(self, buffer: Buffer, starts: Array, ends: Array) -> None:
        self._buffer = buffer
        self._at = starts.astype(np.int64)
        self._ends = ends
        self.bad = np.zeros(len(starts), np.bool_)

    def fields(self, known: Collection[int]) -> Iterator[Field]:
        """Those with these numbers; of each message in its order. The last of several is what counts."""
        is_known = np.zeros(_NUMBERS, np.bool_)
        is_known[list(known)] = True
        tags = np.full(len(self._at), _DONE)
        every = np.arange(len(self._at))
        counts = np.zeros(len(self._at), np.int16)
        self._next(tags, every, is_known)
        while len(tags) and (tag := int(tags.min())) != _DONE:
            rows = np.flatnonzero(tags == tag)
            rows = every if len(rows) == len(every) else rows
            values, lengths, after = self._value(tag & 7, self._at.take(rows))
            counts[rows] += 1
            fits = (after <= self._ends.take(rows)) & (counts.take(rows) <= MAX_FIELDS)
            self._at[rows] = after
            if not fits.all():
                self.bad[rows[~fits]] = True
                tags[rows] = _DONE
                rows, values = rows[fits], values[fits]
                lengths = lengths if lengths is None else lengths[fits]
            if tag < _UNKNOWN:
                yield Field(tag >> 3, tag & 7, rows, values, lengths)
            self._next(tags, rows, is_known)

    def _value(self, wire_type: int, at: Array) -> tuple[Array, Array | None, Array]:
        """What stands there, for bytes how long it is, and the place behind it."""
        if wire_type == VARINT:
            values, after = self._buffer.varints(at)
            return values, None, after
        if wire_type == BYTES:
            sizes, begin = self._buffer.varints(at)
            lengths = np.minimum(sizes, _U64(1 << 40)).astype(np.int64)
            return begin.astype(_U64), lengths, begin + lengths
        words = self._buffer.words(at)
        if wire_type == FIXED32:
            return words & _U64(0xFFFFFFFF), None, at + 4
        return words, None, at + (8 if wire_type == FIXED64 else 1 << 40)  # groups are damage

    def _next(self, tags: Array, rows: Array, is_known: Array) -> None:
        """Read the next tag of these messages."""
        at = self._at.take(rows)
        found, after = self._buffer.varints(at)
        ends = self._ends.take(rows)
        is_over = at >= ends
        numbers = found >> _U64(3)
        skipped = ~is_known.take(np.minimum(numbers, _U64(_NUMBERS - 1)).astype(np.intp)) | (numbers >= _NUMBERS)
        bad = ~is_over & ((after > ends) | (numbers == 0) | (found > _U64(0xFFFFFFFF)))
        new = np.where(skipped, _UNKNOWN | (found & _U64(7)).astype(np.uint32), found.astype(np.uint32))
        tags[rows] = np.where(is_over | bad, _DONE, new)
        self._at[rows] = np.where(is_over, at, after)
        self.bad[rows[bad]] = True


def delimited(buffer: Buffer, starts: Array, ends: Array) -> tuple[Array, Array, Array, Array]:
    """Messages that stand behind their length, in chunks that each hold any number of them.

    Returns of each message (n,) its chunk, begin and end, in the order of chunks, and (chunks,) bool: which are cut
    off or damaged behind the messages that were found in them.
    """
    found: list[tuple[Array, Array, Array]] = []
    bad = np.zeros(len(starts), np.bool_)
    chunks, at = np.arange(len(starts)), starts.astype(np.int64)
    while len(chunks):
        more = at < ends[chunks]
        chunks, at = chunks[more], at[more]
        if len(chunks) <= _FEW and found:
            break
        sizes, begin = buffer.varints(at)
        stop = begin + np.minimum(sizes, _U64(1 << 40)).astype(np.int64)
        fits = stop <= ends[chunks]
        bad[chunks[~fits]] = True
        chunks, begin, at = chunks[fits], begin[fits], stop[fits]
        found.append((chunks, begin, at))
    for chunk, place in zip(chunks.tolist(), at.tolist(), strict=True):
        begins, stops, bad[chunk] = _walk(buffer.data, place, int(ends[chunk]))
        found.append((np.full(len(begins), chunk), np.array(begins, np.int64), np.array(stops, np.int64)))
    which, begins_of, stops_of = (np.concatenate(parts) for parts in zip(*found, strict=True)) if found else [at] * 3
    order = np.argsort(which, kind="stable")
    return which[order], begins_of[order], stops_of[order], bad


def _walk(data: Array, at: int, end: int) -> tuple[list[int], list[int], bool]:
    """The messages of one chunk: their begins and ends, and whether it is damaged behind them."""
    octets = data[at:end].tobytes()
    begins: list[int] = []
    stops: list[int] = []
    place = 0
    while place < len(octets):
        size = shift = 0
        while True:
            if place >= len(octets) or shift > 63:
                return begins, stops, True
            octet = octets[place]
            place += 1
            size |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                break
        if place + size > len(octets):
            return begins, stops, True
        begins.append(at + place)
        place += size
        stops.append(at + place)
    return begins, stops, False
