"""Group numbers: few, small and steady, so that sketches of all groups are rows of one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowagent.aggregate.labels import Key, keys_of
from flowagent.aggregate.sums import Names, distinct, groups_of
from flowagent.batch import Array, Batch
from flowagent.hashing import hash_rows

MAX_GROUPS = 10_000
NUMBER = np.dtype(np.uint16)
"""Holds every number."""


class GroupNumbers:
    """Numbers 0 to `limit` - 1 for keys, and `limit` for all others once these are taken.

    A number whose key has not been seen for `memory` periods goes to a new key.
    Within a period a key keeps what it has got, a number or none.
    """

    def __init__(self, names: Names, limit: int, memory: int) -> None:
        self.names = names
        self.other = limit
        self.folded = 0
        """Times a batch had a key that got no number."""
        self._memory = memory
        self._period = 0
        self._number: dict[Key, int] = {}
        self._key: list[Key | None] = [None] * (limit if names else 0)
        self._hash = np.zeros(len(self._key), np.uint64)
        self._used = np.full(len(self._key), -memory - 1)

    @property
    def size(self) -> int:
        """How many numbers there can be, the others' included."""
        return self.other + 1 if self.names else 1

    def next_period(self) -> None:
        """Another period begins."""
        self._period += 1

    def numbers(self, batch: Batch, *, assign: bool = True) -> Array | None:
        """(n,) intp; None where there are no columns to group by, so that all rows are group 0.

        With `assign` False only known keys have numbers, and nothing is remembered.
        """
        if not self.names:
            return None
        numbers = np.empty(len(batch), np.intp)
        if len(batch):
            groups = groups_of(batch, self.names)
            numbers[groups.order] = np.repeat(self._of_groups(batch, assign=assign), groups.sizes())
        return numbers

    def keys(self) -> Sequence[Key | None]:
        """The key of each number; None where nobody has it, and for the others."""
        return [*self._key, None] if self.names else [()]

    def _of_groups(self, batch: Batch, *, assign: bool) -> Array:
        """(g,) intp: the number of each group of a batch."""
        keys = distinct(batch, self.names)
        hashes = hash_rows(keys, self.names)
        numbers = np.full(len(keys), self.other)
        # However many groups there are, only those that can be known become Python objects.
        known = np.sort(self._hash)
        maybe = np.flatnonzero(known.take(known.searchsorted(hashes), mode="clip") == hashes)
        for row, key in zip(maybe.tolist(), keys_of(keys, self.names, maybe), strict=True):
            numbers[row] = self._number.get(key, self.other)
        if assign:
            self._used[numbers[numbers < self.other]] = self._period
            self._assign(keys, hashes, numbers)
            self.folded += int(np.count_nonzero(numbers == self.other))
        return numbers

    def _assign(self, keys: Batch, hashes: Array, numbers: Array) -> None:
        """Give the numbers that nobody needs to keys without one."""
        free = np.flatnonzero(self._period - self._used > self._memory)
        new = np.flatnonzero(numbers == self.other)[: len(free)]
        for row, key, number in zip(new.tolist(), keys_of(keys, self.names, new), free.tolist(), strict=False):
            if key in self._number:  # one key can be two groups, see `Groups`
                numbers[row] = self._number[key]
                continue
            old = self._key[number]
            if old is not None:
                del self._number[old]
            self._key[number] = key
            self._number[key] = numbers[row] = number
            self._hash[number], self._used[number] = hashes[row], self._period
