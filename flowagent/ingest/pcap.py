"""Captures of export datagrams, read from files for `flowagent replay`.

    pcap, pcapng, raw payload  ->  packets  ->  IP, fragments, UDP  ->  Datagrams

Containers and headers are read here and not with dpkt: its time stamps are
floats, too coarse for nanoseconds; it takes every packet of a pcapng file for
one of the first interface; and it costs 14 µs per packet, this about 2.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import numpy as np
import zstandard

from flowagent.addresses import V4_MAPPED, address_words
from flowagent.errors import ConfigError, DecodeError
from flowagent.ingest.datagrams import Datagrams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from io import BufferedReader
    from pathlib import Path

_CHUNK_BYTES = 8 << 20
_MAX_DATAGRAM = 65535
# libpcap writes no longer packets, Wireshark no longer blocks: a greater length is damage, not data.
_MAX_PACKET = 1 << 18
_MAX_BLOCK = 1 << 24
_MAX_INTERFACES = 1 << 16
_MAX_FRAGMENTED = 64
_FRAGMENT_LIFE_NS = 30 * 10**9

# What is stored without its sender and time gets an address for documentation and a second of its own.
_PAYLOAD_SENDER = (*address_words("192.0.2.1"), 4444)
_PAYLOAD_EPOCH_NS = 1_700_000_001 * 10**9

# First four bytes -> byte order, nanoseconds per unit of the fraction.
_PCAP = {
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_PCAPNG_ORDER = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 2, 3, 6
_DAMAGED = (zlib.error, gzip.BadGzipFile, zstandard.ZstdError)

# Link type -> where the EtherType stands (-1: there is none), where its payload begins.
_LINKS = {0: (-1, 4), 1: (12, 14), 108: (-1, 4), 113: (14, 16), 276: (0, 20)}
_LINKS |= dict.fromkeys((12, 14, 101, 228, 229), (-1, 0))
_VLAN_TAGS = frozenset((0x8100, 0x88A8, 0x9100))
_ETHER_IP = frozenset((0x0800, 0x86DD))
_ETHER_TYPE = struct.Struct("!H")
_IPV4 = struct.Struct("!BxHHHxB2xI4s")
_IPV6 = struct.Struct("!4xHBxQQ16s")
_IPV6_FRAGMENT = struct.Struct("!BxHI")
_UDP = struct.Struct("!HxxH")
_PROTO_UDP, _PROTO_FRAGMENT, _PROTO_AH = 17, 44, 51
# Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6.
_IPV6_EXTENSIONS = frozenset((0, 43, _PROTO_AH, 60, 135, 139, 140))

_Row = tuple[int, int, int, int, bytes]  # sender's address (high and low word) and port, time in ns, payload
_Udp = tuple[int, int, bytes, int, int]  # sender's address, bytes in which a UDP datagram begins and ends


class _Packet(NamedTuple):
    link: int
    ns: int
    frame: bytes
    cut: bool  # the capture holds less than passed


def captures(paths: Iterable[Path]) -> list[Capture]:
    """Group files into captures, in their order.

    A pcap or pcapng file, or a pipe, is one by itself. Other files hold the
    payload of one datagram each, and those next to each other are one capture:
    the templates of one may describe the records of the next.
    Raises ConfigError for a file that cannot be read or is none of these.
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
    def size(self) -> int:
        """Bytes of the files as they are stored; 0 for a pipe."""
        return sum(path.stat().st_size for path in self.paths)

    def datagrams(self, *, chunk: int = 4096, progress: Callable[[int], None] | None = None) -> Iterator[Datagrams]:
        """Yield every UDP datagram, at most `chunk` and about 8 MiB of them at a time; each call begins anew.

        Memory is bounded whatever the files hold. `progress` is told how many
        of the `size` bytes have been read. Raises ConfigError when a file
        cannot be read; what is wrong inside one is counted in `skipped`.
        """
        self.skipped.clear()
        before = 0
        for number, path in enumerate(self.paths):
            with _open(path) as file:
                rows = self._rows(file, path, number)
                while block := _take(rows, chunk):
                    yield _datagrams(block)
                    if progress and file.seekable():
                        progress(before + file.tell())
                before += file.tell() if file.seekable() else 0

    def _rows(self, file: BinaryIO, path: Path, number: int) -> Iterator[_Row]:
        try:
            stream = _decompressed(file)
            magic = stream.read(4)
            if magic in _PCAP:
                yield from _udp_rows(_pcap(magic, stream), self.skipped)
            elif magic == _PCAPNG:
                yield from _udp_rows(_pcapng(magic, stream, self.skipped), self.skipped)
            else:
                yield (*_PAYLOAD_SENDER, _PAYLOAD_EPOCH_NS + number * 10**9, _payload(magic, stream, path))
        except DecodeError as error:
            self.skipped[error.reason] += 1
        except EOFError:  # from gzip
            self.skipped["truncated_file"] += 1
        except _DAMAGED:
            self.skipped["bad_file"] += 1
        except OSError as error:
            raise _unreadable(path, error) from error


def _take(rows: Iterator[_Row], chunk: int) -> list[_Row]:
    block = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row[4])
        if len(block) >= chunk or size >= _CHUNK_BYTES:
            break
    return block


def _datagrams(rows: list[_Row]) -> Datagrams:
    payloads = [row[4] for row in rows]
    numbers = np.array([row[:4] for row in rows], np.uint64).T.copy()
    length = np.array([len(p) for p in payloads], np.int64)
    return Datagrams(
        data=np.frombuffer(b"".join(payloads), np.uint8),
        offset=np.cumsum(length) - length,
        length=length,
        exporter=numbers[:2],
        port=numbers[2].astype(np.uint16),
        received_ns=numbers[3].astype(np.int64),
    )


def _is_payload(path: Path) -> bool:
    if path.is_fifo():
        return False
    with _open(path) as file:
        try:
            stream = _decompressed(file)
            magic = stream.read(4)
            return magic != _PCAPNG and magic not in _PCAP and bool(_payload(magic, stream, path))
        except (DecodeError, EOFError, *_DAMAGED):
            return False  # counted when it is read
        except OSError as error:
            raise _unreadable(path, error) from error


def _payload(magic: bytes, stream: BinaryIO, path: Path) -> bytes:
    if len(magic) < 4:  # no export protocol is so short, but a capture just begun is
        raise DecodeError("truncated_file")
    payload = magic + stream.read(_MAX_DATAGRAM)
    if len(payload) > _MAX_DATAGRAM:
        problem = "is neither pcap nor pcapng and too long for one datagram; convert it, e.g. with `editcap -F pcapng`"
        raise ConfigError(str(path), problem)
    return payload


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(str(path), f"cannot be read: {error.strerror}; name a readable pcap, pcapng or payload file")


def _decompressed(file: BinaryIO) -> BinaryIO:
    # By content, not by name: no export protocol begins like this.
    start = cast("BufferedReader", file).peek(4)
    if start.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return file


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise DecodeError("truncated_file")
    return data


def _pcap(magic: bytes, stream: BinaryIO) -> Iterator[_Packet]:
    order, unit = _PCAP[magic]
    # The upper half of the word is about frame check sequences, which IP lengths cut off anyway.
    link = struct.unpack(f"{order}16xI", _exactly(stream, 20))[0] & 0xFFFF
    header = struct.Struct(f"{order}4I")
    while head := stream.read(16):
        if len(head) < 16:
            raise DecodeError("truncated_file")
        seconds, fraction, captured, length = header.unpack(head)
        if captured > _MAX_PACKET:
            raise DecodeError("bad_file", f"a packet of {captured} bytes")
        frame = _exactly(stream, captured)
        yield _Packet(link, seconds * 10**9 + fraction * unit, frame, captured < length)


class _Interface(NamedTuple):
    link: int
    longest: int  # bytes; 0 for any
    offset_ns: int
    ticks: int  # per second


def _pcapng(magic: bytes, stream: BinaryIO, skipped: Counter[str]) -> Iterator[_Packet]:
    order = ""
    interfaces: list[_Interface] = []
    ns = 0
    head = magic + stream.read(4)
    while head:
        if head[:4] == _PCAPNG:  # a section: its byte order stands behind the length written in it
            head += _exactly(stream, 4)
            interfaces.clear()
            order = _PCAPNG_ORDER.get(head[8:], "")
        if len(head) < 8:
            raise DecodeError("truncated_file")
        if not order:
            raise DecodeError("bad_file", "no byte order")
        kind, size = struct.unpack_from(f"{order}2I", head)
        if not len(head) + 4 <= size <= _MAX_BLOCK or size % 4:
            raise DecodeError("bad_file", f"a block of {size} bytes")
        body = _exactly(stream, size - len(head))[:-4]
        if kind == _INTERFACE and len(interfaces) < _MAX_INTERFACES:
            interfaces.append(_interface(order, body))
        elif kind in (_ENHANCED_PACKET, _SIMPLE_PACKET, _OLD_PACKET):
            try:
                packet = _pcapng_packet(kind, order, body, interfaces, ns)
            except (DecodeError, struct.error, IndexError):
                skipped["bad_packet"] += 1
            else:
                ns = packet.ns
                yield packet
        head = stream.read(8)


def _interface(order: str, body: bytes) -> _Interface:
    resolution, offset = 6, 0
    try:
        link, longest = struct.unpack_from(f"{order}HxxI", body)
        at = 8
        while at + 4 <= len(body):
            code, length = struct.unpack_from(f"{order}2H", body, at)
            if code == 0:
                break
            if code == 9:
                resolution = body[at + 4]
            elif code == 14:
                (offset,) = struct.unpack_from(f"{order}q", body, at + 4)
            at += 4 + (length + 3 & ~3)
    except (struct.error, IndexError) as error:
        raise DecodeError("bad_file", "an interface") from error
    ticks = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    return _Interface(link, longest, offset * 10**9, ticks)


def _pcapng_packet(kind: int, order: str, body: bytes, interfaces: list[_Interface], last_ns: int) -> _Packet:
    if kind == _SIMPLE_PACKET:  # of the first interface and without a time: the one before it stands in
        at, number, ns = 4, 0, last_ns
        (length,) = struct.unpack_from(f"{order}I", body)
        captured = min(length, interfaces[0].longest or length)
    else:
        at = 20
        form = "5I" if kind == _ENHANCED_PACKET else "HxxIIII"
        number, high, low, captured, length = struct.unpack_from(order + form, body)
        interface = interfaces[number]
        ns = (high << 32 | low) * 10**9 // interface.ticks + interface.offset_ns
    if at + captured > len(body) or not 0 <= ns < 1 << 63:
        raise DecodeError("bad_packet")
    return _Packet(interfaces[number].link, ns, body[at : at + captured], captured < length)


def _udp_rows(packets: Iterator[_Packet], skipped: Counter[str]) -> Iterator[_Row]:
    fragments = _Fragments(skipped)
    try:
        for packet in packets:
            try:
                row = _row(packet, fragments)
            except (DecodeError, struct.error, IndexError) as error:
                reason = error.reason if isinstance(error, DecodeError) else "bad_packet"
                skipped["truncated_capture" if packet.cut and reason == "bad_packet" else reason] += 1
            else:
                if row:
                    yield row
    finally:
        fragments.give_up()


def _row(packet: _Packet, fragments: _Fragments) -> _Row | None:
    """Return the datagram in a packet or that a packet completes; None for a fragment that waits for others."""
    link, ns, frame, _ = packet
    if link not in _LINKS:
        raise DecodeError("unsupported_link_type")
    type_at, at = _LINKS[link]
    if type_at >= 0:
        (ether_type,) = _ETHER_TYPE.unpack_from(frame, type_at)
        while ether_type in _VLAN_TAGS:
            (ether_type,) = _ETHER_TYPE.unpack_from(frame, at + 2)
            at += 4
        if ether_type not in _ETHER_IP:
            raise DecodeError("not_udp")
    read = {4: _ipv4, 6: _ipv6}.get(frame[at] >> 4)
    if read is None:
        raise DecodeError("bad_packet")
    udp = read(ns, frame, at, fragments)
    if udp is None:
        return None
    high, low, data, start, end = udp
    port, length = _UDP.unpack_from(data, start)
    if length < 8 or start + length > end:
        raise DecodeError("bad_packet")
    return high, low, port, ns, data[start + 8 : start + length]


def _ipv4(ns: int, frame: bytes, at: int, fragments: _Fragments) -> _Udp | None:
    first, total, ident, flags, protocol, source, target = _IPV4.unpack_from(frame, at)
    if protocol != _PROTO_UDP:
        raise DecodeError("not_udp")
    start, end = at + (first & 15) * 4, at + total
    if first & 15 < 5 or not start <= end <= len(frame):
        raise DecodeError("bad_packet")
    if flags & 0x3FFF:
        key = (source, target, ident)
        whole = fragments.add(key, ns, frame[start:end], (flags & 0x1FFF) * 8, more=bool(flags & 0x2000))
        if whole is None:
            return None
        frame, start, end = whole, 0, len(whole)
    return 0, V4_MAPPED | source, frame, start, end


def _ipv6(ns: int, frame: bytes, at: int, fragments: _Fragments) -> _Udp | None:
    length, protocol, high, low, target = _IPV6.unpack_from(frame, at)
    start, end = at + 40, at + 40 + length
    if end > len(frame):
        raise DecodeError("bad_packet")
    while protocol != _PROTO_UDP:
        if protocol == _PROTO_FRAGMENT:
            protocol, word, ident = _IPV6_FRAGMENT.unpack_from(frame, start)
            start += 8
            if word & 0xFFF9 and (protocol == _PROTO_UDP or protocol in _IPV6_EXTENSIONS):
                key = (high, low, target, ident, protocol)
                whole = fragments.add(key, ns, frame[start:end], word & 0xFFF8, more=bool(word & 1))
                if whole is None:
                    return None
                frame, start, end = whole, 0, len(whole)
        elif protocol in _IPV6_EXTENSIONS:
            words = frame[start + 1]
            size = (words + 2) * 4 if protocol == _PROTO_AH else (words + 1) * 8
            start, protocol = start + size, frame[start]
        else:
            raise DecodeError("not_udp")
        if start > end:
            raise DecodeError("bad_packet")
    return high, low, frame, start, end


@dataclass(slots=True)
class _Pieces:
    since_ns: int
    parts: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    total: int = _MAX_DATAGRAM + 1  # until the last fragment tells


class _Fragments:
    """Packets of which some fragments have come: few at a time, the oldest is given up for a new one."""

    def __init__(self, skipped: Counter[str]) -> None:
        self._skipped = skipped
        self._held: dict[tuple[int | bytes, ...], _Pieces] = {}

    def add(self, key: tuple[int | bytes, ...], ns: int, data: bytes, offset: int, *, more: bool) -> bytes | None:
        """Keep a fragment; return what its packet carries if that is whole now."""
        end = offset + len(data)
        if not data or end > _MAX_DATAGRAM:
            raise DecodeError("bad_packet")
        held = self._held.get(key)
        if held and ns - held.since_ns > _FRAGMENT_LIFE_NS:  # identifiers come round
            self._give_up(key)
            held = None
        if held is None:
            if len(self._held) >= _MAX_FRAGMENTED:
                self._give_up(next(iter(self._held)))
            held = self._held[key] = _Pieces(ns)
        if offset in held.parts:  # captured twice
            return None
        held.parts[offset] = data
        held.size += len(data)
        if not more:
            held.total = end
        if held.size < held.total:
            return None
        del self._held[key]
        return _joined(held.parts)

    def give_up(self) -> None:
        """Count what will never be whole."""
        for key in list(self._held):
            self._give_up(key)

    def _give_up(self, key: tuple[int | bytes, ...]) -> None:
        del self._held[key]
        self._skipped["incomplete_fragments"] += 1


def _joined(parts: dict[int, bytes]) -> bytes:
    whole = b""
    for offset in sorted(parts):
        if offset != len(whole):  # a gap or an overlap is an attack or damage (RFC 5722)
            raise DecodeError("bad_packet")
        whole += parts[offset]
    return whole
