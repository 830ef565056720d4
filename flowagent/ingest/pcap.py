"""Captures of export datagrams, read from files for `flowagent replay`.

pcap, pcapng, raw payload  ->  frames (`capfile`)  ->  IP, fragments, UDP  ->  Datagrams
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from flowagent.addresses import V4_MAPPED, address_words
from flowagent.errors import ConfigError, DecodeError
from flowagent.ingest.capfile import (
    BAD_FILE,
    Frames,
    decompressed,
    exactly,
    is_capture,
    open_file,
    read_frames,
    unreadable,
)  # fmt: skip
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.exports import is_export

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from io import BufferedReader
    from pathlib import Path


_CHUNK_BYTES = 8 << 20
_PROBED = 20_000
"""Packets looked at to tell what a capture is of."""
_MAX_DATAGRAM = 65535
_MAX_FRAGMENTED, _FRAGMENT_LIFE_NS = 64, 30 * 10**9
# What is stored without its sender and time gets an address for documentation and a second of its own.
_PAYLOAD_SENDER = (*address_words("192.0.2.1"), 4444)
_PAYLOAD_EPOCH_NS = 1_700_000_001 * 10**9
_BAD_BYTES = (DecodeError, struct.error, LookupError)

# Link type -> where the EtherType stands (-1: there is none), where its payload begins.
_LINKS = {0: (-1, 4), 1: (12, 14), 108: (-1, 4), 113: (14, 16), 276: (0, 20)} | dict.fromkeys(
    (12, 14, 101, 228, 229), (-1, 0)
)
_ETHER_TYPE = struct.Struct("!H")
_IPV4 = struct.Struct("!BxHHHxB2xI4s")
_IPV6 = struct.Struct("!B3xHBxQQ16s")
_IPV6_FRAGMENT = struct.Struct("!BxHI")
_UDP = struct.Struct("!HxxH")
_PROTO_UDP, _PROTO_FRAGMENT, _PROTO_AH = 17, 44, 51
_IPV6_EXTENSIONS = frozenset((0, 43, _PROTO_AH, 60, 135, 139, 140))  # all that may stand before UDP

_Key = tuple[int | bytes, ...]  # of a fragmented packet: addresses, identification, protocol
_Udp = tuple[int, int, bytes, int, int]  # sender's address (two words), bytes in which UDP begins and ends
_Row = tuple[int, int, int, int, bytes]  # sender's address and port, time in ns, payload


def captures(paths: Iterable[Path]) -> list[Capture]:
    """Group files into captures, in their order.

    A pcap or pcapng file, or a pipe, is one by itself. Other files hold the payload of one
    datagram each; those next to each other are one capture, for the templates of one may describe
    the records of the next. Raises ConfigError for a file that cannot be read or is none of these.
    """
    keyed = [(path, -1 if _is_payload(path) else i) for i, path in enumerate(paths)]
    return [Capture([path for path, _ in run]) for _, run in groupby(keyed, key=lambda pair: pair[1])]


@dataclass
class Capture:
    """Files, as they are or compressed with gzip or zstd, that share one state of templates.

    skipped  what `datagrams` has left out, by reason:
        not_udp                packets of another protocol
        truncated_capture      packets captured only in part
        unsupported_link_type  packets from a network of another kind
        bad_packet             packets with headers that contradict themselves
        incomplete_fragments   datagrams of which a fragment is missing
        truncated_file         files that end inside a packet; those before it were read
        bad_file               files of damaged structure; what came before the damage was read
    """

    paths: Sequence[Path]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The file, or the first of several and how many follow."""
        return str(self.paths[0]) + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    @property
    def size(self) -> int:
        """Bytes of the files as they are stored; 0 for a pipe."""
        return sum(path.stat().st_size for path in self.paths)

    def datagrams(self, *, chunk: int = 4096, progress: Callable[[int], None] | None = None) -> Iterator[Datagrams]:
        """Yield every UDP datagram, at most `chunk` and about 8 MiB of them at a time; each call begins anew.

        Memory is bounded. `progress` is told how many of the `size` bytes were read. What is
        wrong in a file is counted in `skipped`; ConfigError is for one that cannot be read.
        """
        self.skipped.clear()
        tell = progress or (lambda _: None)
        before = 0
        for number, path in enumerate(self.paths):
            with open_file(path) as file:
                position = file.tell if file.seekable() else lambda: 0
                rows = self._rows(file, path, number)
                while datagrams := _chunk(rows, chunk):
                    yield datagrams
                    tell(before + position())
                before += position()
            tell(before)

    def holds_packets(self) -> bool:
        """Whether this is a capture of packets to be counted: it has some, and no export is among the first of them.

        What can be read only once, a pipe, is taken for one of exports.
        """
        (path, *others) = self.paths
        if others or path.is_fifo():
            return False
        skipped: Counter[str] = Counter()
        datagrams = 0
        with open_file(path) as file, contextlib.suppress(EOFError, *BAD_FILE):
            stream = decompressed(file)
            magic = exactly(stream, 4)
            if not is_capture(magic):
                return False
            fragments, left = _Fragments(skipped), _PROBED
            for frames in read_frames(magic, stream, skipped):
                for row in _udp_rows(frames.take(slice(left)), fragments, skipped):
                    datagrams += 1
                    if is_export(row[4]):
                        return False
                left -= len(frames)
                if left <= 0:
                    break
        return datagrams + skipped["not_udp"] > 0

    def _rows(self, file: BufferedReader, path: Path, number: int) -> Iterator[_Row]:
        fragments = _Fragments(self.skipped)
        try:
            stream = decompressed(file)
            magic = exactly(stream, 4)  # no export protocol is shorter, but a capture just begun is
            if is_capture(magic):
                for frames in read_frames(magic, stream, self.skipped):
                    yield from _udp_rows(frames, fragments, self.skipped)
            else:
                payload = magic + stream.read(_MAX_DATAGRAM)
                if len(payload) > _MAX_DATAGRAM:
                    raise DecodeError("bad_file")
                yield (*_PAYLOAD_SENDER, _PAYLOAD_EPOCH_NS + number * 10**9, payload)
        except EOFError:
            self.skipped["truncated_file"] += 1
        except BAD_FILE:
            self.skipped["bad_file"] += 1
        except OSError as error:
            raise unreadable(path, error) from error
        fragments.give_up(0, 0)


def _chunk(rows: Iterator[_Row], chunk: int) -> Datagrams:
    block: list[_Row] = []
    size = 0
    while len(block) < chunk and size < _CHUNK_BYTES and (row := next(rows, None)):
        block.append(row)
        size += len(row[4])
    numbers = np.array([row[:4] for row in block], np.uint64).reshape(-1, 4).T.copy()
    length = np.array([len(row[4]) for row in block], np.int64)
    return Datagrams(
        data=np.frombuffer(b"".join(row[4] for row in block), np.uint8),
        offset=np.cumsum(length) - length,
        length=length,
        exporter=numbers[:2],
        port=numbers[2].astype(np.uint16),
        received_ns=numbers[3].astype(np.int64),
    )


def _is_payload(path: Path) -> bool:
    try:
        if path.is_fifo():
            return False
        with path.open("rb") as file:
            start = decompressed(file).read(_MAX_DATAGRAM + 1)
    except (EOFError, *BAD_FILE):
        return False  # counted when it is read
    except OSError as error:
        raise unreadable(path, error) from error
    if len(start) < 4 or is_capture(start[:4]):
        return False
    if len(start) > _MAX_DATAGRAM:
        problem = "is neither pcap nor pcapng and too long for one datagram; convert it, e.g. with `editcap -F pcapng`"
        raise ConfigError(str(path), problem)
    return True


def _udp_rows(frames: Frames, fragments: _Fragments, skipped: Counter[str]) -> Iterator[_Row]:
    data = frames.data.data
    columns = (frames.link, frames.ns, frames.offset, frames.length, frames.wire)
    for link, ns, at, captured, wire in zip(*(values.tolist() for values in columns), strict=True):
        try:
            row = _row(link, ns, bytes(data[at : at + captured]), fragments)
        except _Waiting:
            continue
        except _BAD_BYTES as error:
            reason = error.reason if isinstance(error, DecodeError) else "bad_packet"
            skipped["truncated_capture" if captured < wire and reason == "bad_packet" else reason] += 1
        else:
            yield row


def _row(link: int, ns: int, frame: bytes, fragments: _Fragments) -> _Row:
    if link not in _LINKS:
        raise DecodeError("unsupported_link_type")
    type_at, at = _LINKS[link]
    if type_at >= 0:
        (ether_type,) = _ETHER_TYPE.unpack_from(frame, type_at)
        while ether_type in (0x8100, 0x88A8, 0x9100):  # VLAN tags
            (ether_type,) = _ETHER_TYPE.unpack_from(frame, at + 2)
            at += 4
        if ether_type not in (0x0800, 0x86DD):
            raise DecodeError("not_udp")
    high, low, data, start, end = (_ipv4 if frame[at] >> 4 == 4 else _ipv6)(ns, frame, at, fragments)
    port, length = _UDP.unpack_from(data, start)
    if length < 8 or start + length > end:
        raise DecodeError("bad_packet")
    return high, low, port, ns, data[start + 8 : start + length]


def _ipv4(ns: int, frame: bytes, at: int, fragments: _Fragments) -> _Udp:
    first, total, ident, flags, protocol, source, target = _IPV4.unpack_from(frame, at)
    if protocol != _PROTO_UDP:
        raise DecodeError("not_udp")
    start, end = at + (first & 15) * 4, at + total
    if first & 15 < 5 or not start <= end <= len(frame):
        raise DecodeError("bad_packet")
    if flags & 0x3FFF:
        offset, more = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
        frame = fragments.add((source, target, ident), ns, frame[start:end], offset, more=more)
        start, end = 0, len(frame)
    return 0, V4_MAPPED | source, frame, start, end


def _ipv6(ns: int, frame: bytes, at: int, fragments: _Fragments) -> _Udp:
    first, length, protocol, high, low, target = _IPV6.unpack_from(frame, at)
    start, end = at + 40, at + 40 + length
    if first >> 4 != 6 or end > len(frame):
        raise DecodeError("bad_packet")
    while protocol != _PROTO_UDP:
        if protocol == _PROTO_FRAGMENT:
            protocol, word, ident = _IPV6_FRAGMENT.unpack_from(frame, start)
            start += 8
            if word & 0xFFF9 and (protocol == _PROTO_UDP or protocol in _IPV6_EXTENSIONS):
                key = (high, low, target, ident, protocol)
                frame = fragments.add(key, ns, frame[start:end], word & 0xFFF8, more=bool(word & 1))
                start, end = 0, len(frame)
        elif protocol in _IPV6_EXTENSIONS:
            words = frame[start + 1]
            size = (words + 2) * 4 if protocol == _PROTO_AH else (words + 1) * 8
            start, protocol = start + size, frame[start]
        else:
            raise DecodeError("not_udp")
        if start > end:
            raise DecodeError("bad_packet")
    return high, low, frame, start, end


class _Waiting(Exception):
    """A packet's other fragments have yet to come."""


@dataclass(slots=True)
class _Pieces:
    since_ns: int
    parts: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    total: int = _MAX_DATAGRAM + 1  # until the last fragment tells


class _Fragments:
    """Packets of which some fragments have come: few and for a short time; then the oldest are given up."""

    def __init__(self, skipped: Counter[str]) -> None:
        self._skipped = skipped
        self._held: dict[_Key, _Pieces] = {}

    def add(self, key: _Key, ns: int, data: bytes, offset: int, *, more: bool) -> bytes:
        """Return what the packet carries, if this fragment completes it; else raise _Waiting."""
        end = offset + len(data)
        if not data or end > _MAX_DATAGRAM:
            raise DecodeError("bad_packet")
        self.give_up(_MAX_FRAGMENTED, ns - _FRAGMENT_LIFE_NS)  # identifiers come round
        held = self._held.setdefault(key, _Pieces(ns))
        if offset not in held.parts:  # else captured twice
            held.parts[offset] = data
            held.size += len(data)
        if not more:
            held.total = end
        if held.size < held.total:
            raise _Waiting
        del self._held[key]
        whole = bytearray()
        for start in sorted(held.parts):
            if start != len(whole):  # a gap or an overlap is an attack or damage (RFC 5722)
                raise DecodeError("bad_packet")
            whole += held.parts[start]
        return bytes(whole)

    def give_up(self, keep: int, since_ns: int) -> None:
        """Count and forget the oldest until fewer than `keep` are left, begun at `since_ns` or later."""
        for key, pieces in list(self._held.items()):
            if len(self._held) < keep and pieces.since_ns >= since_ns:
                break
            del self._held[key]
            self._skipped["incomplete_fragments"] += 1
