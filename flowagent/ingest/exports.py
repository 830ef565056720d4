"""How a datagram of exports is told from any other: by its version word, and by lengths that add up."""

from __future__ import annotations

import struct

_FIXED = {1: (16, 52), 5: (24, 48), 7: (24, 52)}
"""Header and record of the versions of NetFlow that have no templates."""
_SET = struct.Struct("!HH")
_SFLOW = struct.Struct("!II")
_MAX_PADDING = 3


def is_export(payload: bytes) -> bool:
    """Whether this is NetFlow, IPFIX or sFlow as its header and the lengths in it say; damaged ones may not be."""
    if len(payload) >= _SFLOW.size and _SFLOW.unpack_from(payload) in ((5, 1), (5, 2)):
        return True
    if len(payload) < 16:
        return False
    version: int
    second: int
    version, second = _SET.unpack_from(payload)
    if version in _FIXED:
        head, record = _FIXED[version]
        return second > 0 and len(payload) == head + second * record
    if version == 9:
        return second > 0 and _is_of_sets(payload, 20)
    if version == 10:
        return second == len(payload) and _is_of_sets(payload, 16)
    return False


def _is_of_sets(payload: bytes, at: int) -> bool:
    """Whether sets follow one another to the end (RFC 7011, section 3.3; RFC 3954, section 5)."""
    while len(payload) - at > _MAX_PADDING:
        kind, size = _SET.unpack_from(payload, at)
        if size < 4 or 4 <= kind < 256:
            return False
        at += size
    return at <= len(payload)
