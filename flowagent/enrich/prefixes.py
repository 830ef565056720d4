"""The longest prefix that an address lies in, searched for whole columns at once.

Prefixes that nest are cut into ranges that do not overlap, so that the answer is the last range that begins at or
before the address. A table of up to 16 bits says where to look for it, and a binary search finds it there, for all
addresses step by step. IPv4 addresses are ::ffff:a.b.c.d, and searched by their 32 bits only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, constant, is_constant

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
_V4_WORD = np.uint64(V4_MAPPED >> 32)
_WORD = (1 << 64) - 1


def parse_prefix(text: str) -> Prefix:
    """A prefix, or an address as the prefix of all its bits; ValueError says what would be right."""
    try:
        prefix = ipaddress.ip_network(text)
    except ValueError:
        pass
    else:
        mapped = prefix.network_address.ipv4_mapped if prefix.version == 6 and prefix.prefixlen >= 96 else None
        return prefix if mapped is None else ipaddress.IPv4Network((mapped, prefix.prefixlen - 96))
    try:
        right = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a prefix; write one such as 10.0.0.0/8 or 2001:db8::/32") from None
    raise ValueError(f"{text} has bits set behind its length; write {right}")


class PrefixTable:
    """Immutable; values are int32 from 0 up. Of the same prefix twice the last counts; raises ValueError.

    An IPv6 prefix does not hold IPv4 addresses, however short it is.
    """

    def __init__(self, prefixes: Iterable[tuple[Prefix, int]]) -> None:
        own = dict(prefixes)
        if any(value < 0 for value in own.values()):
            raise ValueError("values are at least 0")
        self._size = len(own)
        v4, v6 = (_flat((p, v) for p, v in own.items() if p.version == version) for version in (4, 6))
        self._v4, self._v6 = _Words(list(v4), np.uint32), _Pairs(list(v6))
        self._v4_values, self._v6_values = (np.array(list(flat.values()), np.int32) for flat in (v4, v6))

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._v4.nbytes + self._v6.nbytes + self._v4_values.nbytes + self._v6_values.nbytes

    def find(self, addresses: Array) -> Array:
        """(n,) int32: the value of the longest prefix that each address (2, n) lies in, -1 where there is none."""
        high, low = addresses
        n = len(high)
        if n > 1 and is_constant(high) and is_constant(low):
            return constant(self.find(addresses[:, :1])[0], n, np.int32)
        is_v4 = (low >> np.uint64(32) == _V4_WORD) & (high == 0)
        if is_v4.all():
            return self._v4_values.take(self._v4.find(low.astype(np.uint32)))
        found = np.empty(n, np.int32)
        v4, v6 = np.flatnonzero(is_v4), np.flatnonzero(~is_v4)
        found[v4] = self._v4_values.take(self._v4.find(low[v4].astype(np.uint32)))
        found[v6] = self._v6_values.take(self._v6.find(high[v6], low[v6]))
        return found


def _flat(prefixes: Iterable[tuple[Prefix, int]]) -> dict[int, int]:
    """The values of ranges by where they begin, ascending from 0; -1 where there is no prefix."""
    edges = {0: -1}
    inside: list[tuple[int, int]] = []  # (past the last, value) of the prefixes that are open, the longest last

    def leave(until: int) -> None:
        while inside and inside[-1][0] <= until:
            past, _ = inside.pop()
            edges[past] = inside[-1][1] if inside else -1

    most = -1
    for prefix, value in sorted(prefixes, key=lambda item: (int(item[0].network_address), item[0].prefixlen)):
        first, most = int(prefix.network_address), 1 << prefix.max_prefixlen
        leave(first)
        edges[first] = value
        inside.append((first + prefix.num_addresses, value))
    leave(most)
    edges.pop(most, None)
    return edges


class _Words:
    """Ranges of words, 32 bits wide or 64."""

    def __init__(self, begins: list[int], dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        base, last = begins[min(1, len(begins) - 1)], begins[-1]
        shift = max(0, (last - base).bit_length() - 16)
        self._base, self._shift = self._dtype.type(base), self._dtype.type(shift)
        self._most = self._dtype.type(last - base >> shift)
        firsts = (np.arange(int(self._most) + 1, dtype=self._dtype) << self._shift) + self._base
        ranges = np.array(begins, self._dtype)
        at = np.searchsorted(ranges, firsts, "right") - 1
        at[0] = 0
        self._at = at
        """By the bits of a word behind `base`, the first range that it can be in; less than 2^steps follow it there."""
        self._steps = int((np.append(at[1:], len(begins) - 1) - at).max()).bit_length()
        self._before = _before(ranges, self._steps)

    @property
    def nbytes(self) -> int:
        return int(self._at.nbytes + self._before.nbytes)

    def find(self, words: Array) -> Array:
        """(n,) intp: the range that each word is in."""
        top = (np.maximum(words, self._base) - self._base) >> self._shift
        at: Array = self._at.take(np.minimum(top, self._most).astype(np.intp))
        for step in _halves(self._steps):
            ahead = at + step
            at = np.where(self._before.take(ahead) < words, ahead, at)
        return at


class _Pairs:
    """Ranges of pairs of words: found by the high word, and where that is divided by the low one."""

    def __init__(self, begins: list[int]) -> None:
        highs, lows = [at >> 64 for at in begins], [at & _WORD for at in begins]
        starts = [i for i, high in enumerate(highs) if i == 0 or high != highs[i - 1]]
        self._words = _Words([highs[i] for i in starts], np.uint64)
        self._high = np.array([highs[i] for i in starts], np.uint64)
        self._first, self._past = np.array(starts), np.array([*starts[1:], len(begins)])
        self._steps = int((self._past - self._first).max()).bit_length()
        self._before = _before(np.array(lows, np.uint64), self._steps)
        self._begins_whole = np.array([lows[i] == 0 for i in starts])

    @property
    def nbytes(self) -> int:
        own = (self._high, self._first, self._past, self._before, self._begins_whole)
        return self._words.nbytes + sum(array.nbytes for array in own)

    def find(self, high: Array, low: Array) -> Array:
        """(n,) intp: the range that each pair is in."""
        group = self._words.find(high)
        past = self._past.take(group)
        place = past - 1
        rows = np.flatnonzero(self._high.take(group) == high)
        if len(rows):
            group, past, low = group[rows], past[rows], low[rows]
            # A word before the first of its group is in the last range of the group before.
            at = self._first.take(group) - 1 + self._begins_whole.take(group)
            for step in _halves(self._steps):
                ahead = at + step
                at = np.where((ahead < past) & (self._before.take(ahead) < low), ahead, at)
            place[rows] = at
        return place


def _before(begins: Array, steps: int) -> Array:
    """The word before each range, and words that nothing is above, as far as a search may look ahead.

    Of a range that begins with 0 that is no word, and never looked at.
    """
    return np.append(begins - begins.dtype.type(1), np.full(1 << steps, -1).astype(begins.dtype))


def _halves(steps: int) -> list[int]:
    return [1 << step for step in reversed(range(steps))]
