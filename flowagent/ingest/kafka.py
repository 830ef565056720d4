"""Source `kafka`: rows that agents, goflow2 or NetObserv wrote to Apache Kafka, as a member of a consumer group.

An offset is committed when every row before it is settled: sent by all sinks, on their disks, or dropped for a
counted reason. So whatever ends, rows are read again rather than lost. While sinks are out of reach nothing is
fetched: Kafka can wait.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, Self

import numpy as np
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

from flowagent.batch import Array, Batch
from flowagent.brokers import Brokers, Sasl, describe
from flowagent.component import Context, Deliver, Settings
from flowagent.errors import ConfigError
from flowagent.hashing import finish, seed_of
from flowagent.ingest import consumer
from flowagent.ingest.canonical import CanonicalDecoder
from flowagent.ingest.consumer import Consumer, Run
from flowagent.ingest.decoded import BAD_MESSAGE, Decoded, RowDecoder
from flowagent.ingest.goflow2 import Goflow2Decoder
from flowagent.ingest.netobserv import NetobservDecoder
from flowagent.ingest.offsets import Offsets, Place
from flowagent.metrics import Family
from flowagent.schema import COLUMNS
from flowagent.sections import parse_duration
from flowagent.tls import ClientTls

_FORMATS = {"canonical": ("json", "msgpack"), "netobserv": ("json", "msgpack"), "goflow2": ("protobuf",)}
_MESSAGES, _BYTES = 16_384, 4 << 20
"""Read at once, so that others get their turn."""
_FULL = 0.5
"""Part of the room in front of a sink from which on nothing is fetched."""
_LOOK = 0.2
"""Seconds between looks at whether there is something to do."""
_COMMIT = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_SILENT = 30.0
"""Seconds without an answer to a fetch after which brokers are asked why."""
_PROBE = 5.0
_MAX_LAGS = 1000
"""Partitions with a lag of their own among the metrics; those of others are one."""
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class Config(Settings, frozen=True):
    """Read rows from Kafka."""

    brings: ClassVar[tuple[str, ...]] = tuple(name for name, column in COLUMNS.items() if column.kind == "name")

    brokers: tuple[str, ...] = ("localhost:9092",)
    """Some of the cluster's brokers, `host:port`; they tell the others."""
    topic: str | tuple[str, ...] = "flows"
    """One or several; what begins with ^ is a regular expression, such as `^flows-.*`."""
    group: str = "flowagent"
    """Consumer group: its members share the partitions."""
    schema: Literal["canonical", "netobserv", "goflow2"] = "canonical"
    """What messages hold: rows of agents, flows of NetObserv, or messages of goflow2 behind their length."""
    format: Literal["json", "msgpack", "protobuf"] | None = None
    """How they are written; default: json, of goflow2 protobuf."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a group begins that never committed anything."""
    settle: str | float = "15s"
    """How long a member that is to give its partitions away waits for what it read to be settled."""
    session_timeout: str | float = "10s"
    """A member that is not heard of for this long has its partitions given to others."""
    client_id: str = "flowagent"
    """What brokers call this client in their logs, metrics and quotas."""
    tls: ClientTls | None = None
    """`{ca: FILE, cert: FILE, key: FILE, verify: true}`; `{}` for TLS with the system's CAs; default: no TLS."""
    sasl: Sasl | None = None
    """`{mechanism: SCRAM-SHA-512, username: NAME, password_file: FILE}`; see docs/sinks/kafka.md."""

    def build(self, ctx: Context) -> KafkaSource:
        return KafkaSource(self, ctx)


class KafkaSource:
    """Connects in `run`, again and again where it must."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self._ctx = ctx
        self._brokers = Brokers(config, ctx)
        self._decoder = _decoder(config, ctx.name)
        self._settings = consumer.Settings(
            topics=_topics(config, f"{ctx.name}.topic"),
            group=config.group,
            from_earliest=config.start == "earliest",
            session_seconds=parse_duration(config.session_timeout, f"{ctx.name}.session_timeout"),
            settle_seconds=parse_duration(config.settle, f"{ctx.name}.settle"),
        )
        self._offsets = Offsets()
        self._consumer: Consumer | None = None
        self._problem: str | None = "not connected yet"
        self._is_settled = asyncio.Event()
        self._filled = 0.0
        self._wants_ids = True
        self._mark = 0
        self._due = 0.0
        self._counts = Counter({"messages": 0, "records": 0, "rebalances": 0, "commit_errors": 0})
        self._errors: Counter[str] = Counter()
        self.hurry = False

    async def __aenter__(self) -> Self:
        self._ctx.metrics.add(self._families)
        if self._brokers.show_credentials:
            self._ctx.log.warning("credentials go to %s unencrypted; tls would hide them", self._brokers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        if self._consumer is not None:
            await self._consumer.commit()
            await self._leave()

    def want(self, columns: frozenset[str] | None) -> None:
        self._decoder.want(columns)
        self._wants_ids = columns is None or "row_id" in columns

    def ready(self) -> str | None:
        return f"{self._ctx.name}: {self._problem}" if self._problem else None

    def backlog(self) -> float:
        """Nothing is lost by waiting, so nothing is ever to be shed."""
        return 0.0

    def settled(self, mark: int, filled: float) -> None:
        self._filled = filled
        self._offsets.settle(mark)
        if self._offsets.is_settled:
            self._is_settled.set()

    async def run(self, deliver: Deliver) -> None:
        """Until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            try:
                member = Consumer(self._brokers, self._settings, self._offsets, self._until_settled)
                self._consumer = member
                await member.start()
                self._say(None)
                pause = _FIRST_PAUSE
                await self._consume(member, deliver)
            except (KafkaError, OSError) as error:  # TimeoutError is an OSError
                self._say(await self._brokers.problem(_PROBE) or f"{self._brokers}: {describe(error)}")
            except Exception:
                # A fault of the client must not take the agent down: it begins anew.
                self._ctx.log.exception("reading failed for an unexpected error")
                self._problem = "an unexpected error, see the log"
            await self._leave()
            await asyncio.sleep(pause * (0.5 + 0.5 * float(self._ctx.rng.random())))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _consume(self, member: Consumer, deliver: Deliver) -> None:
        clock = self._ctx.clock
        while True:
            if self._filled < _FULL:
                runs = await member.fetch(_LOOK)
                turn = member.rebalances
                for part in _parts(runs):
                    self._take(part, deliver)
                    await asyncio.sleep(0)
                    if member.rebalances != turn:  # what is left is read again by whoever has it now
                        break
            else:
                await asyncio.sleep(_LOOK)
            if clock.monotonic() >= self._due:
                self._due = clock.monotonic() + _COMMIT
                self._say(await member.commit() or await self._silence(member))

    async def _silence(self, member: Consumer) -> str | None:
        """Why brokers do not answer; None where they do."""
        answered = member.answered_ms()
        if answered is None or self._filled >= _FULL or self._ctx.clock.now_ns() // 10**6 - answered < _SILENT * 1000:
            return None
        return await self._brokers.problem(_PROBE) or f"{self._brokers} do not answer"

    async def _until_settled(self) -> None:
        self._is_settled.clear()
        if self._offsets.is_settled:
            return
        self.hurry = True
        try:
            await self._is_settled.wait()
        finally:
            self.hurry = False

    async def _leave(self) -> None:
        if self._consumer is not None:
            member, self._consumer = self._consumer, None
            await member.close()
            self._counts["rebalances"] += member.rebalances
            self._counts["commit_errors"] += member.commit_errors

    def _say(self, problem: str | None) -> None:
        if problem and problem != self._problem:
            self._ctx.log.warning("%s", problem)
        elif self._problem and not problem:
            self._ctx.log.info("reads from %s", self._brokers)
        self._problem = problem

    def _take(self, runs: list[Run], deliver: Deliver) -> None:
        """Decode and deliver messages, and remember how far that is."""
        news = []
        for run in runs:
            known = self._offsets.fresh(run.place, [message.offset for message in run.messages], run.newest)
            news.append(run._replace(messages=run.messages[known:]))
        values = [message.value for run in news for message in run.messages]
        self._counts["messages"] += len(values)
        if values:
            decoded = self._decode(values)
            self._errors.update(decoded.errors)
            if len(decoded.batch):
                self._counts["records"] += decoded.batch.record_count
                batch = self._numbered(decoded, news) if self._wants_ids else decoded.batch
                self._mark = deliver(batch)
        for run in news:
            if run.messages:
                self._offsets.read(run.place, self._mark, run.messages[-1].offset + 1)

    def _decode(self, values: list[bytes | None]) -> Decoded:
        """The rows of these; a fault of the decoder costs the message that it comes from."""
        there = np.array([value is not None for value in values], np.bool_)
        found = self._decode_all([value for value in values if value is not None])
        empty = len(values) - int(np.count_nonzero(there))
        if not empty:
            return found
        errors = found.errors + Counter({BAD_MESSAGE: empty})
        return found._replace(origin=np.flatnonzero(there)[found.origin], errors=errors)

    def _decode_all(self, values: list[bytes]) -> Decoded:
        try:
            found = self._decoder.decode(values)
        except Exception:
            if len(values) == 1:
                self._ctx.log.exception("lost a message to an unexpected error")
                return Decoded(Batch({}), np.zeros(0, np.intp), Counter(internal=1))
            middle = len(values) // 2
            parts = [self._decode_all(values[:middle]), self._decode_all(values[middle:])]
            origin = np.concatenate([parts[0].origin, parts[1].origin + middle])
            return Decoded(Batch.concat([p.batch for p in parts]), origin, parts[0].errors + parts[1].errors)
        return found

    def _numbered(self, decoded: Decoded, runs: list[Run]) -> Batch:
        """With a number for each row that has none: by topic, partition, offset, and place in the message."""
        batch, origin = decoded.batch, decoded.origin
        place = np.arange(len(origin)) - np.searchsorted(origin, origin)
        ids = row_ids(runs)[origin]
        ids = finish(ids + place.astype(np.uint64)) >> np.uint64(1)  # 63 bits are a number everywhere
        if "row_id" in batch:
            ids = np.where(batch.is_known("row_id"), batch["row_id"], ids)
        return batch.with_columns({"row_id": ids})

    def _families(self) -> Iterable[Family]:
        name, protocol = self._ctx.name, self._decoder.name
        member = self._consumer
        records = {(name, protocol): self._counts["records"]}
        yield Family("flowagent_ingest_records", "counter", "Flow records decoded.", ("source", "protocol"), records)
        errors = {(name, protocol, reason): n for reason, n in self._errors.items()}
        labels = ("source", "protocol", "reason")
        yield Family("flowagent_ingest_errors", "counter", "Input refused, by reason.", labels, errors)
        now = {"rebalances": 0, "commit_errors": 0}
        if member is not None:
            now = {"rebalances": member.rebalances, "commit_errors": member.commit_errors}
        for what, value, text in (
            ("messages", self._counts["messages"], "Messages read."),
            ("repeated_messages", self._offsets.repeated, "Of these, read before by a member that did not commit."),
            ("missing_offsets", self._offsets.missing, "Offsets where reading was to go on, without a message."),
            ("rebalances", self._counts["rebalances"] + now["rebalances"], "Times partitions were taken or given."),
            ("commit_errors", self._counts["commit_errors"] + now["commit_errors"], "Commits that failed."),
        ):
            yield Family(f"flowagent_kafka_{what}", "counter", text, ("source",), {(name,): value})
        lags = self._lags(member) if member is not None else {}
        text = "Messages of a partition that are not read yet."
        yield Family("flowagent_kafka_lag_messages", "gauge", text, ("source", "topic", "partition"), lags)

    def _lags(self, member: Consumer) -> dict[tuple[str, str, str], float]:
        lags: Counter[tuple[str, str, str]] = Counter()
        for place in sorted(member.assigned):
            position, newest = self._offsets.position(place), member.newest(place)
            if newest is not None:
                labels = (place.topic, str(place.partition)) if len(lags) < _MAX_LAGS else ("other", "other")
                lags[self._ctx.name, *labels] += max(0, newest - (position or 0))
        return dict(lags)


def row_ids(runs: Iterable[Run]) -> Array:
    """(messages,) uint64: a number that each message has wherever and whenever it is read."""
    parts = [
        finish(np.array([message.offset for message in run.messages], np.uint64) ^ np.uint64(_seed(run.place)))
        for run in runs
    ]
    return np.concatenate(parts)


def _seed(place: Place) -> int:
    return seed_of("row", place.topic, place.partition)


def _parts(runs: list[Run]) -> Iterator[list[Run]]:
    """Runs cut so that each part is read in a moment."""
    part: list[Run] = []
    messages = size = 0
    for run in runs:
        start = 0
        for i, message in enumerate(run.messages):
            messages += 1
            size += len(message.value or b"")
            if messages >= _MESSAGES or size >= _BYTES:
                yield [*part, run._replace(messages=run.messages[start : i + 1])]
                part, start, messages, size = [], i + 1, 0, 0
        if start < len(run.messages):
            part.append(run._replace(messages=run.messages[start:]))
    if part:
        yield part


def _decoder(config: Config, name: str) -> RowDecoder:
    known = _FORMATS[config.schema]
    form: Any = config.format or known[0]
    if form not in known:
        raise ConfigError(f"{name}.format", f"{config.schema} is not read as {form!r}; one of {', '.join(known)}")
    if config.schema == "goflow2":
        return Goflow2Decoder()
    return CanonicalDecoder(form) if config.schema == "canonical" else NetobservDecoder(form)


def _topics(config: Config, path: str) -> tuple[str, ...]:
    topics = (config.topic,) if isinstance(config.topic, str) else config.topic
    if not topics:
        raise ConfigError(path, "is empty; name a topic")
    for topic in topics:
        if topic.startswith("^"):
            try:
                re.compile(topic)
            except re.error as error:
                raise ConfigError(path, f"{topic!r} is no regular expression: {error}") from error
        elif _TOPIC.fullmatch(topic) is None:
            raise ConfigError(path, f"{topic!r} is no topic; it has letters, digits, '.', '_', '-'")
    return topics
