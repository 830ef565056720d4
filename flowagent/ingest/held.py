"""Sets that came before their template, kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
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
class _Pile:
    sets: list[HeldSet]
    size: int


class HeldSets:
    """Bounded in bytes, in all and for each exporter; the oldest pile of sets is given up first."""

    def __init__(self) -> None:
        self._piles: OrderedDict[_Place, _Pile] = OrderedDict()
        self._by_exporter: dict[tuple[int, int], int] = {}
        self._size = 0

    def __len__(self) -> int:
        return sum(len(pile.sets) for pile in self._piles.values())

    @property
    def exporters(self) -> int:
        """Addresses whose sets wait."""
        return len(self._by_exporter)

    def hold(self, template_id: int, held: HeldSet) -> int:
        """Keep a set; returns how many sets had to go for it (itself among them where it is too large)."""
        exporter = held.session.domain.key[:2]
        size = len(held.body) + _OVERHEAD
        gone = 0
        while self._by_exporter.get(exporter, 0) + size > MAX_EXPORTER_BYTES:
            oldest = next((p for p in self._piles if p[:2] == exporter), None)
            if oldest is None:
                return 1
            gone += self._drop(oldest)
        while self._size + size > MAX_BYTES:
            gone += self._drop(next(iter(self._piles)))
        pile = self._piles.setdefault(self._place(held.session, template_id), _Pile([], 0))
        pile.sets.append(held)
        pile.size += size
        self._by_exporter[exporter] = self._by_exporter.get(exporter, 0) + size
        self._size += size
        return gone

    def waits(self, session: Session, template_id: int) -> bool:
        """Whether a template of this session would release anything."""
        return self._place(session, template_id) in self._piles

    def release(self, session: Session, template_id: int) -> list[HeldSet]:
        """All sets that a template which just came in this session may explain; they are no longer held."""
        place = self._place(session, template_id)
        pile = self._piles.get(place)
        if pile is None:
            return []
        self._drop(place)
        return pile.sets

    def expire(self, now_ns: int) -> int:
        """Give up what waited too long; returns how many sets."""
        old = [p for p, pile in self._piles.items() if now_ns - pile.sets[-1].received_ns > LIFETIME_NS]
        return sum(self._drop(place) for place in old)

    def clear(self) -> int:
        """Give up everything; returns how many sets."""
        return sum(self._drop(place) for place in list(self._piles))

    def _drop(self, place: _Place) -> int:
        pile = self._piles.pop(place)
        self._size -= pile.size
        left = self._by_exporter[place[:2]] - pile.size
        if left:
            self._by_exporter[place[:2]] = left
        else:
            del self._by_exporter[place[:2]]
        return len(pile.sets)

    @staticmethod
    def _place(session: Session, template_id: int) -> _Place:
        key: DomainKey = session.domain.key
        return _Place(key.high, key.low, key.version, session.port, template_id)
