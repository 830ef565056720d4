"""Lists of sFlow: items that each have a type, a length and that many bytes; the k-th of many lists at once."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array
from flowagent.ingest.datagrams import gather, numbers

_FEW = 64
"""With no more lists than this it is quicker to read item after item, and a long list cannot take long."""
_ITEM = struct.Struct("!II")


class Items(NamedTuple):
    """What the lists hold, in no order but that of each list.

    owner   (i,) int64: which list
    kind    (i,) int64: type, the enterprise in its upper 20 bits
    at      (i,) int64: where the item's bytes begin
    length  (i,) int64: how many there are
    """

    owner: Array
    kind: Array
    at: Array
    length: Array

    def take(self, rows: Array) -> Items:
        """Some of them: a mask or positions."""
        return Items(self.owner[rows], self.kind[rows], self.at[rows], self.length[rows])


def walk(data: Array, at: Array, end: Array, count: Array) -> tuple[Items, Array]:
    """Read lists of `count` items; all arrays (m,) int64.

    Returns the items, and (m,) bool, the lists that end inside an item or
    before they have all: of those, what comes before. Items begin at multiples
    of 4 (XDR, RFC 4506, section 4.10). `data` goes on for 8 bytes behind the ends.
    """
    broken = np.zeros(len(at), np.bool_)
    owner = np.flatnonzero(count > 0)
    at, end, left = at[owner], end[owner], count[owner]
    found: list[Items] = []
    while len(owner) > _FEW:
        begins = end - at >= 8
        heads = gather(data, np.where(begins, at, 0), 8)
        kind, length = numbers(heads, 0, 4), numbers(heads, 4, 4)
        whole = begins & (length <= end - at - 8)
        if not bool(whole.all()):
            broken[owner[~whole]] = True
            owner, at, end, left = owner[whole], at[whole], end[whole], left[whole]
            kind, length = kind[whole], length[whole]
        found.append(Items(owner, kind, at + 8, length))
        more = left > 1
        at, left = at + 8 + (length + 3 & ~3), left - 1
        if not bool(more.all()):
            owner, at, end, left = owner[more], at[more], end[more], left[more]
    if len(owner):
        found.append(_one_by_one(data, np.stack([owner, at, end, left]), broken))
    if not found:
        return Items(*(np.zeros(0, np.int64),) * 4), broken
    return Items(*(np.concatenate(parts) for parts in zip(*found, strict=True))), broken


def _one_by_one(data: Array, lists: Array, broken: Array) -> Items:
    found: list[tuple[int, int, int, int]] = []
    view = data.data
    for owner, start, end, count in lists.T.tolist():
        at = start
        for _ in range(count):
            kind, length = _ITEM.unpack_from(view, at) if at + 8 <= end else (0, end)
            if at + 8 + length > end:
                broken[owner] = True
                break
            found.append((owner, kind, at + 8, length))
            at += 8 + (length + 3 & ~3)
    return Items(*np.array(found, np.int64).reshape(-1, 4).T)
