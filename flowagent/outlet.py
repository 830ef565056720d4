"""Outlet: a sink with its queue, retries and numbers. A sink's own file only connects, encodes and sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from flowagent.channel import Channel, Item, Policy
from flowagent.component import Context, Sink
from flowagent.errors import Rejected, Retry
from flowagent.metrics import Family

MAX_ROWS = 500_000
"""Rows that may wait for one sink."""
_SLICE = 4096
"""Rows sent at a time, so that encoding never holds up the loop for long."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0


class Outlet:
    """Drains one channel into one sink; a dead sink slows nobody else."""

    def __init__(self, sink: Sink, ctx: Context, policy: Policy, max_rows: int = MAX_ROWS) -> None:
        self.sink = sink
        self.channel = Channel(max_rows, policy)
        self.failing: str | None = None
        self._ctx = ctx
        self._records = self._bytes = self._retries = self._errors = 0

    async def run(self) -> None:
        """Until the channel is closed and empty."""
        while (item := await self.channel.get()) is not None:
            try:
                await self._send(item)
            except asyncio.CancelledError:
                item.ticket.done("shutdown")
                raise

    async def _send(self, item: Item) -> None:
        batch = item.batch
        for start in range(0, len(batch), _SLICE):
            part = batch if len(batch) <= _SLICE else batch.rows(start, start + _SLICE)
            pause = _FIRST_PAUSE
            while True:
                try:
                    self._bytes += await self.sink.write(part)
                    break
                except Retry as error:
                    self._fail(str(error))
                    self._retries += 1
                    jitter = 0.5 + float(self._ctx.rng.random())
                    await asyncio.sleep(error.after if error.after is not None else pause * jitter)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                except Rejected as error:
                    self._fail(str(error))
                    item.ticket.done(f"sink_{error.reason}")
                    return
                except Exception:
                    # A fault of the sink's own code must not take the agent down.
                    self._errors += 1
                    self._ctx.log.exception("lost %d rows to an unexpected error", len(batch) - start)
                    item.ticket.done("sink_internal")
                    return
            if self.failing:
                self._ctx.log.info("works again")
                self.failing = None
            self._records += len(part)
            await asyncio.sleep(0)
        item.ticket.done(None)

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
