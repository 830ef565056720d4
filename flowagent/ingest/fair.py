"""A bounded table that one sender cannot fill at the cost of others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, ItemsView
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class FairTable(Generic[_K, _V]):
    """At most `most` entries, each held by the sender that told of it first.

    Where there is no room, an entry of the sender with the most goes, if it has more than its share, else one of
    all: in either case the one that was told of least recently. Who is alone may have all the room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[_K, tuple[Hashable, _V]] = OrderedDict()
        self._held: dict[Hashable, OrderedDict[_K, None]] = {}
        self._greatest: Hashable = None
        """The sender with the most, as of when an entry was put in."""
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> ItemsView[_K, tuple[Hashable, _V]]:
        """Keys with the sender and the value, the one told of least recently first."""
        return self._entries.items()

    def get(self, key: _K) -> _V | None:
        """The value, which was told of now; None where there is none."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        self._held[found[0]].move_to_end(key)
        return found[1]

    def put(self, key: _K, value: _V, sender: Hashable) -> None:
        """Set the value of a key; a new one is held by the sender."""
        holder = self._entries[key][0] if key in self._entries else sender
        self._entries[key] = holder, value
        mine = self._held.setdefault(holder, OrderedDict())
        mine[key] = None
        self._entries.move_to_end(key)
        mine.move_to_end(key)
        if len(mine) > len(self._held.get(self._greatest, ())):
            self._greatest = holder
        if len(self._entries) > self._most:
            self._make_room()

    def _make_room(self) -> None:
        greatest = self._held.get(self._greatest, ())
        share = max(1, self._most // len(self._held))
        key = next(iter(greatest if len(greatest) > share else self._entries))
        holder, _ = self._entries.pop(key)
        del self._held[holder][key]
        if not self._held[holder]:
            del self._held[holder]
        self.evicted += 1
