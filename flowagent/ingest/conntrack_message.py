"""Connection tracking entries as the kernel tells them over netlink (nfnetlink_conntrack.h), many at a time.

A message is a header, then attributes: type, length, value, some nested. The
kernel writes those of like connections in the same order and of the same
length. So messages are sorted by their shape, one of each shape is walked, and
the values of all of them lie in the same places.

A library that makes objects of them takes 90 µs for each; this takes a few.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, Batch
from flowagent.errors import DecodeError
from flowagent.ingest.datagrams import gather

NEW, DELETE = 0x100, 0x102
"""Types of messages: an entry (of a dump, too), one that ended."""
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10
"""Flag of a dump during which the table changed its shape."""
_HEAD = struct.Struct("=IHHII")
_FIXED = 20
"""Bytes of netlink's header and of netfilter's below it."""
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TYPE = 0x3FFF
MAX_SHAPES = 1000
"""Of the messages decoded at once; those of more are not read."""

_ORIG, _REPLY, _IP, _PROTO = 1, 2, 1, 2
_SIDES = ((_ORIG, "", 9), (_REPLY, "reply_", 10))
"""Number of the tuple, prefix of the columns' names, number of the counters."""
_PORTS = ((2, "src_port", 2), (3, "dst_port", 2), (5, "icmp_type", 1), (6, "icmp_code", 1),
          (8, "icmp_type", 1), (9, "icmp_code", 1))  # fmt: skip
_DTYPES = {1: "u1", 2: ">u2", 4: ">u4", 8: ">u8"}


class Messages(NamedTuple):
    """Those about entries, in order: where each begins in the buffer, its bytes, its type. And what else was there."""

    offset: list[int]
    length: list[int]
    kind: list[int]
    done: bool = False
    """Whether a dump is at its end."""
    error: int = 0
    """What the kernel answered instead: an errno."""
    interrupted: bool = False


def find_messages(data: bytes) -> Messages:
    """The messages of what one call received; raises DecodeError("truncated") where the last one is cut off."""
    offset, length, kinds = [], [], []
    at, done, error, interrupted = 0, False, 0, False
    while len(data) - at >= _HEAD.size:
        size, kind, flags, _, _ = _HEAD.unpack_from(data, at)
        if size < _HEAD.size or size > len(data) - at:
            raise DecodeError("truncated")
        interrupted |= bool(flags & _INTERRUPTED)
        if kind in (NEW, DELETE) and size >= _FIXED:
            offset.append(at)
            length.append(size)
            kinds.append(kind)
        elif kind == _DONE:
            done = True
        elif kind == _ERROR and size >= _HEAD.size + 4:
            error = -struct.unpack_from("=i", data, at + _HEAD.size)[0]
        at += (size + 3) & ~3
    return Messages(offset, length, kinds, done, error, interrupted)


def decode(data: Array, offset: Array, length: Array) -> tuple[Batch, Array]:
    """Entries, and which message each is of, (n,) int64; messages that make no sense are left out.

    data (bytes,) uint8, offset and length (k,) int64.

    Columns, unknown where the message does not say: src_addr dst_addr src_port
    dst_port proto icmp_type icmp_code, and the same of the reply's tuple as
    reply_…; packets bytes reply_packets reply_bytes; start_ns stop_ns; id
    status zone.
    """
    parts: list[Batch] = []
    of: list[Array] = []
    for rows, messages in _by_shape(data, offset, length):
        columns = _columns(messages)
        if columns is not None:
            parts.append(Batch(columns, len(rows)))
            of.append(rows)
    return Batch.concat(parts), np.concatenate(of) if of else np.zeros(0, np.int64)


class _Place(NamedTuple):
    """An attribute: the numbers that lead to it, and where its value lies."""

    path: tuple[int, ...]
    start: int
    size: int


def _by_shape(data: Array, offset: Array, length: Array) -> Iterator[tuple[Array, tuple[Array, list[_Place]]]]:
    """Messages of the same shape: which (n,), their bytes (n, length) uint8 and what lies where."""
    shapes = 0
    for size in np.flatnonzero(np.bincount(length)).tolist() if len(length) else ():
        rows = np.flatnonzero(length == size)
        messages = gather(data, offset[rows], size)
        while len(rows) and shapes < MAX_SHAPES:
            shapes += 1
            places, heads = walk(messages[0].tobytes())
            like = (messages[:, heads] == messages[0, heads]).all(axis=1)
            if places:
                yield rows[like], (messages[like], places)
            rows, messages = rows[~like], messages[~like]


def walk(message: bytes) -> tuple[list[_Place], list[int]]:
    """The attributes that hold values, none where the message is wrong; and which of its bytes make its shape."""
    places: list[_Place] = []
    heads: list[int] = [*range(4, 6), 16]  # the type of the message, and the family of its addresses
    todo = [((), _FIXED, len(message))]
    while todo:
        path, at, end = todo.pop()
        while end - at >= _ATTRIBUTE.size:
            size, kind = _ATTRIBUTE.unpack_from(message, at)
            heads += range(at, at + 4)
            if size < _ATTRIBUTE.size or size > end - at:
                return [], heads
            where = (*path, kind & _TYPE)
            if kind & _NESTED and len(path) < 4:
                todo.append((where, at + 4, at + size))  # type: ignore[arg-type]
            else:
                places.append(_Place(where, at + 4, size - 4))
            at += (size + 3) & ~3
    return places, heads


def _columns(shape: tuple[Array, list[_Place]]) -> dict[str, Array] | None:
    """The columns of entries of one shape; None where there are no addresses."""
    messages, places = shape
    found = {place.path: place for place in places}

    def number(*path: int, size: int) -> Array | None:
        place = found.get(path)
        if place is None or place.size != size:
            return None
        raw = np.ascontiguousarray(messages[:, place.start : place.start + size])
        values: Array = raw.view(_DTYPES[size])[:, 0]
        return values.astype(values.dtype.newbyteorder("="))

    columns: dict[str, Array | None] = {}
    for side, prefix, counters in _SIDES:
        for at, name in ((0, "src_addr"), (1, "dst_addr")):
            v4 = number(side, _IP, 1 + at, size=4)
            columns[prefix + name] = _mapped(v4) if v4 is not None else _words(messages, found.get((side, _IP, 3 + at)))
        columns[f"{prefix}proto"] = number(side, _PROTO, 1, size=1)
        for kind, name, size in _PORTS:
            values = number(side, _PROTO, kind, size=size)
            if values is not None:
                columns[prefix + name] = values
        columns[f"{prefix}packets"] = number(counters, 1, size=8)
        columns[f"{prefix}bytes"] = number(counters, 2, size=8)
    for name, path in (("start_ns", (20, 1)), ("stop_ns", (20, 2))):
        time = number(*path, size=8)
        columns[name] = time.astype(np.int64) if time is not None else None
    columns["id"], columns["status"] = number(12, size=4), number(3, size=4)
    columns["zone"] = number(18, size=2)
    needed = ("src_addr", "dst_addr", "reply_src_addr", "reply_dst_addr", "proto")
    if any(columns[name] is None for name in needed):
        return None
    return {name: values for name, values in columns.items() if values is not None}


def _mapped(v4: Array) -> Array:
    return np.stack([np.zeros(len(v4), np.uint64), v4.astype(np.uint64) | np.uint64(V4_MAPPED)])


def _words(messages: Array, place: _Place | None) -> Array | None:
    if place is None or place.size != 16:
        return None
    raw = np.ascontiguousarray(messages[:, place.start : place.start + 16])
    return np.ascontiguousarray(raw.view(">u8").astype(np.uint64).T)
