"""IP addresses as two uint64 words, IPv4 mapped into ::ffff:0:0/96 (RFC 4291, section 2.5.5.2)."""

from __future__ import annotations

import ipaddress
import socket

V4_MAPPED = 0xFFFF_0000_0000
"""Low word of ::ffff:0.0.0.0."""


def address_words(text: str) -> tuple[int, int]:
    """High and low 64 bits of an address given as text; IPv4 is mapped into ::ffff:0:0/96."""
    address = ipaddress.ip_address(text)
    value = int(address) | V4_MAPPED if address.version == 4 else int(address)
    return value >> 64, value & (1 << 64) - 1


def address_text(high: int, low: int) -> str:
    """An address as people write it; ::ffff:a.b.c.d prints as a.b.c.d."""
    if high == 0 and low >> 32 == 0xFFFF:
        return socket.inet_ntop(socket.AF_INET, (low & 0xFFFFFFFF).to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, (high << 64 | low).to_bytes(16, "big"))
