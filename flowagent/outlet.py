"""Outlet: a sink with its queue, retries and numbers. A sink's own file only connects, encodes and sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from flowagent.batch import Batch
from flowagent.channel import Channel
from flowagent.component import Context, Sink
from flowagent.errors import Rejected, Retry
from flowagent.metrics import Family

MAX_ROWS = 500_000
"""Rows that may wait for one sink."""
_WRITE_SECONDS = 30.0
"""A write that takes longer is given up and tried again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0


class Outlet:
    """Drains one channel into one sink; a dead sink slows nobody else."""

    def __init__(self, sink: Sink, ctx: Context, max_rows: int = MAX_ROWS) -> None:
        self.sink = sink
        self.channel = Channel(max_rows)
        self.failing: str | None = None
        self._ctx = ctx
        self._records = self._bytes = self._retries = self._errors = 0

    async def run(self) -> None:
        """Until the channel is closed and empty."""
        while (item := await self.channel.get()) is not None:
            try:
                reason = await self._send(item.batch)
            except asyncio.CancelledError:
                item.ticket.done("shutdown")
                raise
            item.ticket.done(reason)
            await asyncio.sleep(0)

    async def _send(self, batch: Batch) -> str | None:
        """Send until the sink takes the rows (None) or refuses them (the reason)."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    self._bytes += await self.sink.write(batch)
            except Retry as error:
                self._fail(str(error))
                wait = error.after
            except TimeoutError:
                self._fail(f"no answer within {_WRITE_SECONDS:g} s")
                wait = None
            except Rejected as error:
                self._fail(str(error))
                return f"sink_{error.reason}"
            except Exception:
                # A fault of the sink's own code must not take the agent down.
                self._errors += 1
                self._ctx.log.exception("lost %d rows to an unexpected error", len(batch))
                return "sink_internal"
            else:
                self._sent(batch)
                return None
            self._retries += 1
            jitter = 0.5 + float(self._ctx.rng.random())
            await asyncio.sleep(wait if wait is not None else pause * jitter)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _sent(self, batch: Batch) -> None:
        self._records += len(batch)
        if self.failing:
            self._ctx.log.info("works again")
            self.failing = None

    def _fail(self, problem: str) -> None:
        self._errors += 1
        if self.failing != problem:
            self._ctx.log.warning("%s", problem)
        self.failing = problem

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        label, name = ("sink",), (self._ctx.name,)
        yield Family("flowagent_sink_records", "counter", "Rows a sink took.", label, {name: self._records})
        yield Family("flowagent_sink_bytes", "counter", "Bytes a sink sent.", label, {name: self._bytes})
        yield Family("flowagent_sink_errors", "counter", "Writes that failed.", label, {name: self._errors})
        yield Family("flowagent_sink_retries", "counter", "Writes tried again.", label, {name: self._retries})
        dropped = self.channel.dropped_rows
        yield Family(
            "flowagent_sink_dropped_rows",
            "counter",
            "Rows dropped because a sink's queue was full.",
            label,
            {name: dropped},
        )
        yield Family(
            "flowagent_sink_queue_rows", "gauge", "Rows that wait for a sink.", label, {name: self.channel.rows}
        )
