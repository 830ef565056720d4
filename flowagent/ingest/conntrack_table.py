"""What was told of each connection already, so that only what is new is told next time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowagent.batch import Array

_GONE = -1


class News(NamedTuple):
    """What to tell of some entries: counters less what was told, (4, n) uint64, and whether any was, (n,) bool."""

    counters: Array
    known: Array


class Table:
    """Last counters of at most `max_entries` connections by their key, a 64-bit hash.

    Counters are packets, bytes, packets of the reply, bytes of the reply: (4, n)
    uint64. A connection beyond the bound is told of when it ends, all at once.
    The caller reads dumps to their end and events only between them: an entry
    that is in a dump has not ended before it.
    """

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._keys = np.zeros(0, np.uint64)
        self._told = np.zeros((4, 0), np.uint64)
        self._round = np.zeros(0, np.int64)
        """In which dump an entry was seen last."""
        self._now = 0
        self.untracked = 0
        """Times an entry of a dump found no room."""
        self.vanished = 0
        """Connections that ended unheard; what they counted since they were told of last is not known."""

    def __len__(self) -> int:
        return len(self._keys)

    def begin(self) -> None:
        """A dump begins."""
        self._now += 1

    def dumped(self, keys: Array, counters: Array, *, baseline: bool = False) -> News:
        """Entries of the dump; those that are new count whole, or where it is the `baseline`, from now on."""
        repeated = _repeated(keys)  # a dump may have an entry twice
        place, known = self._find(keys)
        known &= ~repeated
        news = self._differences(place, known, counters)
        self._told[:, place[known]] = counters[:, known]
        self._round[place[known]] = self._now
        fresh = np.flatnonzero(~known & ~repeated)
        added = fresh[: max(0, self._max - len(self))]
        self.untracked += len(fresh) - len(added)
        untold = ~known
        if not baseline:
            untold[added] = False
        news.counters[:, untold] = 0
        self._add(keys[added], counters[:, added])
        return news

    def ended(self, keys: Array, counters: Array, *, since_baseline: bool = True) -> News:
        """Connections that ended with these counters; those never seen count whole if they came `since_baseline`."""
        place, known = self._find(keys)
        known &= ~_repeated(keys)  # one after the other had the same key
        news = self._differences(place, known, counters)
        if not since_baseline:
            news.counters[:, ~known] = 0
            self.vanished += int(np.count_nonzero(~known))
        self._told[:, place[known]] = 0  # another connection may get the same key
        self._round[place[known]] = _GONE
        return news

    def end(self) -> None:
        """The dump is at its end: forget what ended, and what is in neither of the last two dumps."""
        gone = self._round == _GONE
        vanished = ~gone & (self._round < self._now - 1)
        self.vanished += int(np.count_nonzero(vanished))
        keep = ~(gone | vanished)
        if not bool(keep.all()):
            self._keys, self._told, self._round = self._keys[keep], self._told[:, keep], self._round[keep]

    def _find(self, keys: Array) -> tuple[Array, Array]:
        """Place of each key, and whether it is there."""
        if not len(self):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
        return place, self._keys[place] == keys

    def _differences(self, place: Array, known: Array, counters: Array) -> News:
        told = np.zeros_like(counters)
        told[:, known] = self._told[:, place[known]]
        # Counters that fell are those of another connection under the same key, or were set to zero.
        told[:, (counters < told).any(axis=0)] = 0
        return News(counters - told, known)

    def _add(self, keys: Array, counters: Array) -> None:
        if not len(keys):
            return
        keys = np.concatenate([self._keys, keys])
        order = np.argsort(keys)
        self._keys = keys[order]
        self._told = np.concatenate([self._told, counters], axis=1)[:, order]
        self._round = np.concatenate([self._round, np.full(len(counters[0]), self._now)])[order]


def _repeated(keys: Array) -> Array:
    """(n,) bool: all of equal keys but one."""
    order = np.argsort(keys)
    repeated = np.zeros(len(keys), np.bool_)
    repeated[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return repeated
