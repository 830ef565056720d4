"""Capture files, pcap and pcapng, as frames: many at a time, where they lie in the bytes that were read.

Only the lengths by which records follow one another are read one by one; the
rest of the headers is read column by column. Written here and not left to dpkt:
its time stamps are floats, too coarse for nanoseconds; it takes every packet of
a pcapng file for one of the first interface; and it costs 14 µs a packet, this
about 0.15.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Protocol

import numpy as np
import zstandard

from flowagent.batch import Array
from flowagent.errors import ConfigError, DecodeError
from flowagent.ingest.datagrams import gather

_PCAPNG = b"\x0a\x0d\x0d\x0a"
_PCAP_UNITS = ((0xA1B2C3D4, 1000), (0xA1B23C4D, 1))  # nanoseconds per unit of the fraction
_PCAP = {struct.pack(f"{order}I", magic): (order, unit) for order in "<>" for magic, unit in _PCAP_UNITS}

_CHUNK_BYTES = 16 << 20
"""Read at once: thousands of packets even where they are long, for each batch costs something."""
# libpcap writes no longer packets, Wireshark no longer blocks: a greater length is damage, not data.
_MAX_PACKET, _MAX_BLOCK, _MAX_INTERFACES = 1 << 18, 1 << 24, 1 << 16
_PCAPNG_ORDER = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 2, 3, 6
_SECTION = 0x0A0D0D0A
_RECORD_HEAD, _ENHANCED_HEAD = 16, 28
_BAD_BLOCK = (DecodeError, struct.error, LookupError)
BAD_FILE = (*_BAD_BLOCK, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
"""What reading a damaged file raises, beside EOFError where its end is missing."""
# Beyond these, times of an interface need more than 64 bits on the way and are computed one by one.
_MAX_TICKS, _MAX_OFFSET = 1 << 33, 1 << 40
_MAX_SECONDS = (1 << 63) // 10**9


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """As many as asked for, or fewer at the end."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as there are bytes now; 0 at the end."""


@dataclass(frozen=True, slots=True)
class Frames:
    """n packets as they were captured; the buffer is valid until the next ones are asked for.

    data    (bytes,) uint8: the buffer
    offset  (n,) int64: where each frame begins in `data`
    length  (n,) int64: how much of it was captured
    wire    (n,) int64: how long it was
    ns      (n,) int64: when it was captured
    link    (n,) int64: its link type, by the numbers of pcap files
    """

    data: Array
    offset: Array
    length: Array
    wire: Array
    ns: Array
    link: Array

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: Array | slice) -> Frames:
        """Some of them, in the same buffer."""
        columns = (self.offset, self.length, self.wire, self.ns, self.link)
        return Frames(self.data, *(values[rows] for values in columns))


def open_file(path: Path) -> BufferedReader:
    """A file to read from; ConfigError where that cannot be."""
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ConfigError:
    """What to raise where a file cannot be read."""
    return ConfigError(str(path), f"cannot be read: {error.strerror}; name a readable pcap, pcapng or payload file")


def decompressed(file: BufferedReader) -> Stream:
    """What is in a file that may be compressed with gzip or zstd."""
    # By content, not by name: no export protocol begins like this.
    start = file.peek(4)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return file


def is_capture(magic: bytes) -> bool:
    """Whether a file that begins with these four bytes is pcap or pcapng."""
    return magic in _PCAP or magic == _PCAPNG


def read_frames(magic: bytes, stream: Stream, skipped: Counter[str]) -> Iterator[Frames]:
    """The frames of a file whose first four bytes were read already: those of a pcap or pcapng file.

    Packet blocks of pcapng that contradict themselves are counted as `bad_packet`. Raises, after
    all frames before it, EOFError for a file that ends inside a record, DecodeError or
    struct.error or LookupError for one of damaged structure. Memory is bounded.
    """
    if magic == _PCAPNG:
        yield from _pcapng(magic, stream, skipped)
    else:
        yield from _pcap(magic, stream)


def exactly(stream: Stream, size: int) -> bytes:
    """So many bytes, or EOFError."""
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


class _Window:
    """The part of a stream that is in memory: one buffer used again and again, for fresh memory is slow."""

    def __init__(self, stream: Stream, start: bytes = b"") -> None:
        self._stream = stream
        self._buffer = bytearray(_CHUNK_BYTES)
        self._buffer[: len(start)] = start
        self.data = memoryview(self._buffer)[: len(start)]

    def read(self, done: int) -> bool:
        """Forget the first `done` bytes and read on; False where the stream ends."""
        rest = self.data[done:]
        buffer = self._buffer if len(rest) <= len(self._buffer) // 2 else bytearray(2 * len(self._buffer))
        buffer[: len(rest)] = bytes(rest)
        count = self._stream.readinto(memoryview(buffer)[len(rest) :])
        self._buffer, self.data = buffer, memoryview(buffer)[: len(rest) + count]
        return count > 0


def _pcap(magic: bytes, stream: Stream) -> Iterator[Frames]:
    order, unit = _PCAP[magic]
    # The upper half of the word is about frame check sequences, which IP lengths cut off anyway.
    link = struct.unpack(f"{order}16xI", exactly(stream, 20))[0] & 0xFFFF
    window, stop = _Window(stream), 0
    while window.read(stop):
        offset, stop = _records(window.data, order)
        if len(offset):
            buffer = np.frombuffer(window.data, np.uint8)
            seconds, fraction, captured, wire = _words(buffer, offset, order, 4)
            ns = seconds * 10**9 + fraction * unit
            yield Frames(buffer, offset + _RECORD_HEAD, captured, wire, ns, np.full(len(offset), link))
        left = window.data[stop:]
        if len(left) >= _RECORD_HEAD and (size := struct.unpack_from(f"{order}8xI", left)[0]) > _MAX_PACKET:
            raise DecodeError("bad_file", f"a packet of {size} bytes")
    if window.data:
        raise EOFError


def _records(data: memoryview, order: str) -> tuple[Array, int]:
    """Where pcap records begin that are there as a whole, and where the last one ends."""
    places: list[int] = []
    found, unpack = places.append, struct.Struct(f"{order}I").unpack_from
    at = 8
    # The one loop over packets, so what can be checked afterwards is. Each step is forward: it ends with the data.
    with contextlib.suppress(struct.error):
        while True:
            found(at)
            at += unpack(data, at)[0] + _RECORD_HEAD
    begins = np.array(places, np.int64) - 8
    good = (np.diff(begins) <= _RECORD_HEAD + _MAX_PACKET) & (begins[1:] <= len(data))
    whole = len(good) if bool(good.all()) else int(good.argmin())
    return begins[:whole], int(begins[whole])


def _words(buffer: Array, offset: Array, order: str, count: int) -> Array:
    """(count, n) int64: 32-bit numbers that lie one after the other at each offset."""
    heads = gather(buffer, offset, 4 * count)
    return np.ascontiguousarray(heads.view(f"{order}u4").T).astype(np.int64)


@dataclass(slots=True)
class _Section:
    """What a section of a pcapng file has said of its interfaces."""

    order: str
    last_ns: int = 0
    link: list[int] = field(default_factory=list)
    longest: list[int] = field(default_factory=list)
    """0: any."""
    offset: list[int] = field(default_factory=list)
    """Seconds."""
    ticks: list[int] = field(default_factory=list)
    """In a second."""

    def add(self, body: bytes) -> None:
        """An interface description block."""
        link, longest = struct.unpack_from(f"{self.order}HxxI", body)
        resolution, offset, at = 6, 0, 8
        while at + 4 <= len(body):
            code, length = struct.unpack_from(f"{self.order}2H", body, at)
            if code == 9:
                resolution = body[at + 4]
            elif code == 14:
                (offset,) = struct.unpack_from(f"{self.order}q", body, at + 4)
            at += 4 + (length + 3 & ~3)
        if len(self.link) < _MAX_INTERFACES:
            self.link.append(link)
            self.longest.append(longest)
            self.offset.append(offset)
            self.ticks.append(2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution)


def _pcapng(magic: bytes, stream: Stream, skipped: Counter[str]) -> Iterator[Frames]:
    window, section, stop = _Window(stream, magic), _Section("<"), 0
    while window.read(stop):
        data, stop, after = window.data, 0, -1
        while after != stop:
            stop = max(stop, after)
            if data[stop : stop + 4] == _PCAPNG and len(data) >= stop + 12:
                # A section: its byte order stands behind the length that is written in it.
                section = _Section(_PCAPNG_ORDER[bytes(data[stop + 8 : stop + 12])])
            blocks, after = _blocks(data, stop, section.order)
            if len(blocks):
                yield from _packets(data, blocks, section, skipped)
        _check_block(data[stop:], section.order)
    if window.data:
        raise EOFError


def _blocks(data: memoryview, start: int, order: str) -> tuple[Array, int]:
    """Where blocks begin that are there as a whole, up to the next section, and where the last one ends."""
    places: list[int] = []
    found, unpack = places.append, struct.Struct(f"{order}2I").unpack_from
    at = start
    with contextlib.suppress(struct.error):
        while True:
            found(at)
            kind, size = unpack(data, at)
            if size < 12 or (kind == _SECTION and at > start):
                break
            at += size
    begins = np.array(places, np.int64)
    sizes = np.diff(begins)
    good = (sizes <= _MAX_BLOCK) & (sizes & 3 == 0) & (begins[1:] <= len(data))
    whole = len(good) if bool(good.all()) else int(good.argmin())
    return begins[:whole], int(begins[whole])


def _check_block(data: memoryview, order: str) -> None:
    if len(data) >= 8:
        kind, size = struct.unpack_from(f"{order}2I", data)
        if not (16 if kind == _SECTION else 12) <= size <= _MAX_BLOCK or size % 4:
            raise DecodeError("bad_file", f"a block of {size} bytes")


def _packets(data: memoryview, places: Array, section: _Section, skipped: Counter[str]) -> Iterator[Frames]:
    """The packets of the blocks in these places, at once; where an interface is not understood, those before it."""
    buffer = np.frombuffer(data, np.uint8)
    kinds = _words(buffer, places, section.order, 1)[0]
    parts: list[Array] = []
    start = 0
    try:
        for i in [*np.flatnonzero(kinds != _ENHANCED_PACKET).tolist(), len(places)]:
            if i > start:
                parts.append(_enhanced(data, buffer, places[start:i], section, skipped))
            if i < len(places):
                parts += _other(data, int(places[i]), section, skipped)
            start = i + 1
    finally:
        if sum(part.shape[1] for part in parts):
            yield Frames(buffer, *np.concatenate(parts, axis=1))


def _other(data: memoryview, at: int, section: _Section, skipped: Counter[str]) -> list[Array]:
    """A block that is no enhanced packet; a column of `Frames` where it is a packet."""
    kind, size = struct.unpack_from(f"{section.order}2I", data, at)
    if kind == _INTERFACE:
        section.add(bytes(data[at + 8 : at + size - 4]))
    if kind not in (_SIMPLE_PACKET, _OLD_PACKET):
        return []
    return _one_by_one(data, [at], section, skipped)


def _enhanced(data: memoryview, buffer: Array, places: Array, section: _Section, skipped: Counter[str]) -> Array:
    """(5, packets) int64: the columns of `Frames`."""
    words = _words(buffer, places, section.order, 7)
    _, size, number, high, low, captured, wire = words
    ticks = np.array([min(t, _MAX_TICKS) for t in section.ticks], np.int64)
    offset = np.array([o if abs(o) < _MAX_OFFSET else _MAX_OFFSET for o in section.offset], np.int64)
    usual = (ticks < _MAX_TICKS) & (offset < _MAX_OFFSET)
    if len(usual) == 0 or int(number.max()) >= len(usual) or not bool(usual[number].all()):
        return np.concatenate([np.zeros((5, 0), np.int64), *_one_by_one(data, places.tolist(), section, skipped)], 1)
    count = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
    per_second = ticks[number].astype(np.uint64)
    seconds, fraction = np.divmod(count, per_second)
    seconds = np.minimum(seconds, np.uint64(1 << 62)).astype(np.int64) + offset[number]
    good = (size >= _ENHANCED_HEAD + 4) & (captured <= size - _ENHANCED_HEAD - 4)
    good &= (seconds >= 0) & (seconds < _MAX_SECONDS)
    ns = np.where(good, seconds, 0) * 10**9 + (fraction * np.uint64(10**9) // per_second).astype(np.int64)
    columns = np.stack([places + _ENHANCED_HEAD, captured, wire, ns, np.array(section.link, np.int64)[number]])
    bad = len(good) - int(np.count_nonzero(good))
    if bad:
        skipped["bad_packet"] += bad
        columns = columns[:, good]
    if columns.shape[1]:
        section.last_ns = int(columns[3, -1])
    return columns


def _one_by_one(data: memoryview, places: list[int], section: _Section, skipped: Counter[str]) -> list[Array]:
    """Packet blocks of any kind; a column of `Frames` for each that is right."""
    found = []
    for at in places:
        try:
            column = _packet(data, at, section)
        except _BAD_BLOCK:
            skipped["bad_packet"] += 1
        else:
            section.last_ns = column[3]
            found.append(np.array(column, np.int64)[:, None])
    return found


def _packet(data: memoryview, at: int, section: _Section) -> tuple[int, int, int, int, int]:
    kind, size = struct.unpack_from(f"{section.order}2I", data, at)
    body = data[at + 8 : at + size - 4]
    if kind == _SIMPLE_PACKET:  # of the first interface and without a time: the last one stands in
        start, ns = 4, section.last_ns
        (wire,) = struct.unpack_from(f"{section.order}I", body)
        link, longest = section.link[0], section.longest[0]
        captured = min(wire, longest or wire)
    else:
        start = 20
        form = "5I" if kind == _ENHANCED_PACKET else "Hxx4I"
        number, high, low, captured, wire = struct.unpack_from(section.order + form, body)
        link = section.link[number]
        ns = (high << 32 | low) * 10**9 // section.ticks[number] + section.offset[number] * 10**9
    if start + captured > len(body) or not 0 <= ns < 1 << 63:
        raise DecodeError("bad_packet")
    return at + 8 + start, captured, wire, ns, link
