"""Group numbers: few, small and steady, so that sketches of all groups are rows of one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowagent.aggregate.labels import Key, keys_of
from flowagent.aggregate.sums import Names, groups_of
from flowagent.batch import Array, Batch


class GroupNumbers:
    """Numbers 0 to `limit` - 1 for keys, and `limit` for all others once these are taken.

    A number whose key has not been seen for `memory` periods goes to a new key.
    """

    def __init__(self, names: Names, limit: int, memory: int) -> None:
        self.names = names
        self.other = limit
        self.folded = 0
        """Times a batch had a key that got no number."""
        self._memory = memory
        self._number: dict[Key, int] = {}
        self._key: list[Key | None] = []
        self._used: list[int] = []
        self._period = 0
        self._is_full = False

    @property
    def size(self) -> int:
        """How many numbers there can be, the others' included."""
        return self.other + 1 if self.names else 1

    def next_period(self) -> None:
        """Another period begins."""
        self._period += 1
        self._is_full = False

    def numbers(self, batch: Batch, *, assign: bool = True) -> Array | None:
        """(n,) intp; None where there are no columns to group by, so that all rows are group 0.

        With `assign` False only known keys have numbers, and nothing is remembered.
        """
        if not self.names or not len(batch):
            return None if not self.names else np.zeros(0, np.intp)
        groups = groups_of(batch, self.names)
        keys = keys_of(batch, self.names, groups.first)
        if assign:
            of_group = [self._assigned(key) for key in keys]
        else:
            of_group = [self._number.get(key, self.other) for key in keys]
        numbers = np.empty(len(batch), np.intp)
        numbers[groups.order] = np.repeat(np.array(of_group, np.intp), groups.sizes())
        return numbers

    def keys(self) -> Sequence[Key | None]:
        """The key of each number; None where nobody has it, and for the others."""
        if not self.names:
            return [()]
        return [*self._key, *[None] * (self.size - len(self._key))]

    def _assigned(self, key: Key) -> int:
        number = self._number.get(key)
        if number is None:
            number = self._free()
            if number is None:
                self.folded += 1
                return self.other
            self._number[key] = number
            self._key[number] = key
        self._used[number] = self._period
        return number

    def _free(self) -> int | None:
        """A number nobody needs."""
        if len(self._key) < self.other:
            self._key.append(None)
            self._used.append(self._period)
            return len(self._key) - 1
        if self._is_full or not self._key:
            return None
        number = min(range(self.other), key=self._used.__getitem__)
        if self._period - self._used[number] <= self._memory:
            self._is_full = True  # until the next period; looking again would be in vain
            return None
        self._number.pop(self._key[number] or (), None)
        return number
