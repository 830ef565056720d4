"""Flow records of sFlow v5: what is told of one sampled packet, into columns.

Structures as in "sFlow Version 5" (sflow.org, 2004), "sFlow Tunnel Structures"
(2012) and "sFlow Port NAT Structure" (2012). Each reader gets all records of
its type at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array
from flowagent.ingest import headers
from flowagent.ingest.datagrams import gather, numbers
from flowagent.ingest.header_columns import Columns, Header, Part
from flowagent.ingest.header_tunnels import GENEVE, GRE, VXLAN

LONGEST = 64
"""Bytes that are read at once; the buffer goes on for so many behind the last record."""
_LINKS = {1: headers.ETHERNET, 11: headers.IPV4, 12: headers.IPV6, 13: headers.MPLS}
"""Of `header_protocol`."""
_MAX_SEGMENTS = 8
_UDP, _GRE = 17, 47
# Open vSwitch writes the ports in the wrong order of bytes.
_TUNNEL_PORTS = {4789: VXLAN, 0xB512: VXLAN, 8472: VXLAN, 0x1821: VXLAN, 6081: GENEVE, 0xC117: GENEVE}


class Records(NamedTuple):
    """Records of one type.

    columns  of the samples that they belong to
    data     the buffer
    rows     (m,) the sample of each; None: each sample has one, in order
    at       (m,) int64: where it begins
    length   (m,) int64: its bytes
    """

    columns: Columns
    data: Array
    rows: Array | None
    at: Array
    length: Array

    def header(self, size: int) -> Header:
        """The first bytes of each."""
        return Part(self.columns, self.data, self.rows, self.at, self.at + self.length).header(size)


def _sampled_header(records: Records) -> None:
    head = records.header(16)
    whole = head.left >= 16
    protocol, frame, stripped, length = (numbers(head.bytes, i, 4) for i in (0, 4, 8, 12))
    octets = frame - np.minimum(stripped, frame)
    head.part.put("bytes", octets, None if bool(whole.all()) else whole)
    # What was not sent, or is only padding, is not there, whatever the length says.
    captured = np.minimum(np.minimum(length, head.left - 16), octets)
    for number, link in _LINKS.items():
        mine = whole & (protocol == number)
        if not bool(mine.any()):
            continue
        every = bool(mine.all())
        rows = records.rows if every else np.flatnonzero(mine) if records.rows is None else records.rows[mine]
        at = records.at + 16
        headers.fill(
            records.columns,
            rows,
            records.data,
            at if every else at[mine],
            captured if every else captured[mine],
            link,
            inner=True,
        )


def _sampled_ethernet(records: Records) -> None:
    head = records.header(24)
    head.tell("bytes", 0, 4)
    head.tell_mac("src_mac", 4)
    head.tell_mac("dst_mac", 12)
    head.part.put("ether_type", head.number(20, 4) & 0xFFFF, head.has(24))


def _sampled_ip(size: int) -> Callable[[Records], None]:
    def read(records: Records) -> None:
        head = records.header(8 + 2 * size + 16)
        head.tell("bytes", 0, 4)
        head.tell("ipTotalLength", 0, 4)
        head.tell("proto", 4, 4)
        head.tell_address("src_addr", 8, size)
        head.tell_address("dst_addr", 8 + size, size)
        at = 8 + 2 * size
        _low(head, "src_port", at)
        _low(head, "dst_port", at + 4)
        _low(head, "tcp_flags", at + 8)
        _low(head, "tos", at + 12)

    return read


def _switch(records: Records) -> None:
    """Virtual LANs at ingress and egress; 0 is none, and what is no VLAN id is not known."""
    head = records.header(16)
    for name, at in (("vlan", 0), ("dst_vlan", 8)):
        if records.columns.wants(name):
            number = numbers(head.bytes, at, 4)
            head.part.put(name, number, (number > 0) & (number < 4096) & (head.left >= at + 4))


def _router(records: Records) -> None:
    """Next hop and prefix lengths."""
    at, end = records.at, records.at + records.length
    words, known, at = _address(records.data, at, end)
    part = Part(records.columns, records.data, records.rows, at, end)
    part.put("next_hop", words, known)
    head = part.header(8)
    _low(head, "src_mask", 0)
    _low(head, "dst_mask", 4)


def _gateway(records: Records) -> None:
    """Autonomous systems; where the path is empty or the source has none, it is the exporter's own."""
    end = records.at + records.length
    words, known, at = _address(records.data, records.at, end)
    part = Part(records.columns, records.data, records.rows, at, end)
    part.put("next_hop", words, known)
    head = part.header(16)
    own, source, segments = (numbers(head.bytes, i, 4) for i in (0, 4, 12))
    part.put("src_as", np.where(source > 0, source, own), head.left >= 8)
    last, known = _last_of_path(records.data, np.minimum(at + 16, end), end, segments)
    part.put("dst_as", np.where(segments > 0, last, own), (head.left >= 16) & (known | (segments == 0)))


def _last_of_path(data: Array, at: Array, end: Array, segments: Array) -> tuple[Array, Array]:
    """The last number of AS paths, and where it is known."""
    last, known = np.zeros(len(at), np.int64), np.zeros(len(at), np.bool_)
    for i in range(_MAX_SEGMENTS):
        more = segments > i
        if not bool(more.any()):
            break
        size = numbers(gather(data, at, 8), 4, 4)
        behind = at + 8 + 4 * size
        known = np.where(more, (at + 8 <= end) & (behind <= end), known)
        ends = more & known & (size > 0)
        last = np.where(ends, numbers(gather(data, np.where(ends, behind - 4, at), 4), 0, 4), last)
        at = np.where(more & known, behind, np.where(more, end, at))
    return last, known & (segments <= _MAX_SEGMENTS)


def _mpls(records: Records) -> None:
    """Next hop and the label stack on the way in."""
    end = records.at + records.length
    words, known, at = _address(records.data, records.at, end)
    part = Part(records.columns, records.data, records.rows, at, end)
    part.put("next_hop", words, known)
    head = part.header(8)
    part.put("mpls_label", numbers(head.bytes, 4, 4) >> 12, (numbers(head.bytes, 0, 4) > 0) & (head.left >= 8))


def _nat(records: Records) -> None:
    end = records.at + records.length
    at = records.at
    for name in ("nat_src_addr", "nat_dst_addr"):
        words, known, at = _address(records.data, at, end)
        records.columns.put(name, records.rows, words, known)


def _nat_port(records: Records) -> None:
    head = records.header(8)
    _low(head, "nat_src_port", 0)
    _low(head, "nat_dst_port", 4)


def _tunnel(size: int) -> Callable[[Records], None]:
    def read(records: Records) -> None:
        at = 8 + 2 * size
        head = records.header(at + 8)
        head.tell_address("tunnel_src_addr", 8, size)
        head.tell_address("tunnel_dst_addr", 8 + size, size)
        protocol, port = numbers(head.bytes, 4, 4), numbers(head.bytes, at + 4, 4)
        kind = np.where(protocol == _GRE, GRE, 0)
        for number, tunnel in _TUNNEL_PORTS.items():
            kind[(protocol == _UDP) & (port == number)] = tunnel
        head.part.put("tunnel_type", kind, (kind > 0) & (head.left >= at + 8))

    return read


def _vni(records: Records) -> None:
    records.header(4).tell("tunnel_key", 0, 4)


READERS: dict[int, Callable[[Records], None]] = {
    2: _sampled_ethernet, 3: _sampled_ip(4), 4: _sampled_ip(16), 1: _sampled_header,
    1006: _mpls, 1003: _gateway, 1002: _router, 1001: _switch, 1007: _nat, 1020: _nat_port,
    1023: _tunnel(4), 1025: _tunnel(16), 1029: _vni, 1024: _tunnel(4), 1026: _tunnel(16), 1030: _vni,
}  # fmt: skip
"""By type, in this order: what comes later is believed where two tell the same column.

So a header counts more than fields that the exporter read from it, and the tunnel that a packet came from more than
the one that it is put into.
"""


def _low(head: Header, name: str, at: int) -> None:
    """Fill a column with a number written in 4 bytes that may be too large for it, and is unknown then."""
    if head.part.columns.wants(name):
        value = numbers(head.bytes, at, 4)
        most = 0xFF if name in ("tos", "src_mask", "dst_mask") else 0xFFFF
        head.part.put(name, value, (value <= most) & (head.left >= at + 4))


def _address(data: Array, at: Array, end: Array) -> tuple[Array, Array, Array]:
    """Addresses that begin with their type: words (2, m), where known (m,), where they end (m,)."""
    raw = gather(data, at, 20)
    kind = numbers(raw, 0, 4)
    size = np.where(kind == 1, 4, np.where(kind == 2, 16, 0))
    words = np.empty((2, len(at)), np.uint64)
    v4 = kind == 1
    words[0] = np.where(v4, 0, raw[:, 4:12].view(">u8")[:, 0])
    words[1] = np.where(
        v4, numbers(raw, 4, 4).astype(np.uint64) | np.uint64(V4_MAPPED), raw[:, 12:20].view(">u8")[:, 0]
    )
    behind = at + 4 + size
    is_any = (words[0] == 0) & ((words[1] == 0) | (words[1] == V4_MAPPED))
    return words, (size > 0) & (behind <= end) & ~is_any, np.minimum(behind, end)
