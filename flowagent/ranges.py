"""Ranges: which values of a column lie in a set of numbers, the set being given as closed ranges.

Values, value ranges, prefixes and orders (`> 5`) are all such sets, however
many of them there are and however they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flowagent.batch import Array

Number = int | float
Pair = tuple[Number, Number]
"""The numbers from the first to the last, both included."""
Match = Callable[[Array], Array]
"""Values to bool of shape (n,)."""

_ALL_64 = (1 << 64) - 1
# From more ranges than these on, a table of all values or a binary search is faster than to compare with each.
_TABLE_ABOVE, _SEARCH_ABOVE = 4, 64


def merged(pairs: Iterable[Pair]) -> list[Pair]:
    """The same numbers in as few ranges as there can be, in order."""
    out: list[Pair] = []
    for first, last in sorted(pairs):
        if out and first <= out[-1][1] + isinstance(first, int):
            out[-1] = out[-1][0], max(out[-1][1], last)
        else:
            out.append((first, last))
    return out


def in_ranges(pairs: Sequence[Pair], ends: Pair, dtype: np.dtype[Any]) -> Match:
    """Which values, (n,) of this dtype, lie in a range; at least one, `merged`, within `ends`, the type's own.

    Integers are compared as such, up to 64 bits. NaN lies in no range.
    """
    if len(pairs) > _TABLE_ABOVE and dtype.kind == "u" and dtype.itemsize <= 2:
        table = np.zeros(int(ends[1]) + 1, np.bool_)
        for first, last in pairs:
            table[int(first) : int(last) + 1] = True
        return table.take
    if len(pairs) > _SEARCH_ABOVE:
        return _searched(pairs, ends, dtype)

    def match(values: Array) -> Array:
        rows = _in_range(values, pairs[0], ends)
        for pair in pairs[1:]:
            rows |= _in_range(values, pair, ends)
        return rows

    return match


def _in_range(values: Array, pair: Pair, ends: Pair) -> Array:
    first, last = pair
    if first == last:
        return np.asarray(values == first)
    if first == ends[0]:
        return np.asarray(values <= last)
    return np.asarray(values >= first) if last == ends[1] else np.asarray((values >= first) & (values <= last))


def _searched(pairs: Sequence[Pair], ends: Pair, dtype: np.dtype[Any]) -> Match:
    """A value lies in a range where an odd number of edges, firsts and ones past the last, are not above it."""
    past = [math.nextafter(last, math.inf) if dtype.kind == "f" else last + 1 for _, last in pairs]
    listed = [edge for (first, _), end in zip(pairs, past, strict=True) for edge in (first, end)]
    edges = np.array(listed[:-1] if pairs[-1][1] == ends[1] else listed, dtype)

    def match(values: Array) -> Array:
        rows = (np.searchsorted(edges, values, "right") & 1).astype(np.bool_)
        return rows & (values == values) if dtype.kind == "f" else rows  # noqa: PLR0124 - NaN sorts last

    return match


def in_addresses(pairs: Sequence[Pair]) -> Match:
    """Which addresses, uint64 of shape (2, n), lie in one of these `merged` ranges of 128-bit integers."""
    whole: list[Pair] = []  # ranges of high words with every low word
    parts: dict[int, list[Pair]] = {}  # ranges of low words by their high word; all of IPv4 has one
    for first, last in pairs:
        (high, low), (end, stop) = divmod(int(first), 1 << 64), divmod(int(last), 1 << 64)
        if high == end and (low, stop) != (0, _ALL_64):
            parts.setdefault(high, []).append((low, stop))
            continue
        if low:
            parts.setdefault(high, []).append((low, _ALL_64))
            high += 1
        if stop != _ALL_64:
            parts.setdefault(end, []).append((0, stop))
            end -= 1
        if high <= end:
            whole.append((high, end))
    ends, dtype = (0, _ALL_64), np.dtype(np.uint64)
    in_whole = in_ranges(merged(whole), ends, dtype) if whole else None
    in_parts = [(high, in_ranges(lows, ends, dtype)) for high, lows in parts.items()]

    def match(values: Array) -> Array:
        high, low = values
        rows = in_whole(high) if in_whole is not None else np.zeros(high.shape, np.bool_)
        for word, in_low in in_parts:
            same = high == word
            if same.any():
                rows |= same & in_low(low)
        return rows

    return match
