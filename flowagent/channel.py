"""Channel: the bounded queue in front of each sink."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal, NamedTuple

from flowagent.batch import Batch
from flowagent.outcome import Ticket

Policy = Literal["drop_oldest", "block"]


class Item(NamedTuple):
    """A batch on its way to one sink."""

    batch: Batch
    ticket: Ticket


class Channel:
    """Holds at most `max_rows` rows. Full, it drops the oldest (live traffic) or makes the giver wait (replay)."""

    def __init__(self, max_rows: int, policy: Policy) -> None:
        self._max_rows = max_rows
        self._policy = policy
        self._items: deque[Item] = deque()
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._closed = False
        self.rows = 0
        self.dropped_rows = 0

    def put(self, item: Item) -> None:
        """Take a batch; what no longer fits is dropped, oldest first."""
        self._items.append(item)
        self.rows += len(item.batch)
        while self._policy == "drop_oldest" and self.rows > self._max_rows and len(self._items) > 1:
            old = self._items.popleft()
            self.rows -= len(old.batch)
            self.dropped_rows += len(old.batch)
            old.ticket.done("sink_queue_full")
        if self.rows >= self._max_rows:
            self._space.clear()
        self._changed.set()

    async def space(self) -> None:
        """Until there is room; at once where the oldest is dropped instead."""
        if self._policy == "block":
            await self._space.wait()

    async def get(self) -> Item | None:
        """The oldest batch, or None when the channel was closed and is empty."""
        while not self._items:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self.rows -= len(item.batch)
        if self.rows < self._max_rows:
            self._space.set()
        return item

    def close(self) -> None:
        """Nothing more will be put in; `get` empties it and then ends."""
        self._closed = True
        self._changed.set()

    def abandon(self, reason: str) -> None:
        """Drop all that is left."""
        while self._items:
            item = self._items.popleft()
            self.rows -= len(item.batch)
            self.dropped_rows += len(item.batch)
            item.ticket.done(reason)
        self._space.set()
