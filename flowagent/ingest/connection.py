"""One connection that brings IPFIX messages: how long it is waited for, and how fast it is read."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, cast

from flowagent.clock import Clock
from flowagent.errors import FlowagentError
from flowagent.ingest.framing import Framer, Messages


class Refused(FlowagentError):
    """The connection is to be closed; `reason` is a metric label, so it is one of few."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Limits(NamedTuple):
    """Seconds for a message and for silence (None: for ever), bytes at once and a second (None: as fast as it goes)."""

    message: float
    idle: float | None
    buffer: int
    rate: int | None


class Connection:
    """`number` tells it from all others of now, `address` (two words) says who is there."""

    def __init__(
        self,
        number: int,
        address: tuple[int, int],
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        limits: Limits,
        clock: Clock,
    ) -> None:
        self.number, self.address = number, address
        self._reader, self._writer = streams
        self.framer = Framer()
        self.taken = asyncio.Event()
        """Whether all that it brought is decoded."""
        self.taken.set()
        self.task = asyncio.current_task()
        """That which reads it."""
        self.is_open = False
        """Whether messages may come by now: hands were shaken."""
        self._limits, self._clock = limits, clock
        self._waited = 0.0
        """Seconds that the message which is not whole was waited for."""
        self._next = clock.monotonic()
        """When it may be read again."""

    async def read(self) -> bytes:
        """What came, at most `buffer` bytes; empty at the end. Raises Refused where it takes too long, OSError."""
        limits, clock = self._limits, self._clock
        if limits.rate is not None:
            await asyncio.sleep(self._next - clock.monotonic())
        began = clock.monotonic()
        patience = limits.idle
        if self.framer.partial:
            patience = limits.message - self._waited
        try:
            async with asyncio.timeout(patience):
                data = await self._reader.read(
                    limits.buffer if limits.rate is None else min(limits.buffer, limits.rate)
                )
        except TimeoutError as error:
            raise Refused("slow_message" if self.framer.partial else "idle") from error
        now = clock.monotonic()
        # Only waiting counts against it: while it is not read from, it cannot help it.
        self._waited = self._waited + now - began if self.framer.partial else 0.0
        if limits.rate is not None:
            self._next = max(self._next, now) + len(data) / limits.rate
        return data

    def push(self, data: bytes) -> Messages:
        """The messages that are whole now."""
        messages = self.framer.push(data)
        if messages.offset:
            self._waited = 0.0
        return messages

    def stop(self) -> None:
        """Read what is here already, then no more."""
        if not self.is_open and self.task is not None:
            self.task.cancel()
            return
        cast("asyncio.Transport", self._writer.transport).pause_reading()
        self._reader.feed_eof()
