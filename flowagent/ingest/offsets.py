"""How far the partitions of a topic are read, and how far what was read is settled, so that it may be committed.

What is read gets the mark of its delivery (see `progress`). Offsets up to which all marks are settled can be
committed; whoever reads the partition next begins there. Beside the offset stands how far this reader was, so that
the next one knows which messages may have been processed twice.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

_READ = re.compile(r"read=([0-9]{1,19})")


class Place(NamedTuple):
    """A partition."""

    topic: str
    partition: int


class Commit(NamedTuple):
    """Where the next reader begins, and a note to it."""

    offset: int
    note: str


@dataclass(slots=True)
class _Partition:
    position: int | None = None
    """Offset of the next message; None until one came, where nothing was ever committed."""
    done: int = -1
    """All before this offset is settled."""
    committed: int = -1
    read_before: int = 0
    """An earlier reader was as far as this."""
    is_new: bool = True
    """Whether nothing was read since it was assigned."""
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    """Marks, and offsets behind the last message that they stand for."""


class Offsets:
    """All partitions that are read, and those of which something waits to be settled."""

    def __init__(self) -> None:
        self._partitions: dict[Place, _Partition] = {}
        self._settled = 0
        self.repeated = self.missing = 0
        """Messages that an earlier reader had read; offsets that had no message when reading went on."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing that was read waits."""
        return not any(partition.waiting for partition in self._partitions.values())

    def begin(self, place: Place, committed: Commit | None) -> int | None:
        """A partition was assigned: where to go on reading, None for where the group begins.

        What is still waiting here is not read again: it will be settled.
        """
        old = self._partitions.get(place)
        offset = -1 if committed is None else committed.offset
        if old is not None and old.waiting and old.position is not None and old.position >= offset:
            old.committed = max(offset, -1)
            old.is_new = True
            return old.position
        found = _READ.fullmatch(committed.note) if committed is not None else None
        self._partitions[place] = _Partition(
            position=None if offset < 0 else offset,
            done=offset,
            committed=offset,
            read_before=int(found[1]) if found else 0,
        )
        return None if offset < 0 else offset

    def end(self, places: Iterable[Place]) -> None:
        """Partitions were taken away; what waits of them is followed on."""
        for place in places:
            if place in self._partitions and not self._partitions[place].waiting:
                del self._partitions[place]

    def fresh(self, place: Place, offsets: list[int], newest: int | None) -> int:
        """How many of these messages, from the first, were read before by this reader, and still count.

        `newest` is the offset behind the last message there is; with a lower one the topic was made anew.
        """
        partition = self._partitions.setdefault(place, _Partition())
        position = partition.position
        if position is not None and newest is not None and newest < position:
            self._partitions[place] = partition = _Partition()
            position = None
        known = 0 if position is None else sum(offset < position for offset in offsets)
        news = offsets[known:]
        if news and partition.is_new:
            partition.is_new = False
            self.missing += 0 if position is None else news[0] - position
        self.repeated += sum(offset < partition.read_before for offset in news) if partition.read_before else 0
        return known

    def read(self, place: Place, mark: int, after: int) -> None:
        """All messages of a partition before this offset were delivered, with this mark or earlier ones."""
        partition = self._partitions.setdefault(place, _Partition())
        partition.position = after
        if partition.waiting and partition.waiting[-1][0] == mark:
            partition.waiting.pop()
        partition.waiting.append((mark, after))

    def settle(self, mark: int) -> None:
        """All deliveries up to this mark are settled."""
        self._settled = max(self._settled, mark)
        for partition in self._partitions.values():
            while partition.waiting and partition.waiting[0][0] <= self._settled:
                partition.done = partition.waiting.popleft()[1]

    def commits(self, assigned: Iterable[Place]) -> dict[Place, Commit]:
        """What may be committed of these partitions, and was not yet."""
        found = {}
        for place in assigned:
            partition = self._partitions.get(place)
            if partition is not None and partition.done > partition.committed and partition.done >= 0:
                found[place] = Commit(partition.done, f"read={partition.position}")
        return found

    def committed(self, commits: dict[Place, Commit]) -> None:
        """The brokers have these."""
        for place, commit in commits.items():
            if place in self._partitions:
                self._partitions[place].committed = commit.offset

    def position(self, place: Place) -> int | None:
        """Offset of the next message to be read; None where nothing is known."""
        return self._partitions[place].position if place in self._partitions else None
