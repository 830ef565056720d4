"""Channel: the bounded queue in front of each sink."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from flowagent.batch import Batch
from flowagent.outcome import Ticket


class Item(NamedTuple):
    """A batch on its way to one sink."""

    batch: Batch
    ticket: Ticket


class Channel:
    """Holds at most `max_rows` rows; full, it drops the oldest batches: live traffic waits for nobody."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._items: deque[Item] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self.rows = 0
        self.dropped_rows = 0

    def put(self, item: Item) -> None:
        """Take a batch; what no longer fits is dropped, oldest first."""
        self._items.append(item)
        self.rows += len(item.batch)
        while self.rows > self._max_rows and len(self._items) > 1:
            old = self._items.popleft()
            self.rows -= len(old.batch)
            self.dropped_rows += len(old.batch)
            old.ticket.done("sink_queue_full")
        self._changed.set()

    async def get(self) -> Item | None:
        """The oldest batch, or None when the channel was closed and is empty."""
        while not self._items:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self.rows -= len(item.batch)
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
