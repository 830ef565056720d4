"""Tunnels among packets: where the inner packet begins, and the tunnel's type and key; see `headers.py`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowagent.batch import Array
from flowagent.ingest.header_columns import Header, Part

VXLAN, GRE, GENEVE = 1, 2, 7
"""Numbers of `tunnel_type`; IP in IP has none."""
_UDP, _IPIP, _IPV6, _GRE = 17, 4, 41, 47
_VXLAN_PORTS, _GENEVE_PORT = (4789, 8472), 6081  # the second is the Linux kernel's own
_ETHERNET, _V4, _V6 = 0x6558, 0x0800, 0x86DD


class Inner(NamedTuple):
    """Inner packets of one kind of tunnel.

    part     where they begin
    type     of `tunnel_type`; 0: none has a number
    key      (m,), None where the kind has none; `has_key` (m,) bool where not all have one
    """

    part: Part
    is_ethernet: bool
    type: int
    key: Array | None = None
    has_key: Array | None = None


def encapsulated(part: Part, proto: Array) -> list[Inner]:
    """The tunnels among packets of which `part` is behind the IP header; those whose inner headers were captured."""
    found: list[Inner] = []
    if bool((udp := proto == _UDP).any()):
        datagrams = part.take(udp)
        port = datagrams.header(4).number(2, 2)
        found += _vxlan(datagrams.take((port == _VXLAN_PORTS[0]) | (port == _VXLAN_PORTS[1])).skip(8))
        found += _geneve(datagrams.take(port == _GENEVE_PORT).skip(8))
    found += _gre(part.take(proto == _GRE))
    found += _split(part.take((proto == _IPIP) | (proto == _IPV6)), 0)
    return found


def _vxlan(part: Part) -> list[Inner]:
    """RFC 7348."""
    if not len(part):
        return []
    header = part.header(8)
    # Anything may use these ports: the flag must be set and what is reserved be zero.
    good = (header.number(0, 4) & 0xFFFFFF == 0) & (header.bytes[:, 0] & 0x08 != 0) & (header.left >= 8 + 14)
    key = header.number(4, 4) >> np.uint32(8)
    return [Inner(part.take(good).skip(8), is_ethernet=True, type=VXLAN, key=key[good])] if bool(good.any()) else []


def _geneve(part: Part) -> list[Inner]:
    """RFC 8926."""
    if not len(part):
        return []
    header = part.header(8)
    size = 8 + (header.bytes[:, 0] & 0x3F).astype(np.int64) * 4
    good = (header.bytes[:, 0] >> 6 == 0) & (header.left >= size)
    return _by_type(part, header, good, size, GENEVE, header.number(4, 4) >> np.uint32(8), None)


def _gre(part: Part) -> list[Inner]:
    """RFC 2784, with the key and sequence number of RFC 2890."""
    if not len(part):
        return []
    header = part.header(12)
    flags = header.bytes[:, 0]
    checksum, has_key, numbered = (flags & bit != 0 for bit in (0x80, 0x20, 0x10))
    size = 4 + 4 * (checksum.astype(np.int64) + has_key + numbered)
    # No routing (RFC 1701), and version 0: version 1 is PPTP's.
    good = (header.number(0, 2) & 0x4007 == 0) & (header.left >= size)
    key = np.where(checksum, header.number(8, 4), header.number(4, 4))
    return _by_type(part, header, good, size, GRE, key, has_key)


def _by_type(
    part: Part, header: Header, good: Array, size: Array, tunnel: int, key: Array, has_key: Array | None
) -> list[Inner]:
    """Inner packets by the EtherType that their tunnel's header has in its bytes 2 and 3."""
    kind = header.number(2, 2)
    behind = part.skip(size)
    found: list[Inner] = []
    ethernet = good & (kind == _ETHERNET) & (header.left >= size + 14)
    if bool(ethernet.any()):
        has = None if has_key is None else has_key[ethernet]
        found.append(Inner(behind.take(ethernet), True, tunnel, key[ethernet], has))
    packet = good & ((kind == _V4) | (kind == _V6))
    if bool(packet.any()):
        found += _split(behind.take(packet), tunnel, key[packet], None if has_key is None else has_key[packet])
    return found


def _split(part: Part, tunnel: int, key: Array | None = None, has_key: Array | None = None) -> list[Inner]:
    """IP packets, where their addresses were captured."""
    if not len(part):
        return []
    header = part.header(1)
    version = header.bytes[:, 0] >> 4
    good = ((version == 4) & (header.left >= 20)) | ((version == 6) & (header.left >= 40))
    if not bool(good.any()):
        return []
    return [
        Inner(
            part.take(good),
            is_ethernet=False,
            type=tunnel,
            key=None if key is None else key[good],
            has_key=None if has_key is None else has_key[good],
        )
    ]
