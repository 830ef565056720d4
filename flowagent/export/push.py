"""The bodies of Loki's push request: protobuf (logproto.PushRequest) or JSON.

    PushRequest   streams = 1
    StreamAdapter labels = 1 (text), entries = 2, hash = 3 (left out)
    EntryAdapter  timestamp = 1, line = 2, structuredMetadata = 3
    Timestamp     seconds = 1, nanos = 2
    LabelPair     name = 1, value = 2

Entries are packed once, column-wise; any selection of them makes a body. The
protobuf is what the official library writes, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Protocol

import cramjam
import msgspec
import numpy as np

from flowagent.batch import Array
from flowagent.export.matrix import Matrix
from flowagent.export.protobuf import varint, varints

_SECOND = np.int64(1_000_000_000)


class Format(Protocol):
    """One of both formats."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What HTTP is told of a body."""

    def stream(self, labels: Mapping[str, str]) -> bytes:
        """The labels of a stream, as `body` takes them."""

    def pair(self, name: str, value: str) -> bytes:
        """One label of structured metadata."""

    def entries(self, times_ns: Array, lines: Sequence[bytes], pairs: Sequence[Sequence[bytes]]) -> list[bytes]:
        """An entry for each of n rows: times (n,) int64 since 1970, n lines, and for each row the pairs it has."""

    def body(self, streams: Iterable[tuple[bytes, Sequence[bytes]]]) -> bytes:
        """Streams with their entries."""

    def compress(self, body: bytes) -> bytes:
        """As it goes over the wire."""


class Protobuf:
    """Binary and compressed with Snappy: what Loki expects by default."""

    headers: Mapping[str, str] = MappingProxyType({"Content-Type": "application/x-protobuf"})

    def stream(self, labels: Mapping[str, str]) -> bytes:
        # JSON escapes as Go does, which reads this.
        text = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(labels.items()))
        return _field(1, f"{{{text}}}".encode())

    def pair(self, name: str, value: str) -> bytes:
        return _field(3, _field(1, name.encode()) + _field(2, value.encode()))

    def entries(self, times_ns: Array, lines: Sequence[bytes], pairs: Sequence[Sequence[bytes]]) -> list[bytes]:
        if not lines:
            return []
        tails = [b"".join(row) for row in pairs] if pairs else []
        heads = _heads(times_ns, _lengths(lines), _lengths(tails) if tails else np.zeros(len(lines), np.int64))
        return list(map(b"".join, zip(heads, lines, tails, strict=True) if tails else zip(heads, lines, strict=True)))

    def body(self, streams: Iterable[tuple[bytes, Sequence[bytes]]]) -> bytes:
        out: list[bytes] = []
        for labels, entries in streams:
            out += (b"\x0a", varint(len(labels) + sum(map(len, entries))), labels)
            out += entries
        return b"".join(out)

    def compress(self, body: bytes) -> bytes:
        return bytes(cramjam.snappy.compress_raw(body))


class Json:
    """For other servers, and for people; lines are texts in it, so it is larger and slower."""

    headers: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json", "Content-Encoding": "gzip"})

    def stream(self, labels: Mapping[str, str]) -> bytes:
        return msgspec.json.encode(labels, order="sorted")

    def pair(self, name: str, value: str) -> bytes:
        return msgspec.json.encode({name: value})[1:-1]

    def entries(self, times_ns: Array, lines: Sequence[bytes], pairs: Sequence[Sequence[bytes]]) -> list[bytes]:
        texts = map(msgspec.json.encode, (line.decode("utf-8", "replace") for line in lines))
        times = times_ns.tolist()
        if not pairs:
            return [b'["%d",%b]' % row for row in zip(times, texts, strict=True)]
        tails = map(b",".join, pairs)
        return [b'["%d",%b,{%b}]' % row for row in zip(times, texts, tails, strict=True)]

    def body(self, streams: Iterable[tuple[bytes, Sequence[bytes]]]) -> bytes:
        parts = (b'{"stream":%b,"values":[%b]}' % (labels, b",".join(entries)) for labels, entries in streams)
        return b'{"streams":[%b]}' % b",".join(parts)

    def compress(self, body: bytes) -> bytes:
        return bytes(cramjam.gzip.compress(body, level=1))


def _heads(times_ns: Array, lengths: Array, tail_lengths: Array) -> list[bytes]:
    """What stands in an entry before its line, tag and length of the entry included.

    Numbers of all lengths stand side by side, then the bytes that they do not need are taken out.
    """
    n = len(lengths)
    data, used = Matrix(n), Matrix(n)

    def octets(constant: bytes) -> None:
        data.constant(constant)
        used.constant(b"\1" * len(constant))

    def number(tag: bytes, values: Array) -> None:
        """A field; nothing where it is 0, as proto3 has it."""
        start = used.width
        octets(tag)
        for matrix, column in zip((data, used), varints(values), strict=True):
            matrix.column(column)
        used.erase(start, values == 0)

    seconds, nanos = (part.astype(np.uint64) for part in np.divmod(np.maximum(times_ns, 0), _SECOND))
    stamp = _varint_lengths(seconds) + _varint_lengths(nanos) + (seconds > 0) + (nanos > 0)
    number(b"\x12", 3 + stamp + _varint_lengths(lengths) + lengths + tail_lengths)
    octets(b"\x0a")
    data.column(stamp.astype(np.uint8))
    used.constant(b"\1")
    number(b"\x08", seconds)
    number(b"\x10", nanos)
    number(b"\x12", lengths)
    keep = np.frombuffer(used.build(), np.bool_)
    heads = np.frombuffer(data.build(), np.uint8)[keep].tobytes()
    ends = np.cumsum(keep.reshape(n, used.width).sum(axis=1)).tolist()
    return [heads[start:end] for start, end in pairwise([0, *ends])]


def _varint_lengths(values: Array) -> Array:
    """Bytes that each needs, int64 (n,); 0 for 0."""
    lengths = np.zeros(len(values), np.int64)
    for bits in range(0, 35, 7):
        lengths += values >= 1 << bits
    return lengths


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field; proto3 leaves out empty ones."""
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def _lengths(texts: Sequence[bytes]) -> Array:
    return np.fromiter(map(len, texts), np.int64, len(texts))


FORMATS: dict[str, Format] = {"protobuf": Protobuf(), "json": Json()}
