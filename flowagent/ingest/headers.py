"""Packet headers to columns, many frames at once: link layer, IP, transport, and the packet inside a tunnel.

Frames lie in one buffer. Each layer is read for all frames that have it in a
few array operations; rare layers cost only the frames that have them. A field
is known where its bytes were captured: a frame that ends early tells what is
there, and nothing is read beyond it.

Of a packet in a tunnel (VXLAN, Geneve, GRE, IP in IP) the columns describe the
inner packet, and `tunnel_*` the outer one; where the inner headers were not
captured it is a packet like any other. A tunnel inside a tunnel is not opened.

Besides canonical columns: `dot1qCustomerVlanId` (inner tag of two),
`ipTotalLength`, `fragmentIdentification`, `fragmentOffset` (in units of 8
bytes), `fragmentFlags`, `flowLabelIPv6`.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from flowagent.batch import Array
from flowagent.ingest.datagrams import padded
from flowagent.ingest.fields import Values
from flowagent.ingest.header_columns import LONGEST, Columns, Part
from flowagent.ingest.header_tunnels import Inner, encapsulated

NULL, ETHERNET, LOOP, SLL, MPLS, IPV4, IPV6, SLL2 = 0, 1, 108, 113, 219, 228, 229, 276
"""Link types by the numbers of pcap files."""
LINKS = frozenset((NULL, ETHERNET, 12, 14, 101, LOOP, SLL, MPLS, IPV4, IPV6, SLL2))
"""All that are understood; 12, 14 and 101 are raw IP."""

_TYPE_V4, _TYPE_V6 = 0x0800, 0x86DD
_TAGS, _MPLS, _PPPOE = (0x8100, 0x88A8, 0x9100), (0x8847, 0x8848), 0x8864
_LEAST_TYPE = 1536
"""Below it stands a length (IEEE 802.3)."""
_MAX_TAGS, _MAX_LABELS, _MAX_EXTENSIONS = 4, 8, 8
_LINK_COLUMNS = ("src_mac", "dst_mac", "ether_type", "vlan", "dot1qCustomerVlanId", "mpls_label")
_PACKET_COLUMNS = (
    "src_addr", "dst_addr", "proto", "tos", "ttl", "src_port", "dst_port", "tcp_flags", "icmp_type", "icmp_code",
    "ipTotalLength", "fragmentIdentification", "fragmentOffset", "fragmentFlags", "flowLabelIPv6",
)  # fmt: skip

_TCP, _FRAGMENT, _AH = 6, 44, 51


def _protocols(*numbers: int) -> Array:
    found = np.zeros(256, np.bool_)
    found[list(numbers)] = True
    return found


_HAS_PORTS = _protocols(_TCP, 17, 33, 132, 136)  # TCP, UDP, DCCP, SCTP, UDP-Lite
_IS_ICMP = _protocols(1, 58)
_IS_EXTENSION = _protocols(0, 43, _FRAGMENT, _AH, 60, 135, 139, 140)


def parse(
    data: Array, offset: Array, length: Array, link: int = ETHERNET, *,
    inner: bool = True, wanted: Set[str] | None = None,
) -> dict[str, Values]:  # fmt: skip
    """Columns of n frames: those known in any of them.

    `data` is (bytes,) uint8, `offset` and `length` (n,) int64: where each
    frame begins and how much of it was captured. `inner`: whether to look into
    tunnels. `wanted`: the columns to make, all where None. Raises ValueError
    for a `link` that is not in `LINKS`.
    """
    columns = Columns(len(offset), wanted)
    fill(columns, None, data, offset, length, link, inner=inner)
    return columns.values()


def fill(
    columns: Columns, rows: Array | None, data: Array, offset: Array, length: Array, link: int, *, inner: bool
) -> None:
    """Do what `parse` does for the frames of these rows (m,), of all in order where None."""
    if link not in LINKS:
        raise ValueError(f"link type {link} is not understood")
    if not len(offset):
        return
    end = np.minimum(offset + length, len(data))
    data = padded(data, end, LONGEST)
    tunnels = _link(Part(columns, data, rows, np.minimum(offset, end), end), link)
    if inner:
        for found in tunnels:
            _enter(found)


def _enter(found: Inner) -> None:
    part = found.part
    names = _PACKET_COLUMNS + (_LINK_COLUMNS if found.is_ethernet else ())
    part.columns.move(part.rows)
    part.columns.forget(names, part.rows)
    if found.type:
        part.put("tunnel_type", np.full(len(part), found.type))
    if found.key is not None:
        part.put("tunnel_key", found.key, found.has_key)
    _link(part, ETHERNET if found.is_ethernet else IPV4)


def _link(part: Part, link: int) -> list[Inner]:
    if link == ETHERNET:
        header = part.header(14)
        header.tell_mac("dst_mac", 0)
        header.tell_mac("src_mac", 6)
        return _by_type(part.skip(14), header.number(12, 2), header.has(14))
    if link == SLL:
        header = part.header(16)
        part.put("src_mac", header.number(6, 8) >> np.uint64(16), (header.number(4, 2) == 6) & (header.left >= 12))
        return _by_type(part.skip(16), header.number(14, 2), header.has(16))
    if link == SLL2:
        header = part.header(20)
        part.put("src_mac", header.number(12, 8) >> np.uint64(16), (header.number(11, 1) == 6) & (header.left >= 18))
        return _by_type(part.skip(20), header.number(0, 2), header.has(2))
    if link == MPLS:
        return _mpls(part)
    return _ip(part.skip(4) if link in (NULL, LOOP) else part)


def _by_type(part: Part, types: Array, known: Array | None) -> list[Inner]:
    """What follows an EtherType."""
    types = types.astype(np.uint16)
    if known is not None:
        types[~known] = 0
    if bool((types == types[0]).all()) and types[0] in (_TYPE_V4, _TYPE_V6):
        part.put("ether_type", types)
        return _ipv4(part) if types[0] == _TYPE_V4 else _ipv6(part)
    part = _tags(part, types)
    part.put("ether_type", types, types >= _LEAST_TYPE)
    pppoe = part.take(types == _PPPOE).skip(8)
    return [
        *_ipv4(part.take(types == _TYPE_V4)),
        *_ipv6(part.take(types == _TYPE_V6)),
        *_mpls(part.take((types == _MPLS[0]) | (types == _MPLS[1]))),
        *_ip(pppoe),
    ]


def _tags(part: Part, types: Array) -> Part:
    """Pass by VLAN tags; `types` becomes what follows them."""
    for name in ("vlan", "dot1qCustomerVlanId", *[""] * (_MAX_TAGS - 2)):
        tagged = (types == _TAGS[0]) | (types == _TAGS[1]) | (types == _TAGS[2])
        if not bool(tagged.any()):
            break
        mine = part.take(tagged)
        header = mine.header(4)
        if name:
            mine.put(name, header.number(0, 2) & 0x0FFF, header.has(2))
        types[tagged] = np.where(header.left >= 4, header.number(2, 2), 0)
        part = part.skip(np.where(tagged, 4, 0))
    return part


def _mpls(part: Part) -> list[Inner]:
    """A label stack; what it carries stands nowhere, so that the version of IP is guessed as routers do."""
    if len(part):
        header = part.header(4)
        part.put("mpls_label", header.number(0, 4) >> np.uint32(12), header.has(4))
    found: list[Inner] = []
    for _ in range(_MAX_LABELS):
        if not len(part):
            break
        header = part.header(4)
        bottom = (header.bytes[:, 2] & 1 == 1) & (header.left >= 4)
        part = part.skip(4)
        found += _ip(part.take(bottom))
        part = part.take(~bottom & (header.left >= 4))
    return found


def _ip(part: Part) -> list[Inner]:
    """IP of the version that the packet says."""
    if not len(part):
        return []
    header = part.header(1)
    version = np.where(header.left >= 1, header.bytes[:, 0] >> 4, 0)
    return [*_ipv4(part.take(version == 4)), *_ipv6(part.take(version == 6))]


def _ipv4(part: Part) -> list[Inner]:
    """RFC 791."""
    if not len(part):
        return []
    header = part.header(20)
    first = header.bytes[:, 0]
    plain = bool((first == 0x45).all())
    if not plain and not bool((good := (first >> 4 == 4) & (first & 15 >= 5)).all()):
        return _ipv4(part.take(good))
    header.tell("tos", 1, 1)
    header.tell("ttl", 8, 1)
    header.tell("proto", 9, 1)
    header.tell_address("src_addr", 12, 4)
    header.tell_address("dst_addr", 16, 4)
    header.tell("ipTotalLength", 2, 2)
    header.tell("fragmentIdentification", 4, 2)
    word = header.number(6, 2)
    if part.columns.wants("fragmentOffset"):
        part.put("fragmentOffset", word & 0x1FFF, header.has(8))
    if part.columns.wants("fragmentFlags"):
        part.put("fragmentFlags", header.bytes[:, 6] & 0xE0, header.has(7))
    size = 20 if plain else (first & 15).astype(np.int64) * 4
    total = header.number(2, 2).astype(np.int64)
    # Behind a packet stands the padding of its frame; without a length it was not cut into segments yet.
    end = np.minimum(part.end, part.at + np.where(total >= size, total, 1 << 16))
    begins = word & 0x1FFF == 0
    has = header.has(20)
    begins = begins if has is None else begins & has
    rest = part.skip(size, end)
    proto = header.bytes[:, 9]
    return _transport(rest, proto) if bool(begins.all()) else _transport(rest.take(begins), proto[begins])


def _ipv6(part: Part) -> list[Inner]:
    """RFC 8200."""
    if not len(part):
        return []
    header = part.header(40)
    good = header.bytes[:, 0] >> 4 == 6
    if not bool(good.all()):
        return _ipv6(part.take(good))
    part.put("tos", header.number(0, 2) >> np.uint16(4) & np.uint16(0xFF), header.has(2))
    if part.columns.wants("flowLabelIPv6"):
        part.put("flowLabelIPv6", header.number(0, 4) & 0xFFFFF, header.has(4))
    header.tell("ttl", 7, 1)
    header.tell_address("src_addr", 8, 16)
    header.tell_address("dst_addr", 24, 16)
    payload = header.number(4, 2).astype(np.int64)
    part.put("ipTotalLength", payload + 40, header.has(6))
    end = np.minimum(part.end, part.at + np.where(payload > 0, payload + 40, 1 << 16))
    has = header.has(7)
    next_header = header.bytes[:, 6].copy()
    rest = part.skip(40, end)
    if has is not None:
        rest, next_header = rest.take(has), next_header[has]
    rest, next_header, begins = _extensions(rest, next_header)
    rest.put("proto", next_header)
    return _transport(rest, next_header) if begins is None else _transport(rest.take(begins), next_header[begins])


def _extensions(part: Part, proto: Array) -> tuple[Part, Array, Array | None]:
    """Pass by extension headers: the packets whose protocol is known, that, and which have its header (None: all)."""
    extended = _IS_EXTENSION[proto]
    if not bool(extended.any()):
        return part, proto, None
    begins = np.ones(len(part), np.bool_)
    for _ in range(_MAX_EXTENSIONS):
        extended = _IS_EXTENSION[proto] & begins
        if not bool(extended.any()):
            break
        mine = part.take(extended)
        header = mine.header(8)
        kind = proto[extended]
        is_fragment = kind == _FRAGMENT
        if bool(is_fragment.any()):
            begins[extended] = ~is_fragment | (header.number(2, 2) < 8)
            _fragment(mine.take(is_fragment))
        words = header.bytes[:, 1].astype(np.int64)
        size = np.where(is_fragment, 8, np.where(kind == _AH, (words + 2) * 4, (words + 1) * 8))
        skipped = np.zeros(len(part), np.int64)
        skipped[extended] = size
        proto[extended] = np.where(header.left >= 8, header.bytes[:, 0], _LOST)
        part = part.skip(skipped)
    known = (proto != _LOST) & (~_IS_EXTENSION[proto] | ~begins)
    return (part, proto, begins) if bool(known.all()) else (part.take(known), proto[known], begins[known])


_LOST = 255
"""Reserved by IANA: here for a protocol that was not captured."""


def _fragment(part: Part) -> None:
    header = part.header(8)
    word = header.number(2, 2)
    part.put("fragmentOffset", word >> np.uint16(3), header.has(4))
    part.put("fragmentFlags", (word & 1) << 5, header.has(4))
    header.tell("fragmentIdentification", 4, 4)


def _transport(part: Part, proto: Array) -> list[Inner]:
    """Ports, flags and ICMP types of packets that begin here, and the tunnels among them."""
    if not len(part):
        return []
    ported = _HAS_PORTS[proto]
    mine = part.take(ported)
    if len(mine):
        header = mine.header(14)
        header.tell("src_port", 0, 2)
        header.tell("dst_port", 2, 2)
        is_tcp = (proto if mine is part else proto[ported]) == _TCP
        if part.columns.wants("tcp_flags") and bool(is_tcp.any()):
            known = None if bool(is_tcp.all()) and header.least >= 14 else is_tcp & (header.left >= 14)
            mine.put("tcp_flags", header.number(12, 2) & 0x0FFF, known)
    if mine is part and bool((proto == _TCP).all()):
        return []
    icmp = part.take(_IS_ICMP[proto])
    if len(icmp):
        header = icmp.header(2)
        header.tell("icmp_type", 0, 1)
        header.tell("icmp_code", 1, 1)
    return encapsulated(part, proto)
