"""Columns as text, as it stands in JSON: numbers, addresses, MAC addresses, strings; no loop over rows.

All functions return (n,) arrays of dtype "S" that may hold NUL anywhere, as
padding: who puts lines together takes every NUL out (`lines.py`). So texts of
many lengths can be written side by side in the width of the longest. A NUL of
the text itself is escaped.
"""

from __future__ import annotations

import socket
from functools import cache, lru_cache
from typing import Any

import msgspec
import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array
from flowagent.grouping import group_rows

_U64 = np.uint64
_PREFIX = _U64(V4_MAPPED >> 32)
_WIDE = 64
"""Bytes of a column of strings that are not looked through for a lesser width."""


def _table(texts: list[bytes]) -> Array:
    """Texts of up to 4 bytes as uint32, which are quicker to pick and to store than strings."""
    return np.frombuffer(b"".join(text.ljust(4, b"\0") for text in texts), np.uint32)


@cache
def _digits() -> Array:
    """Numbers below 10,000 three times over: with leading zeros, without any, and without but for a last 0."""
    numbers = range(10_000)
    bare = [b"%d" % i for i in numbers]
    return np.concatenate([_table([b"%04d" % i for i in numbers]), _table([b"", *bare[1:]]), _table(bare)])


_OCTETS = _table([b"%d." % i for i in range(256)])
_LAST_OCTETS = _table([b"%d" % i for i in range(256)])
_HEX = {upper: _table([(b"%02X:" if upper else b"%02x:") % i for i in range(256)]) for upper in (False, True)}
_LAST_HEX = {upper: _table([(b"%02X" if upper else b"%02x") % i for i in range(256)]) for upper in (False, True)}


def numbers(values: Array) -> Array:
    """Numbers of any dtype; a float that is no number is `null`."""
    if values.dtype == np.bool_:
        return np.where(values, b"true", b"false")
    if values.dtype.kind == "f":
        # Written by msgspec, which knows the shortest text that reads back as the same float.
        return np.array(msgspec.json.encode(values.tolist())[1:-1].split(b","), "S")
    if values.dtype.kind == "i" and len(values) and int(values.min()) < 0:
        return np.array([b"%d" % value for value in values.tolist()], "S")
    return _unsigned(values)


def _unsigned(values: Array) -> Array:
    """Four digits at a time, from the last."""
    greatest = int(values.max(initial=0))
    parts = max(1, -(-len(str(greatest)) // 4))
    out = np.empty((len(values), parts), np.uint32)
    # 32-bit division is quicker.
    rest: Any = values.astype(np.uint32 if greatest <= 0xFFFF_FFFF else np.uint64)
    step, digits = rest.dtype.type(10_000), _digits()
    for part in range(parts - 1, 0, -1):
        higher = rest // step
        index = (rest - higher * step).astype(np.intp)
        index[higher == 0] += 20_000 if part == parts - 1 else 10_000
        out[:, part] = digits.take(index)
        rest = higher
    out[:, 0] = digits.take(rest.astype(np.intp) + (20_000 if parts == 1 else 10_000))
    return out.view(f"S{4 * parts}")[:, 0]


def macs(values: Array, *, upper: bool = False) -> Array:
    """MAC addresses in the low 48 bits of uint64, with colons."""
    octets = values.astype(">u8").view(np.uint8).reshape(-1, 8)
    out = np.empty((len(values), 6), np.uint32)
    out[:, :5] = _HEX[upper].take(octets[:, 2:7])
    out[:, 5] = _LAST_HEX[upper].take(octets[:, 7])
    return out.view("S24")[:, 0]


def addresses(words: Array) -> Array:
    """IPv4 and IPv6 addresses, (2, n) uint64."""
    high, low = words
    v4 = is_v4(words)
    if bool(v4.all()):
        return _ipv4(low)
    out = np.zeros(len(low), "S40")
    rows = np.flatnonzero(v4)
    out[rows] = _ipv4(low[rows])
    rows = np.flatnonzero(~v4)
    out[rows] = _ipv6(high[rows], low[rows])
    return out


def prefixes(parts: Array) -> Array:
    """Networks, (3, n) uint64: an address and the length of a prefix it is in, no greater than there are bits."""
    high, low, length = parts
    bits = length + np.where(is_v4(parts[:2]), _U64(96), _U64(0))
    network = np.stack([high & _ones(bits), low & _ones(np.maximum(bits, _U64(64)) - _U64(64))])
    fields = addresses(network), numbers(length)
    out = np.empty(len(low), [("address", fields[0].dtype), ("slash", "S1"), ("length", fields[1].dtype)])
    out["address"], out["slash"], out["length"] = fields[0], b"/", fields[1]
    return out.view(f"S{out.dtype.itemsize}")


def _ones(bits: Array) -> Array:
    """Words of uint64 of which the first bits are set."""
    return ~_U64(0) << (_U64(64) - np.minimum(bits, _U64(64)))


def is_v4(words: Array) -> Array:
    """Which of these addresses, (2, n) uint64, are of IPv4: bool (n,)."""
    high, low = words
    return np.asarray((high == 0) & (low >> _U64(32) == _PREFIX))


def _ipv4(low: Array) -> Array:
    octets = low.astype(">u4").view(np.uint8).reshape(-1, 4)
    out = np.empty((len(low), 4), np.uint32)
    out[:, :3] = _OCTETS.take(octets[:, :3])
    out[:, 3] = _LAST_OCTETS.take(octets[:, 3])
    return out.view("S16")[:, 0]


def _ipv6(high: Array, low: Array) -> Array:
    """Each distinct one once: addresses repeat a lot."""
    groups = group_rows([high, low])
    first = groups.first
    texts = np.array(list(map(address, high[first].tolist(), low[first].tolist())), "S40")
    out = np.empty(len(low), "S40")
    out[groups.order] = texts.repeat(groups.sizes())
    return out


@lru_cache(maxsize=65536)
def address(high: int, low: int) -> str:
    """One address, of both words."""
    whole = high << 64 | low
    if whole >> 32 == V4_MAPPED >> 32:
        return socket.inet_ntop(socket.AF_INET, (whole & 0xFFFF_FFFF).to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, whole.to_bytes(16, "big"))


def strings(values: Array) -> Array:
    """Strings of UTF-8 (dtype "S"), escaped as JSON wants it and without quotes; what is not UTF-8 becomes U+FFFD."""
    values = np.ascontiguousarray(values)
    width = values.dtype.itemsize
    if width > _WIDE:
        values = values.astype(f"S{max(1, int(np.strings.str_len(values).max(initial=0)))}")
    if not width or not len(values) or _is_plain(values):
        return values
    texts = values.tolist()
    escaped = {text: msgspec.json.encode(text.decode("utf-8", "replace"))[1:-1] for text in set(texts)}
    return np.array(list(map(escaped.__getitem__, texts)), "S")


def _is_plain(values: Array) -> bool:
    """Whether all is ASCII that needs no escaping, with NUL at the ends only."""
    data = values.tobytes()
    if not data.isascii() or b'"' in data or b"\\" in data:
        return False
    octets = np.frombuffer(data, np.uint8)
    # NUL becomes 255.
    if int((octets - np.uint8(1)).min()) < 0x1F:
        return False
    is_nul = octets == 0
    resumes = is_nul[:-1] & ~is_nul[1:]
    width = values.dtype.itemsize
    return int(np.count_nonzero(resumes)) == int(np.count_nonzero(resumes[width - 1 :: width]))


def plain(values: Array) -> list[str]:
    """Strings of UTF-8 (dtype "S") as Python's; what is not UTF-8 becomes U+FFFD."""
    values = np.ascontiguousarray(values)
    if len(values) and _is_plain(values):
        return split(values)
    texts = values.tolist()
    decoded = {octets: octets.decode("utf-8", "replace") for octets in set(texts)}
    return list(map(decoded.__getitem__, texts))


def utf8(values: Array) -> Array:
    """Strings (dtype "S") that are UTF-8; what is not becomes U+FFFD."""
    values = np.ascontiguousarray(values)
    return values if values.tobytes().isascii() else np.array([text.encode() for text in plain(values)], "S")


def split(texts: Array) -> list[str]:
    """ASCII as the functions of this module return it, and without newlines, as Python's strings."""
    rows = np.empty(len(texts), [("text", texts.dtype), ("end", "S1")])
    rows["text"], rows["end"] = texts, b"\n"
    return rows.tobytes().translate(None, b"\0").decode().split("\n")[:-1]


def words(values: Array) -> list[Array]:
    """The bytes of strings (dtype "S") as arrays of uint64, by which rows can be grouped."""
    count = max(1, -(-values.dtype.itemsize // 8))
    return list(values.astype(f"S{8 * count}").view(np.uint64).reshape(-1, count).T)
