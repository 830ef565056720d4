"""A member of a consumer group of Kafka: joins, fetches, commits what is settled, and lets go of partitions in order.

Offsets are never committed by the client itself. When partitions are to be taken away, the member first waits for
what it read to be settled, and commits that; what is not settled in time is read again by whoever comes next.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.abc import ConsumerRebalanceListener  # type: ignore[import-untyped]
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError  # type: ignore[import-untyped]

from flowagent.brokers import Brokers, describe
from flowagent.ingest.offsets import Commit, Offsets, Place

_REQUEST_SECONDS = 10.0
_JOIN_SECONDS = 120.0
"""For others to let go of their partitions."""
_CLOSE_SECONDS = 5.0
_NEVER_MS = 86_400_000
"""A member that does not fetch for a while, as its sinks are full, stays one: heartbeats say that it lives."""
logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # the source says what matters, once


class Run(NamedTuple):
    """Messages of one partition, in order."""

    place: Place
    messages: list[Any]
    newest: int | None
    """Offset behind the last message that there is."""


class Settings(NamedTuple):
    """What a member needs to know besides the brokers."""

    topics: Sequence[str]
    group: str
    from_earliest: bool
    session_seconds: float
    settle_seconds: float


class Consumer:
    """Joins when entered; raises KafkaError or OSError where it cannot."""

    def __init__(
        self, brokers: Brokers, settings: Settings, offsets: Offsets, settle: Callable[[], Awaitable[None]]
    ) -> None:
        """`settle` returns when all that was read is settled."""
        self._settings = settings
        self._offsets = offsets
        self._settle = settle
        self.rebalances = 0
        """Times partitions were taken away or given; a change says that what was fetched before may be others' now."""
        self.commit_errors = 0
        self._client = AIOKafkaConsumer(
            bootstrap_servers=list(map(str, brokers.all)),
            group_id=settings.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest" if settings.from_earliest else "latest",
            isolation_level="read_committed",
            session_timeout_ms=round(settings.session_seconds * 1000),
            heartbeat_interval_ms=max(200, round(settings.session_seconds * 1000 / 4)),
            max_poll_interval_ms=_NEVER_MS,
            rebalance_timeout_ms=round((settings.settle_seconds + _REQUEST_SECONDS) * 1000),
            **brokers.connection(_REQUEST_SECONDS),
        )

    async def start(self) -> None:
        """Join the group; returns when partitions are given, or none are left."""
        listener = _Listener(self)
        topics = self._settings.topics
        if any(topic.startswith("^") for topic in topics):
            pattern = "|".join(topic if topic.startswith("^") else f"^{re.escape(topic)}$" for topic in topics)
            self._client.subscribe(pattern=pattern, listener=listener)
        else:
            self._client.subscribe(list(topics), listener=listener)
        async with asyncio.timeout(_JOIN_SECONDS):
            await self._client.start()

    async def close(self) -> None:
        """Leave the group."""
        with suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.stop()

    @property
    def assigned(self) -> list[Place]:
        """The partitions that this member reads."""
        return [Place(tp.topic, tp.partition) for tp in self._client.assignment()]

    def newest(self, place: Place) -> int | None:
        """Offset behind the last message of a partition; None while it is not known."""
        found: int | None = self._client.highwater(TopicPartition(*place))
        return found

    def answered_ms(self) -> int | None:
        """When brokers answered a fetch last, milliseconds since 1970; None where nothing is fetched."""
        times = [self._client.last_poll_timestamp(tp) for tp in self._client.assignment()]
        return max(filter(None, times), default=None)

    async def fetch(self, seconds: float) -> list[Run]:
        """What is there, or comes within this time."""
        found = await self._client.getmany(timeout_ms=round(seconds * 1000))
        return [
            Run(Place(tp.topic, tp.partition), messages, self._client.highwater(tp)) for tp, messages in found.items()
        ]

    async def commit(self) -> str | None:
        """Tell the brokers how far all is settled; what is wrong where they cannot be told."""
        commits = self._offsets.commits(self.assigned)
        if not commits:
            return None
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.commit({TopicPartition(*place): tuple(c) for place, c in commits.items()})
        except (CommitFailedError, IllegalStateError):  # partitions are being given to others
            self.commit_errors += 1
            return None
        except TimeoutError:
            self.commit_errors += 1
            return f"no answer to a commit within {_CLOSE_SECONDS:g} s"
        except KafkaError as error:
            self.commit_errors += 1
            return f"offsets cannot be committed: {describe(error)}"
        self._offsets.committed(commits)
        return None

    async def let_go(self, revoked: set[TopicPartition]) -> None:
        """Partitions are taken away, perhaps to come back."""
        self.rebalances += 1
        if revoked:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.settle_seconds):
                    await self._settle()
            await self.commit()
        self._offsets.end(Place(tp.topic, tp.partition) for tp in revoked)

    async def take(self, assigned: set[TopicPartition]) -> None:
        """Partitions are given."""
        self.rebalances += 1
        found = await self._client._coordinator.fetch_committed_offsets(list(assigned))  # noqa: SLF001 - with the note
        for tp in assigned:
            committed = Commit(found[tp].offset, found[tp].metadata or "") if tp in found else None
            position = self._offsets.begin(Place(tp.topic, tp.partition), committed)
            if position is not None:
                self._client.seek(tp, position)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._consumer.let_go(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._consumer.take(assigned)
