"""Sets that came before their template, kept for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field
from typing import NamedTuple

from flowagent.ingest.exporters import DomainKey, Session

MAX_BYTES = 16 << 20
MAX_EXPORTER_BYTES = 1 << 20
_OVERHEAD = 300
"""Bytes that a set takes besides its body."""
LIFETIME_NS = 1_200 * 10**9
"""Twice the template interval of Open vSwitch."""


class HeldSet(NamedTuple):
    """A data set's body, and what its datagram's header said (see `ingest.templated.Header`)."""

    session: Session
    body: bytes
    export_ns: int
    uptime_ms: int
    sequence: int
    received_ns: int


class _Place(NamedTuple):
    """Whom a template could help: any domain of the same sender, port included."""

    high: int
    low: int
    version: int
    port: int
    template_id: int


@dataclass(slots=True)
class _Exporter:
    """What waits of one address."""

    size: int = 0
    piles: dict[_Place, deque[HeldSet]] = field(default_factory=dict)


class HeldSets:
    """Bounded in bytes, in all and for each exporter; the oldest sets are given up first."""

    def __init__(self) -> None:
        self._exporters: dict[tuple[int, int], _Exporter] = {}
        self._size = 0

    def __len__(self) -> int:
        return sum(len(pile) for exporter in self._exporters.values() for pile in exporter.piles.values())

    @property
    def exporters(self) -> Set[tuple[int, int]]:
        """Addresses (two words) whose sets wait."""
        return self._exporters.keys()

    def hold(self, template_id: int, held: HeldSet) -> int:
        """Keep a set; returns how many sets had to go for it (itself, where it is too large)."""
        address, size = held.session.domain.key[:2], _size(held)
        if size > MAX_EXPORTER_BYTES:
            return 1
        gone = 0
        while address in self._exporters and self._exporters[address].size + size > MAX_EXPORTER_BYTES:
            gone += self._drop_first(address, next(iter(self._exporters[address].piles)))
        while self._size + size > MAX_BYTES:
            oldest = next(iter(self._exporters))
            gone += self._drop_first(oldest, next(iter(self._exporters[oldest].piles)))
        exporter = self._exporters.setdefault(address, _Exporter())
        exporter.piles.setdefault(self._place(held.session, template_id), deque()).append(held)
        exporter.size += size
        self._size += size
        return gone

    def waits(self, session: Session, template_id: int) -> bool:
        """Whether a template of this session would release anything."""
        exporter = self._exporters.get(session.domain.key[:2])
        return exporter is not None and self._place(session, template_id) in exporter.piles

    def release(self, session: Session, template_id: int) -> list[HeldSet]:
        """All sets that a template which just came in this session may explain; they are no longer held."""
        if not self.waits(session, template_id):
            return []
        address, place = session.domain.key[:2], self._place(session, template_id)
        released = list(self._exporters[address].piles[place])
        for _ in released:
            self._drop_first(address, place)
        return released

    def expire(self, now_ns: int) -> int:
        """Give up what waited too long; returns how many sets."""
        gone = 0
        for address, exporter in list(self._exporters.items()):
            for place, pile in list(exporter.piles.items()):
                while pile and now_ns - pile[0].received_ns > LIFETIME_NS:
                    gone += self._drop_first(address, place)
        return gone

    def disconnect(self, address: tuple[int, int], port: int) -> int:
        """Give up what came over a connection that ended; returns how many sets."""
        exporter = self._exporters.get(address)
        places = [place for place in exporter.piles if place.port == port] if exporter is not None else []
        gone = 0
        for place in places:
            for _ in range(len(self._exporters[address].piles[place])):
                gone += self._drop_first(address, place)
        return gone

    def clear(self) -> int:
        """Give up everything; returns how many sets."""
        gone = len(self)
        self._exporters.clear()
        self._size = 0
        return gone

    def _drop_first(self, address: tuple[int, int], place: _Place) -> int:
        """Let the oldest set of a pile go."""
        exporter = self._exporters[address]
        pile = exporter.piles[place]
        size = _size(pile.popleft())
        exporter.size -= size
        self._size -= size
        if not pile:
            del exporter.piles[place]
        if not exporter.piles:
            del self._exporters[address]
        return 1

    @staticmethod
    def _place(session: Session, template_id: int) -> _Place:
        key: DomainKey = session.domain.key
        return _Place(key.high, key.low, key.version, session.port, template_id)


def _size(held: HeldSet) -> int:
    return len(held.body) + _OVERHEAD
