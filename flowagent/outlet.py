"""Outlet: a sink with its queue, batches, retries, spool and numbers. A sink's own file only connects, encodes, sends.

Rows wait in a bounded queue until there are enough for a write, or long
enough. A write that fails for now is tried again after a pause that doubles,
with jitter, or as long as the other side asked for. With a spool nothing of
that needs memory: as soon as a write has failed, or hung for a moment, all that
is not sent is on disk, and goes out in order before anything newer. Without
one the queue drops its oldest rows when it is full.

At least once: a write that is tried again is sent whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, Self

from flowagent.batch import Batch
from flowagent.channel import Channel, Item
from flowagent.component import Context, Periodic, Sink
from flowagent.delivery import Delivery
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.metrics import Family
from flowagent.outcome import Outcomes, Ticket
from flowagent.sections import parse_duration, parse_size
from flowagent.spool import Entry, Spool
from flowagent.worker import Worker

MAX_ROWS = 500_000
"""Rows that may wait for one sink in memory."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
"""Seconds between tries, half of it to all; the longest is how late the end of an outage may be noticed."""
_PATIENCE = 1.0
"""Seconds after which what a write has not finished, and all behind it, is put on disk."""


class _Verdict(NamedTuple):
    """What came of a write."""

    is_final: bool
    reason: str | None = None
    """Why the rows were refused; None where they were taken, or may be sent again."""
    after: float | None = None
    """Seconds that the other side wants to be left alone for."""


class Outlet:
    """Drains one channel into one sink; a dead sink slows nobody else. Runs inside `async with`."""

    def __init__(
        self, sink: Sink, ctx: Context, outcomes: Outcomes, delivery: Delivery, max_rows: int = MAX_ROWS
    ) -> None:
        self.sink = sink
        self.channel = Channel(max_rows)
        self.failing: str | None = None
        self._ctx = ctx
        self._outcomes = outcomes
        self._batch_rows = delivery.batch_rows
        self._batch_bytes = parse_size(delivery.batch_bytes, f"{ctx.name}.batch_bytes")
        self._max_wait = parse_duration(delivery.max_wait, f"{ctx.name}.max_wait")
        self._timeout = parse_duration(delivery.timeout, f"{ctx.name}.timeout")
        spool_bytes = parse_size(delivery.spool, f"{ctx.name}.spool")
        self._spool: Spool | None = None
        if spool_bytes and ctx.state_dir is not None:
            self._spool = Spool(ctx.state_dir / "spool" / f"{ctx.name}.sqlite", spool_bytes, ctx.log)
        self._tickets: dict[int, list[Ticket]] = {}
        self._in_flight: list[Item] = []
        self._saved: Entry | None = None
        self._since = 0.0
        self._pause = _FIRST_PAUSE
        self._closing = "shutdown"
        self._disk = asyncio.Lock()
        self._worker = Worker(f"spool {ctx.name}")
        self._records = self._bytes = self._retries = self._errors = self._spool_errors = self._spool_dropped = 0

    async def __aenter__(self) -> Self:
        if self._spool is not None:
            try:
                await self._worker.run(self._spool.open)
            except OSError as error:
                raise ConfigError(f"{self._ctx.name}.spool", f"{error}; free the disk, or set spool: 0") from error
            for entry in self._spool.entries():
                self._outcomes.restored += entry.records
                self._tickets[entry.id] = [Ticket(self._outcomes, entry.records, 1)]
            if len(self._spool):
                self._ctx.log.info("%d rows of an earlier run are in the spool", self._spool.rows)
        await self.sink.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self.sink.__aexit__(*exc)
        finally:
            if self._spool is not None:
                await self._save_queue()
                for tickets in self._tickets.values():
                    for ticket in tickets:
                        ticket.done(None, was_saved=True, is_on_disk=True)
                self._tickets.clear()
                if len(self._spool):
                    self._ctx.log.warning("%d rows stay in the spool until the next run", self._spool.rows)
                self._spool.close()
                self._worker.stop()
            self.channel.abandon(self._closing)

    @property
    def filled(self) -> float:
        """The part (0 to 1) of its room for rows that wait, in memory or on disk, that is in use."""
        on_disk = 0.0 if self._spool is None else self._spool.bytes / self._spool.max_bytes
        return max(on_disk, self.channel.rows / self.channel.max_rows)

    def close(self, reason: str) -> None:
        """No more rows will come; `run` ends when all are sent, or are safe on disk while the sink is out of reach."""
        self._closing = reason
        self.channel.close()

    async def run(self) -> None:
        """Until the channel is closed and empty."""
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(self._guard(), name=f"spool {self._ctx.name}")
            beside = group.create_task(self._beside(), name=f"beside {self._ctx.name}")
            try:
                await self._send_all()
            finally:
                guard.cancel()
                beside.cancel()

    async def _beside(self) -> None:
        """What a sink sends besides rows; a fault there costs only that."""
        while isinstance(self.sink, Periodic) and self.sink.every:
            await asyncio.sleep(self.sink.every)
            try:
                await self.sink.push()
            except Exception:
                self._errors += 1
                self._ctx.log.exception("could not be sent for an unexpected error")

    async def _send_all(self) -> None:
        while True:
            if self._spool is not None and len(self._spool):
                await self._save_queue()
                verdict = await self._send_oldest()
            else:
                items = await self._gather()
                if not items:
                    return
                verdict = await self._send_new(items)
            if verdict.is_final:
                self._pause = _FIRST_PAUSE
                await asyncio.sleep(0)
            elif self.channel.is_closed and self._spool is not None:
                return
            else:
                await self._rest(verdict.after)

    async def _gather(self) -> list[Item]:
        """Rows for one write: as many as are wanted, or as came in time. Nothing when the channel ended."""
        first = await self.channel.get()
        if first is None:
            return []
        items, rows = [first], len(first.batch)
        limit = self._rows_at_once()
        due = self._ctx.clock.monotonic() + self._max_wait
        while rows < limit:
            more = self.channel.take(limit - rows)
            items += more
            rows += sum(len(item.batch) for item in more)
            left = due - self._ctx.clock.monotonic()
            if not more and (left <= 0 or not await self.channel.wait(left)):
                break
        return items

    def _rows_at_once(self) -> int:
        """So many as make `batch_bytes`, going by what was sent so far."""
        if not self._records or not self._bytes:
            return self._batch_rows
        return max(1, min(self._batch_rows, int(self._batch_bytes * self._records / self._bytes)))

    async def _send_new(self, items: list[Item]) -> _Verdict:
        """Send rows that were not on disk; where they cannot be sent now they are afterwards, or wait here."""
        batch = Batch.concat([item.batch for item in items])
        self._in_flight, self._saved, self._since = items, None, self._ctx.clock.monotonic()
        try:
            verdict = await self._write(batch)
            while self._spool is None and not verdict.is_final:
                await self._rest(verdict.after)
                verdict = await self._write(batch)
        except asyncio.CancelledError:
            if self._spool is None:
                _done(items, self._closing)
            elif self._saved is None:
                self._file(items, _put(self._spool, items))
            self._in_flight = []
            raise
        async with self._disk:
            self._in_flight = []
            if self._saved is not None and self._spool is not None and verdict.is_final:
                self._tickets.pop(self._saved.id, None)
                await self._worker.run(partial(self._spool.remove, self._saved.id))
        if verdict.is_final:
            _done(items, verdict.reason, was_saved=self._saved is not None)
        elif self._saved is None:
            await self._save(items)
        return verdict

    async def _send_oldest(self) -> _Verdict:
        """Send what is first in the spool."""
        assert self._spool is not None
        async with self._disk:
            found = await self._worker.run(self._spool.oldest)
        if found is None:
            return _Verdict(is_final=True)
        entry, batch = found
        verdict = await self._write(batch) if len(batch) else _Verdict(is_final=True, reason="spool_damaged")
        if verdict.is_final:
            async with self._disk:
                await self._worker.run(partial(self._spool.remove, entry.id))
            for ticket in self._tickets.pop(entry.id, []):
                ticket.done(verdict.reason, was_saved=True)
        return verdict

    async def _write(self, batch: Batch) -> _Verdict:
        try:
            async with asyncio.timeout(self._timeout):
                self._bytes += await self.sink.write(batch)
        except Retry as error:
            self._fail(str(error))
            return _Verdict(is_final=False, after=error.after)
        except TimeoutError:
            self._fail(f"no answer within {self._timeout:g} s")
            return _Verdict(is_final=False)
        except Rejected as error:
            self._fail(str(error))
            return _Verdict(is_final=True, reason=f"sink_{error.reason}")
        except Exception:
            # A fault of the sink's own code must not take the agent down.
            self._errors += 1
            self._ctx.log.exception("lost %d rows to an unexpected error", len(batch))
            return _Verdict(is_final=True, reason="sink_internal")
        self._records += len(batch)
        if self.failing:
            self._ctx.log.info("works again")
            self.failing = None
        return _Verdict(is_final=True)

    async def _rest(self, after: float | None) -> None:
        """Wait before the next try; with a spool, rows that come meanwhile go to disk (see `_guard`)."""
        self._retries += 1
        jitter = 0.5 + 0.5 * float(self._ctx.rng.random())
        wait = self._pause * jitter if after is None else after
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        if self._spool is not None:
            # The end of the agent need not wait for a sink that is out of reach: all is on disk.
            await self.channel.closes_within(wait)
            await self._save_queue()
        else:
            await asyncio.sleep(wait)

    async def _guard(self) -> None:
        """Put on disk what would be lost with the process: what a write hangs on, and what waits behind it."""
        while self._spool is not None:
            await asyncio.sleep(_PATIENCE / 2)
            is_late = self._in_flight and self._ctx.clock.monotonic() - self._since > _PATIENCE
            if is_late and self._saved is None:
                async with self._disk:
                    if self._in_flight:
                        items = self._in_flight
                        put = await self._worker.run(partial(_put, self._spool, items))
                        if isinstance(put, OSError):  # the write may succeed yet
                            self._complain(put)
                            self._since = self._ctx.clock.monotonic()
                        else:
                            self._saved = self._file(items, put)
            if is_late or len(self._spool):
                await self._save_queue()

    async def _save_queue(self) -> None:
        while items := self.channel.take(self._batch_rows):
            await self._save(items)

    async def _save(self, items: list[Item]) -> None:
        assert self._spool is not None
        async with self._disk:
            self._file(items, await self._worker.run(partial(_put, self._spool, items)))

    def _file(self, items: list[Item], put: tuple[Entry, list[Entry]] | OSError) -> Entry | None:
        """Remember whom to tell about rows in the spool; where the disk failed they are lost, and counted."""
        if isinstance(put, OSError):
            self._complain(put)
            _done(items, "spool_failed")
            return None
        entry, dropped = put
        self._tickets[entry.id] = [item.ticket for item in items]
        for item in items:
            item.ticket.saved()
        for old in dropped:
            self._spool_dropped += old.rows
            for ticket in self._tickets.pop(old.id, []):
                ticket.done("spool_full", was_saved=True)
        return entry

    def _complain(self, error: OSError) -> None:
        self._spool_errors += 1
        self._ctx.log.error("%s", error)

    def _fail(self, problem: str) -> None:
        self._errors += 1
        if self.failing != problem:
            self._ctx.log.warning("%s", problem)
        self.failing = problem

    def describe(self) -> dict[str, Any]:
        """How it goes, as plain data."""
        return {"records": self._records, "errors": self._errors, "failing": self.failing}

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        spool = self._spool
        lost = self.channel.dropped_rows + self._spool_dropped
        for name, text, value in (
            ("sink_records", "Rows a sink took.", self._records),
            ("sink_bytes", "Bytes a sink sent.", self._bytes),
            ("sink_errors", "Writes that failed.", self._errors),
            ("sink_retries", "Writes tried again.", self._retries),
            ("sink_dropped_rows", "Rows dropped because queue or spool were full.", lost),
            ("spool_errors", "Times the disk failed to take rows.", self._spool_errors),
        ):
            yield Family(f"flowagent_{name}", "counter", text, ("sink",), {(self._ctx.name,): value})
        for name, text, value in (
            ("sink_queue_rows", "Rows that wait for a sink in memory.", self.channel.rows),
            ("spool_bytes", "Bytes of rows on disk that wait for a sink.", spool.bytes if spool else 0),
            ("spool_rows", "Rows on disk that wait for a sink.", spool.rows if spool else 0),
        ):
            yield Family(f"flowagent_{name}", "gauge", text, ("sink",), {(self._ctx.name,): value})


def _put(spool: Spool, items: list[Item]) -> tuple[Entry, list[Entry]] | OSError:
    """Rows into the spool; blocks on the disk, so it runs in a thread."""
    try:
        return spool.put(Batch.concat([item.batch for item in items]))
    except OSError as error:
        return error


def _done(items: Iterable[Item], reason: str | None, *, was_saved: bool = False) -> None:
    for item in items:
        item.ticket.done(reason, was_saved=was_saved)
