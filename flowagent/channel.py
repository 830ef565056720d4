"""Channel: the bounded queue in front of each sink."""

from __future__ import annotations

import asyncio
import contextlib
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
        self.max_rows = max_rows
        self._items: deque[Item] = deque()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self.rows = 0
        self.dropped_rows = 0

    def put(self, item: Item) -> None:
        """Take a batch; what no longer fits is dropped, oldest first."""
        self._items.append(item)
        self.rows += len(item.batch)
        while self.rows > self.max_rows and len(self._items) > 1:
            old = self._items.popleft()
            self.rows -= len(old.batch)
            self.dropped_rows += len(old.batch)
            old.ticket.done("sink_queue_full")
        self._changed.set()

    async def get(self) -> Item | None:
        """The oldest batch, or None when the channel was closed and is empty."""
        while not self._items:
            if self.is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self.rows -= len(item.batch)
        return item

    def take(self, max_rows: int) -> list[Item]:
        """What is there now, oldest first: batches of `max_rows` rows together, one at least where there are any."""
        taken: list[Item] = []
        rows = 0
        while self._items and (not taken or rows + len(self._items[0].batch) <= max_rows):
            taken.append(self._items.popleft())
            rows += len(taken[-1].batch)
        self.rows -= rows
        return taken

    async def wait(self, seconds: float) -> bool:
        """Until something is there (True), the channel is closed, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._items and not self.is_closed:
                    self._changed.clear()
                    await self._changed.wait()
        return bool(self._items)

    async def closes_within(self, seconds: float) -> bool:
        """Wait so long, or until the channel is closed (True)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self.is_closed

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._ended.is_set()

    def reopen(self) -> None:
        """Take rows again after all."""
        self._ended.clear()

    def close(self) -> None:
        """Nothing more will be put in; `get` empties it and then ends."""
        self._ended.set()
        self._changed.set()

    def abandon(self, reason: str) -> None:
        """Drop all that is left."""
        while self._items:
            item = self._items.popleft()
            self.rows -= len(item.batch)
            self.dropped_rows += len(item.batch)
            item.ticket.done(reason)
