"""Who held an address, and when: a table to be searched for whole columns at once.

A hash of the address says in which slot it lies, if it does. Addresses whose slot is taken lie in a smaller table of
the same kind, which is looked into for the few rows that need it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from flowagent import names
from flowagent.batch import Array

FOREVER = np.iinfo(np.int64).max
_U64 = np.uint64
# Random and odd, so that nobody outside can aim at one slot.
_MULTIPLIERS = np.random.default_rng().integers(0, 2**63, 16, np.uint64) * _U64(2) + _U64(1)
_LOW, _HIGH, _SINCE, _PLACE = range(4)
_TAKEN = _U64(1 << 32)
"""Beside a place: other addresses wanted the slot."""
_EMPTY = _U64(1 << 33)
"""In place of a place: nobody wanted it."""


def text_column(texts: Iterable[str]) -> Array:
    """(k + 1,) uint64: a name for each entity and, as the last, none, so that entity -1 has no name."""
    return names.codes([*texts, ""])


class AddressTable:
    """Immutable; an entity is the number of whoever held an address, such as a pod.

    Made from holders: addresses (2, m) uint64, times (m,) int64 of [since, until), entities (m,) int32. Where
    holders of an address overlap in time, the one counts who came last of those that are there.
    """

    def __init__(self, addresses: Array, since_ns: Array, until_ns: Array, entity: Array) -> None:
        order = np.lexsort((since_ns, addresses[1], addresses[0]))
        high, low = (words.astype(_U64).take(order) for words in addresses)
        self._since, self._until = since_ns.astype(np.int64).take(order), until_ns.astype(np.int64).take(order)
        self._entity = entity.astype(np.int32).take(order)
        begins = np.ones(len(order), np.bool_)
        begins[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        starts = np.flatnonzero(begins)
        self._first = np.repeat(starts, np.diff(starts, append=len(order)))
        """Of each holder the place of the first one of its address."""
        last = np.concatenate([starts[1:], [len(order)]]) - 1 if len(order) else starts
        self._slots = _Slots(high, low, self._since, last, level=0) if len(order) else None

    def __len__(self) -> int:
        return len(self._entity)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        own = self._since.nbytes + self._until.nbytes + self._entity.nbytes + self._first.nbytes
        return own + (self._slots.nbytes if self._slots is not None else 0)

    def find(self, addresses: Array, at_ns: Array | None = None) -> Array:
        """(n,) int32: the entity that held each address (2, n) at its time (n,), -1 where nobody did; None: now."""
        if self._slots is None:
            return np.full(addresses.shape[-1], -1, np.int32)
        place, since, found = self._slots.find(addresses[0], addresses[1])
        until = self._until.take(place)
        if at_ns is None:
            return np.where(found & (until == FOREVER), self._entity.take(place), np.int32(-1))
        held = (at_ns >= since) & (at_ns < until)
        entity = np.where(found & held, self._entity.take(place), np.int32(-1))
        others = found & ~held
        if others.any():
            rows = np.flatnonzero(others)
            entity[rows] = self._find_earlier(place[rows], at_ns[rows])
        return entity

    def _find_earlier(self, place: Array, at_ns: Array) -> Array:
        """The entities that held addresses before the holders at these places."""
        first = self._first.take(place)
        entity = np.full(len(place), -1, np.int32)
        rows = np.arange(len(place))
        while len(rows := rows[place[rows] > first[rows]]):
            place[rows] -= 1
            now, at = place[rows], at_ns[rows]
            held = (at >= self._since[now]) & (at < self._until[now])
            entity[rows[held]] = self._entity[now[held]]
            rows = rows[~held]
        return entity


class _Slots:
    """Finds the place of the last holder of an address."""

    def __init__(self, high: Array, low: Array, since: Array, places: Array, level: int) -> None:
        self._level = level % (len(_MULTIPLIERS) // 2)
        # Roomy tables beside the first, which is large, so that few are needed.
        self._bits = max(1, ((8 if level else 2) * len(places)).bit_length())
        self._has_high = bool(high[places].any())
        slots = self._slot(high[places], low[places])
        order = np.argsort(slots, kind="stable")
        slots, places = slots[order], places[order]
        first = np.ones(len(slots), np.bool_)
        first[1:] = slots[1:] != slots[:-1]
        self._table = np.zeros((1 << self._bits, 4), _U64)
        self._table[:, _PLACE] = _EMPTY
        mine, used = places[first], slots[first]
        self._table[used] = np.stack([low[mine], high[mine], since[mine].view(_U64), mine.astype(_U64)], axis=1)
        rest = places[~first]
        self._table[slots[~first], _PLACE] |= _TAKEN
        self._more = _Slots(high, low, since, rest, level + 1) if len(rest) else None

    @property
    def nbytes(self) -> int:
        return self._table.nbytes + (self._more.nbytes if self._more is not None else 0)

    def _slot(self, high: Array, low: Array) -> Array:
        mixed = low * _MULTIPLIERS[2 * self._level]
        if self._has_high:
            mixed += (high ^ (mixed >> _U64(32))) * _MULTIPLIERS[2 * self._level + 1]
        slots: Array = (mixed >> _U64(64 - self._bits)).view(np.int64)
        return slots

    def find(self, high: Array, low: Array) -> tuple[Array, Array, Array]:
        """(n,) int64 places, (n,) int64 their holders' begin, and (n,) bool whether there is one; others are any."""
        rows = self._table.take(self._slot(high, low), axis=0)
        hit = (rows[:, _LOW] == low) & (rows[:, _HIGH] == high) & (rows[:, _PLACE] < _EMPTY)
        place = (rows[:, _PLACE] & _U64(0xFFFF_FFFF)).view(np.int64)
        since = np.ascontiguousarray(rows[:, _SINCE]).view(np.int64)
        if self._more is not None:
            other = np.flatnonzero(~hit & (rows[:, _PLACE] & _TAKEN != 0))
            if len(other):
                place[other], since[other], hit[other] = self._more.find(high[other], low[other])
        return place, since, hit
