"""Databases of MaxMind's format (MMDB 2.0), searched for whole columns at once.

Such a file has a binary tree of the bits of addresses, whose leaves point at records. The tree is walked here, all
addresses at once and a bit at a time, from a table of their first 16 bits; there are far fewer records than
addresses, and each is decoded by the package `maxminddb` when it is seen first.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flowagent import names
from flowagent.addresses import V4_MAPPED, address_text
from flowagent.batch import Array
from flowagent.grouping import group_rows

MAX_RECORDS = 1 << 17
"""Records that are remembered; when there are more, all are decoded again."""
MAX_NEW = 500
"""Records that are decoded in one call: some 50 ms."""
_SAMPLE = 1000
_V4_WORD = np.uint64(V4_MAPPED >> 32)
_JUMP = 16
Values = tuple[str | int, ...]


class Database:
    """What a file says of addresses; `read` makes so many values of a record, empty or 0 where it says nothing."""

    def __init__(self, data: bytes, read: Callable[[Any], Values], columns: int) -> None:
        """Raises ValueError where the file is none of this format, or nothing in it is of use."""
        import maxminddb  # only an extra installs it

        try:
            self._reader = maxminddb.Reader(io.BytesIO(data), maxminddb.MODE_FD)
            metadata = self._reader.metadata()
            self._tree = Tree(data, metadata.node_count, metadata.record_size, metadata.ip_version)
            is_of_use = any(any(read(record)) for _, record in itertools.islice(self._reader, _SAMPLE))
        except Exception as error:
            raise ValueError(f"is not a MaxMind DB file that can be read ({error})") from error
        if not is_of_use:
            raise ValueError(f"is a file of {metadata.database_type}, in which there is nothing of this kind")
        self._read = read
        self._entities: dict[int, int] = {}
        self._columns = np.zeros((columns, MAX_RECORDS + 1), np.uint64)
        self.built_seconds = metadata.build_epoch
        self.deferred = self.evictions = 0

    def find(self, addresses: Array) -> Array:
        """(columns, n) uint64: what is said of each address (2, n), texts as codes of `flowagent.names`."""
        high, low = addresses
        leaves = self._tree.find(high, low)
        groups = group_rows([leaves])
        first = groups.first
        if len(self._entities) + MAX_NEW > MAX_RECORDS:
            self.evictions += len(self._entities)
            self._entities.clear()
        entities, left = [], MAX_NEW
        for leaf, row in zip(leaves[first].tolist(), first.tolist(), strict=True):
            entity = self._entities.get(leaf) if leaf else MAX_RECORDS
            if entity is None:
                left -= 1
                entity = self._decode(leaf, int(high[row]), int(low[row])) if left >= 0 else MAX_RECORDS
            entities.append(entity)
        self.deferred += max(0, -left)
        found = np.empty(len(leaves), np.int64)
        found[groups.order] = np.repeat(np.array(entities, np.int64), groups.sizes())
        return self._columns.take(found, axis=1)

    @property
    def known(self) -> Array:
        """(columns, k) uint64: what was read so far."""
        return self._columns[:, : len(self._entities)]

    def _decode(self, leaf: int, high: int, low: int) -> int:
        entity = self._entities[leaf] = len(self._entities)
        self._columns[:, entity] = 0
        with contextlib.suppress(Exception):  # of damaged bytes anything can be made
            values = self._read(self._reader.get(address_text(high, low)))
            self._columns[:, entity] = [names.code(v) if isinstance(v, str) else v for v in values]
        return entity


class Tree:
    """The tree of a file: where its records lie. Raises ValueError where the file is too short for it."""

    def __init__(self, data: bytes, nodes: int, record_bits: int, ip_version: int) -> None:
        self._width = record_bits // 4
        if record_bits not in (24, 28, 32) or not 0 < nodes <= (len(data) - 16) // self._width:
            raise ValueError(f"has a tree of {nodes} nodes with records of {record_bits} bits, which cannot be")
        self._nodes, self._bits = nodes, record_bits
        # 4 bytes from every byte on; behind the tree there are 16 more.
        self._words = np.ndarray((nodes * self._width,), ">u4", data, 0, (1,))
        root, none = np.zeros(1, np.int64), np.full(1, nodes)
        is_v6 = ip_version == 6
        self._v4 = self._jumps(self._walk(root, np.zeros(1, np.uint64), [0] * 96) if is_v6 else root)
        """Where the first 16 bits of an IPv4 address lead, which is ::a.b.c.d in a tree of IPv6."""
        self._v6 = self._jumps(root if is_v6 else none)

    def _jumps(self, root: Array) -> Array:
        return self._walk(np.repeat(root, 1 << _JUMP), np.arange(1 << _JUMP, dtype=np.uint64), _down(_JUMP))

    def find(self, high: Array, low: Array) -> Array:
        """(n,) int64: the place of the record of each address, above 0; 0 where there is none."""
        at = np.empty(len(high), np.int64)
        is_v4 = (low >> np.uint64(32) == _V4_WORD) & (high == 0)
        v4, v6 = np.flatnonzero(is_v4), np.flatnonzero(~is_v4)
        words = low[v4] & np.uint64(0xFFFF_FFFF)
        at[v4] = self._walk(self._v4.take((words >> np.uint64(16)).view(np.int64)), words, _down(16))
        if len(v6):
            upper = high[v6]
            start = self._v6.take((upper >> np.uint64(48)).view(np.int64))
            at[v6] = self._walk(self._walk(start, upper, _down(48)), low[v6], _down(64))
        at -= self._nodes
        return np.maximum(at, 0, out=at)

    def _walk(self, at: Array, words: Array, shifts: Iterable[int]) -> Array:
        """Where the bits of words lead from these nodes; what is no node any more stays."""
        rows = np.flatnonzero(at < self._nodes)
        at, now, words = at.copy(), at[rows], words[rows]
        for shift in shifts:
            if not len(rows):
                break
            now = self._step(now, ((words >> np.uint64(shift)) & np.uint64(1)).view(np.int64))
            goes_on = now < self._nodes
            if not goes_on.all():
                at[rows] = now
                rows, now, words = rows[goes_on], now[goes_on], words[goes_on]
        at[rows] = now
        return at

    def _step(self, nodes: Array, bit: Array) -> Array:
        """The left or the right record of nodes; of 28 bits each they share a byte in the middle."""
        found: Array = self._words[nodes * self._width + bit * (self._bits // 8)].astype(np.int64)
        if self._bits == 32:
            return found
        left: Array = found >> 8
        if self._bits == 24:
            return left
        return np.where(bit == 0, left | (found & 0xF0) << 20, found & 0x0FFF_FFFF)


def _down(bits: int) -> range:
    return range(bits - 1, -1, -1)
