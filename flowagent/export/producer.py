"""Rows to Kafka's brokers: what was acknowledged, what is still on its way, and what errors mean.

Messages are produced idempotently and count as delivered when all in-sync
replicas have them. What is not acknowledged in time stays with the client,
which goes on repeating it with the same sequence numbers; the next call asks
again. So an outage alone makes no duplicates. A client that has to be given up
makes them: what it had not heard of goes to a new one, and is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
from aiokafka import AIOKafkaProducer, errors  # type: ignore[import-untyped]

from flowagent.brokers import Broker, Brokers, describe
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.errors import Rejected, Retry

TOO_LARGE, NO_TOPIC, NOT_AUTHORIZED, REFUSED = "too_large", "invalid_topic", "not_authorized", "refused"
"""Why rows are refused for good."""
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
_REASONS = {
    errors.MessageSizeTooLargeError: TOO_LARGE,
    errors.RecordListTooLargeError: TOO_LARGE,
    errors.InvalidTopicError: NO_TOPIC,
    errors.TopicAuthorizationFailedError: NOT_AUTHORIZED,
    errors.ClusterAuthorizationFailedError: NOT_AUTHORIZED,
    errors.InvalidTimestampError: REFUSED,
    errors.PolicyViolationError: REFUSED,
    errors.UnsupportedForMessageFormatError: REFUSED,
}
"""Answers to a record batch that would be the same the next time. All others are worth another try."""
_REQUEST_SECONDS = 10.0
"""After which the client gives up waiting for an answer, and asks again on a new connection."""
_PATIENCE = 5.0
"""Seconds without acknowledgement after which a call looks for the reason, and says it."""
_MANY = 4
"""Such calls in a row, with brokers that can be talked to, after which the client itself is given up."""
_END_SECONDS = 2.0
_OVERHEAD = 512
"""Bytes that a record batch has beside values, keys and headers, at most."""
logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # Retry says what matters, once


@dataclass(slots=True)
class Run:
    """Rows for one partition, in order; None is no key."""

    topic: str
    partition: int
    keys: list[bytes | None]
    rows: list[bytes]
    is_repeated: bool = False
    """Whether a broker may have them already."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """Of values and keys."""
        return sum(map(len, self.rows)) + sum(map(len, filter(None, self.keys)))

    def slice(self, start: int, stop: int) -> Run:
        """Some of them."""
        return replace(self, keys=self.keys[start:stop], rows=self.rows[start:stop])


class Form(NamedTuple):
    """How rows become messages."""

    rows: int
    """In a message, at most; a message of several has no key."""
    join: Callable[[list[bytes]], bytes]
    headers: list[tuple[str, bytes]]


@dataclass(slots=True)
class Result:
    """What became of rows."""

    bytes: int = 0
    """Of values and keys that were acknowledged."""
    refused: Counter[str] = field(default_factory=Counter)
    """Rows, by reason."""
    why: str = ""
    """What the broker said last."""

    def refuse(self, rows: int, reason: str, why: str) -> None:
        self.refused[reason] += rows
        self.why = why


class Producer:
    """Delivers what it is given; connects when there is something to do."""

    def __init__(
        self, brokers: Brokers, form: Form, ctx: Context, *, timeout: float, max_bytes: int, compression: Compression
    ) -> None:
        """`timeout` is what a call may take; a record batch has at most `max_bytes` before compression."""
        self._brokers = brokers
        self._form = form
        self._ctx = ctx
        self._timeout = timeout
        self._patience = min(_PATIENCE, timeout / 4)
        self._max_bytes = self._limit = max_bytes
        self._compression = compression
        self._client: AIOKafkaProducer | None = None
        self._todo: deque[Run] = deque()
        self._waiting: dict[asyncio.Future[Any], Run] = {}
        self._result = Result()
        self._is_broken = False
        self._silent = 0
        self.repeated_rows = 0
        """Rows that were sent again, though brokers may have them."""

    @property
    def is_idle(self) -> bool:
        """Whether all that was given is acknowledged or refused."""
        return not self._todo and not self._waiting

    async def partitions(self, topic: str) -> int:
        """How many the topic has; raises Retry, or Rejected where it must not be used."""
        client = await self._connected()
        try:
            async with asyncio.timeout(self._patience):
                return len(await client.partitions_for(topic))
        except errors.TopicAuthorizationFailedError as error:
            raise Rejected(NOT_AUTHORIZED, f"topic {topic}") from error
        except (errors.KafkaError, TimeoutError) as error:
            problem = await self._problem()
            missing = f"the topic {topic} is not there; create it, or let brokers create topics"
            raise Retry(problem or missing) from error

    def take(self, runs: Iterable[Run], result: Result) -> None:
        """Deliver these from now on, and add to the result; what was taken before is done."""
        self._result = result
        room = self._max_bytes - _OVERHEAD - sum(len(name) + len(value) for name, value in self._form.headers)
        for run in runs:
            longest = room - max(map(len, filter(None, run.keys)), default=0)
            fits = [i for i, row in enumerate(run.rows) if len(row) <= longest]
            if len(fits) < len(run):
                result.refuse(len(run) - len(fits), TOO_LARGE, f"more than {longest} bytes in a row")
                run = replace(run, keys=[run.keys[i] for i in fits], rows=[run.rows[i] for i in fits])  # noqa: PLW2901
            if fits:
                self._todo.append(run)

    async def deliver(self) -> Result:
        """Returns when nothing is left to do. Raises Retry; what is not delivered then is for the next call."""
        while not self.is_idle:
            if self._is_broken and not self._waiting:
                await self._give_up()
            if not self._waiting:
                await self._check()
                await self._hand_over(await self._connected())
            if self._waiting:
                await self._collect()
        self._silent = 0
        return self._result

    async def drop(self) -> None:
        """Forget what is not delivered; it may have arrived all the same."""
        if self._waiting:
            await self._give_up()
        self._todo.clear()

    async def close(self) -> None:
        """Leave the brokers."""
        await self.drop()
        if self._client is not None:
            await self._give_up()

    async def _connected(self) -> AIOKafkaProducer:
        if self._client is not None:
            return self._client
        client: AIOKafkaProducer | None = None
        try:
            client = AIOKafkaProducer(
                bootstrap_servers=list(map(str, self._brokers.all)),
                enable_idempotence=True,
                compression_type=None if self._compression == "none" else self._compression,
                max_batch_size=self._limit,
                **self._brokers.connection(min(_REQUEST_SECONDS, self._timeout)),
            )
            async with asyncio.timeout(self._timeout / 2):
                await client.start()
        except (errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
            others = [] if client is None else [Broker(b.host, b.port) for b in client.client.cluster.brokers()]
            if client is not None:
                await client.stop()
            problem = await self._problem(others)
            if problem is None and isinstance(error, errors.KafkaConnectionError):
                problem = f"{self._brokers} can be connected to, but tell nothing; do they want credentials (sasl)?"
            raise Retry(problem or f"{self._brokers}: {describe(error)}") from error
        except BaseException:
            if client is not None:
                await client.stop()
            raise
        self._client = client
        return client

    async def _problem(self, others: Iterable[Broker] = ()) -> str | None:
        return await self._brokers.problem(self._patience, list(others))

    async def _hand_over(self, client: AIOKafkaProducer) -> None:
        """Give the client one record batch for each partition: it takes the next when that one is on its way."""
        handed: set[tuple[str, int]] = set()
        later: list[Run] = []
        try:
            while self._todo:
                run = self._todo[0]
                place = run.topic, run.partition
                if place not in handed:
                    builder = client.create_batch()
                    rows = self._fill(builder, run)
                    builder.close()  # so that it goes at once
                    future = await client.send_batch(builder, run.topic, partition=run.partition)
                    handed.add(place)
                    self._waiting[future] = run.slice(0, rows)
                    self.repeated_rows += rows * run.is_repeated
                    run = run.slice(rows, len(run))
                self._todo.popleft()
                if len(run):
                    later.append(run)
        except (errors.KafkaError, AssertionError) as error:  # it asserts that the partition is there
            self._is_broken = True
            raise Retry(f"{self._brokers}: {describe(error)}") from error
        finally:
            self._todo.extendleft(reversed(later))

    async def _check(self) -> None:
        """Topics may have come to be others since partitions were chosen; then that has to be done again."""
        for topic in dict.fromkeys(run.topic for run in self._todo):
            try:
                count = await self.partitions(topic)
            except Rejected as error:
                refused = [run for run in self._todo if run.topic == topic]
                self._result.refuse(sum(map(len, refused)), error.reason, f"topic {topic}")
                self._todo = deque(run for run in self._todo if run.topic != topic)
                continue
            if any(run.topic == topic and run.partition >= count for run in self._todo):
                self._todo.clear()
                raise Retry(f"the topic {topic} has fewer partitions now")

    def _fill(self, builder: Any, run: Run) -> int:
        """Append messages while there is room; how many rows they have."""
        now_ms = self._ctx.clock.now_ns() * 1000 // SECOND
        append, headers = builder.append, self._form.headers
        if self._form.rows == 1:
            for i, (key, row) in enumerate(zip(run.keys, run.rows, strict=True)):
                if append(timestamp=now_ms, key=key, value=row, headers=headers) is None:
                    return i
            return len(run)
        ends = np.cumsum(np.fromiter(map(len, run.rows), np.int64, len(run)) + 1)  # with a newline each
        room = self._limit - _OVERHEAD
        start = sent = 0
        while start < len(run):
            fit = int(np.searchsorted(ends, sent + room, "right"))
            stop = max(start + 1, min(fit, start + self._form.rows))
            value = self._form.join(run.rows[start:stop])
            if append(timestamp=now_ms, key=None, value=value, headers=headers) is None:
                break
            start, sent = stop, int(ends[stop - 1])
        return start

    async def _collect(self) -> None:
        """Wait for what is on its way, and account for it."""
        done, late = await asyncio.wait(self._waiting, timeout=self._patience)
        again: list[Run] = []
        problem = ""
        for future in [future for future in self._waiting if future in done]:
            run = self._waiting.pop(future)
            error = future.exception()
            if error is None:
                self._result.bytes += run.bytes
                continue
            self._is_broken = True  # the next sequence number of this partition is not the one that is expected
            reason = _REASONS.get(type(error))
            if reason == TOO_LARGE and len(run) > 1:
                self._limit = min(self._limit, max(run.bytes // 2, 1))
                middle = len(run) // 2
                again += [run.slice(0, middle), run.slice(middle, len(run))]
            elif reason is not None:
                self._result.refuse(len(run), reason, f"topic {run.topic}: {describe(error)}")
            else:
                is_unsure = not isinstance(error, errors.BrokerResponseError)
                again.append(replace(run, is_repeated=run.is_repeated or is_unsure))
                problem = f"topic {run.topic}: {describe(error)}"
        self._todo.extendleft(reversed(again))
        if late:
            raise Retry(await self._silence())
        if problem:
            raise Retry(problem)

    async def _silence(self) -> str:
        """Why there is no acknowledgement; gives the client up where that seems to be its own fault."""
        problem = await self._problem()
        self._silent = 0 if problem else self._silent + 1
        if self._silent >= _MANY:
            await self._give_up()
        hint = "do all partitions have a leader and enough in-sync replicas?"
        return problem or f"no acknowledgement from {self._brokers} within {self._patience:g} s; {hint}"

    async def _give_up(self) -> None:
        """End the client; what it has not heard of is to be done again."""
        client, self._client = self._client, None
        self._is_broken, self._silent = False, 0
        if client is not None:
            await _end(client)
        again = []
        for future, run in self._waiting.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self._result.bytes += run.bytes
            else:
                future.cancel()
                again.append(replace(run, is_repeated=True))
        self._waiting.clear()
        self._todo.extendleft(reversed(again))


async def _end(client: AIOKafkaProducer) -> None:
    """Stop a client that may have something on its way, which its own `stop` would wait for."""
    sender, accumulator = client._sender.sender_task, client._message_accumulator  # noqa: SLF001
    for _ in range(2):  # the first time it waits for answers to its requests
        if sender is not None and not sender.done():
            sender.cancel()
            await asyncio.wait([sender], timeout=_END_SECONDS)
    queued = list(chain.from_iterable(accumulator._batches.values()))  # noqa: SLF001
    accumulator._pending_batches.update(queued)  # noqa: SLF001 - from where it takes what failed
    accumulator.fail_all(errors.ProducerClosed())
    for batch in queued:
        waiter = batch._drain_waiter  # noqa: SLF001
        if waiter.done() and not waiter.cancelled():
            waiter.exception()  # else it would be reported that nobody asked
    await client.stop()
