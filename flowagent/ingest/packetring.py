"""Packets from the kernel without a copy and without a system call each: a ring of AF_PACKET, TPACKET_V3.

The kernel fills blocks of memory that it shares with us and hands a block over
when it is full or old enough. Packets in a block are linked by the distance to
the next one: only that is read one by one (packet_mmap.rst of the kernel).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array
from flowagent.ingest import bpf
from flowagent.ingest.capfile import Frames
from flowagent.ingest.datagrams import gather
from flowagent.ingest.fields import Values

ANY = "any"
"""Stands for all interfaces."""
BLOCK = 1 << 20
"""Bytes of a block."""
_RETIRE_MS = 100
"""How long a block waits to be full."""
_FRAME = 2048  # means nothing in this version, but must divide a block
_SOL_PACKET, _SO_ATTACH_FILTER = 263, 26
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION = 1, 5, 6, 10
_TPACKET_V3, _PROMISCUOUS = 2, 1
_ETH_P_ALL = 3
_USER = 1
"""Status of a block that is ours."""
_STATUS_AT, _COUNT_AT, _FIRST_AT = 2, 3, 4  # 32-bit words of a block's header
_HEAD = 60
"""Bytes of a packet's header (struct tpacket3_hdr) and of the sockaddr_ll behind it that are of interest."""
_TAGGED = 1 << 4
"""In the status of a packet: the kernel took a VLAN tag off."""
_OUTGOING = 4
_LOOPBACK, _ETHERNET_TYPES = 772, (1, 772)
ETHERNET, RAW_IP = 1, 101
"""Link types, by the numbers of pcap files."""
_MARGIN = 64
"""Bytes that readers of headers want to have behind a frame."""


class Captured(NamedTuple):
    """Frames, and what the kernel said of them: `columns` in_if, out_if, direction, vlan as far as known."""

    frames: Frames
    columns: Mapping[str, Values]


class Ring:
    """The packets that an interface receives and sends, from `open` to `close`.

    Those that the loopback sends are left out: it receives them, too.
    """

    def __init__(self, interface: str, *, size: int, snaplen: int, promiscuous: bool) -> None:
        self.interface = interface
        self.drops = 0
        """Packets that found the ring full, as of the last `count_drops`."""
        self._blocks = max(2, size // BLOCK)
        self._snaplen = snaplen
        self._promiscuous = promiscuous
        self._next = 0

    def open(self, rule: str = "", one_in: int = 1) -> None:
        """Begin; raises OSError where that cannot be, and what `bpf.program` does."""
        with contextlib.ExitStack() as stack:
            # Without a protocol nothing comes in before the filter is there.
            self.socket = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            self.link = ETHERNET
            if self.interface != ANY:
                self.socket.bind((self.interface, 0))
                self.link = ETHERNET if self.socket.getsockname()[3] in _ETHERNET_TYPES else RAW_IP
            program = bpf.program(rule, link=self.link, snaplen=self._snaplen, one_in=one_in)
            value, _memory = bpf.attachable(program)
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, value)
            self.socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
            size = self._blocks * BLOCK
            ring = struct.pack("7I", BLOCK, self._blocks, _FRAME, size // _FRAME, _RETIRE_MS, 0, 0)
            self.socket.setsockopt(_SOL_PACKET, _RX_RING, ring)
            self._memory = mmap.mmap(self.socket.fileno(), size)
            self._words = memoryview(self._memory).cast("I")
            self._bytes = np.frombuffer(self._memory, np.uint8)
            self.bind()
            if self._promiscuous and self.interface != ANY:
                index = socket.if_nametoindex(self.interface)
                member = struct.pack("iHH8x", index, _PROMISCUOUS, 0)
                self.socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
            stack.pop_all()

    def bind(self) -> None:
        """Begin (again) to receive; OSError where there is no such interface now."""
        if self.interface != ANY:
            self.socket.bind((self.interface, _ETH_P_ALL))
            return
        # No interface, index 0, is none of Python's addresses: a sockaddr_ll.
        address = struct.pack("HHi12x", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0)
        if ctypes.CDLL(None, use_errno=True).bind(self.socket.fileno(), address, len(address)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        """Give everything back."""
        self.count_drops()
        self.socket.close()
        self._words.release()
        del self._bytes
        with contextlib.suppress(BufferError):  # whoever has frames still may keep them
            self._memory.close()

    def failure(self) -> int:
        """The error number that the socket had since the last call, 0 for none; ENETDOWN when the interface went."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def count_drops(self) -> int:
        """Ask the kernel, and return `drops`."""
        # It forgets them when asked.
        _, drops, _ = struct.unpack("3I", self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
        self.drops += drops
        return self.drops

    def filled(self) -> float:
        """The part of the ring that waits to be read, looking at a few blocks."""
        step = max(1, self._blocks // 16)
        looked = range(0, self._blocks, step)
        return sum(self._words[i * BLOCK // 4 + _STATUS_AT] & _USER for i in looked) / len(looked)

    def take(self, most: int) -> Iterator[Captured]:
        """Up to so many blocks of packets; what is yielded is valid until the next is asked for."""
        blocks = []
        places: list[int] = []
        for _ in range(min(most, self._blocks)):
            block = self._next * BLOCK // 4
            if not self._words[block + _STATUS_AT] & _USER:
                break
            blocks.append(block)
            self._walk(block, places)
            self._next = (self._next + 1) % self._blocks
        try:
            if places:
                yield from self._captured(np.array(places, np.int64) * 4)
        finally:
            for block in blocks:
                self._words[block + _STATUS_AT] = 0

    def _walk(self, block: int, places: list[int]) -> None:
        """Where the packets of a block begin, in words."""
        words, found = self._words, places.append
        at = block + (words[block + _FIRST_AT] >> 2)
        for _ in range(words[block + _COUNT_AT]):
            found(at)
            at += words[at] >> 2

    def _captured(self, places: Array) -> Iterator[Captured]:
        heads = gather(self._bytes, places, _HEAD)
        words = np.ascontiguousarray(heads.view(np.uint32).T).astype(np.int64)
        _, seconds, ns, captured, wire, status, at, _, tci, *_, index, kind = words
        mac, net = at & 0xFFFF, at >> 16
        hardware, outgoing = kind & 0xFFFF, (kind >> 16) & 0xFF == _OUTGOING
        link = np.where(np.isin(hardware, _ETHERNET_TYPES), ETHERNET, RAW_IP)
        skipped = np.where(link == RAW_IP, net - mac, 0)
        frames = Frames(
            self._bytes, places + mac + skipped, captured - skipped, wire - skipped, seconds * 10**9 + ns, link
        )
        columns = _columns(index, outgoing, tci & 0x0FFF, status & _TAGGED != 0)
        last = frames.offset + frames.length > len(self._bytes) - _MARGIN
        twice = (hardware == _LOOPBACK) & outgoing
        for rows in (~last & ~twice, last & ~twice):
            if bool(rows.all()):
                yield Captured(frames, columns)
            elif bool(rows.any()):
                yield _some(frames, columns, rows)


def _columns(index: Array, outgoing: Array, vlan: Array, tagged: Array) -> dict[str, Values]:
    columns = {"direction": Values(outgoing.astype(np.uint8))}
    index = index.astype(np.uint32)
    for name, known in (("in_if", ~outgoing), ("out_if", outgoing)):
        if bool(known.any()):
            columns[name] = Values(index, None if bool(known.all()) else known)
    if bool(tagged.any()):
        columns["vlan"] = Values(vlan.astype(np.uint16), None if bool(tagged.all()) else tagged)
    return columns


def _some(frames: Frames, columns: Mapping[str, Values], rows: Array) -> Captured:
    """Some rows; where they are at the very end of the ring, from a copy, so that nobody reads behind it."""
    rows = np.flatnonzero(rows)
    some = frames.take(rows)
    if int((some.offset + some.length).max()) > len(frames.data) - _MARGIN:
        begin = int(some.offset.min())
        data = np.concatenate([frames.data[begin:], np.zeros(_MARGIN, np.uint8)])
        some = Frames(data, some.offset - begin, some.length, some.wire, some.ns, some.link)
    return Captured(some, {
        name: Values(data[rows], None if known is None else known[rows]) for name, (data, known) in columns.items()
    })  # fmt: skip
