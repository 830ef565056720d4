"""Sink `kafka`: rows as messages of Apache Kafka, keyed so that both directions of a conversation meet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from operator import itemgetter
from typing import Annotated, Literal, Self

import msgspec
import numpy as np

from flowagent import __version__
from flowagent.batch import Array, Batch
from flowagent.brokers import Brokers, Sasl
from flowagent.component import Context
from flowagent.delivery import Delivery
from flowagent.errors import ConfigError, Rejected
from flowagent.export import schemas
from flowagent.export.keys import address_keys, column_keys, partitions_of
from flowagent.export.producer import (
    NO_TOPIC,
    NOT_AUTHORIZED,
    REFUSED,
    TOO_LARGE,
    Compression,
    Form,
    Producer,
    Result,
    Run,
)
from flowagent.export.topics import Topics
from flowagent.metrics import Family
from flowagent.schema import COLUMNS
from flowagent.sections import did_you_mean, parse_duration, parse_size
from flowagent.tls import ClientTls

NDJSON = "application/x-ndjson"
_ADDRESSES = ("src_addr", "dst_addr")
_SMALLEST, _LARGEST = 10_000, 100_000_000
_BLOCK = 1000
"""Rows without a key that go to one partition together, where there are as many."""


class Config(Delivery, frozen=True, kw_only=True):
    """Produce rows to Kafka."""

    brokers: tuple[str, ...] = ("localhost:9092",)
    """Some of the cluster's brokers, `host:port`; they tell the others."""
    client_id: str = "flowagent"
    """What brokers call this client in their logs, metrics and quotas."""
    tls: ClientTls | None = None
    """`{ca: FILE, cert: FILE, key: FILE, verify: true}`; `{}` for TLS with the system's CAs; default: no TLS."""
    sasl: Sasl | None = None
    """`{mechanism: SCRAM-SHA-512, username: NAME, password_file: FILE}`; see docs/sinks/kafka.md."""

    topic: str = "flows"
    """Where to; may hold columns, such as `flows-{proto}`."""
    max_topics: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Topics that columns may make; rows of further ones go to one with `other` in place of the values."""
    schema: Literal["canonical", "netobserv", "goflow2"] = "canonical"
    """Names and values of the fields; see docs/fields.md."""
    format: Literal["json", "msgpack", "protobuf"] | None = None
    """How they are written; default: json."""
    key: Literal["addresses", "none"] | tuple[str, ...] = "addresses"
    """`addresses`: the lower and the higher one; a list of columns; or `none`."""
    records_per_message: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    """Rows in a message; with more than 1, those of one partition are joined and messages have no key."""
    compression: Compression = "zstd"
    """Of record batches; `none` for none."""
    max_message_bytes: str | int = "1MB"
    """Bytes of a record batch before compression at most (the broker's `message.max.bytes`)."""

    def build(self, ctx: Context) -> KafkaSink:
        return KafkaSink(self, ctx)

    def key_columns(self, path: str) -> tuple[str, ...]:
        """The columns that make the key; raises ConfigError."""
        if isinstance(self.key, str):
            return _ADDRESSES if self.key == "addresses" else ()
        if not self.key:
            raise ConfigError(path, "is empty; name columns, or write none")
        return _known(self.key, path)


class KafkaSink:
    """Returns from a write when all in-sync replicas have all of it."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self._ctx = ctx
        format_ = config.format or schemas.FORMATS[config.schema][0]
        self._encoder = schemas.encoder(config.schema, format_, path=ctx.name)
        # What goflow2 writes has its length in front in Kafka, too, and so its consumers expect it.
        is_protobuf = isinstance(self._encoder, schemas.ProtobufEncoder)
        self._encode = self._encoder.delimited if is_protobuf else self._encoder.messages  # type: ignore[attr-defined]
        self._key_columns = config.key_columns(f"{ctx.name}.key")
        self._key = address_keys if config.key == "addresses" else partial(column_keys, names=self._key_columns)
        self._topics = Topics(config.topic, config.max_topics, f"{ctx.name}.topic")
        _known(self._topics.columns, f"{ctx.name}.topic")
        self._brokers = Brokers(config, ctx)
        self._producer = Producer(
            self._brokers,
            _form(config, format_, self._encoder.content_type),
            ctx,
            timeout=parse_duration(config.timeout, f"{ctx.name}.timeout"),
            max_bytes=_max_bytes(config, f"{ctx.name}.max_message_bytes"),
            compression=config.compression,
        )
        self._batch: Batch | None = None
        self._turn = 0
        self._refused = Counter({TOO_LARGE: 0, NO_TOPIC: 0, NOT_AUTHORIZED: 0, REFUSED: 0})
        self._said = ""

    async def __aenter__(self) -> Self:
        self._ctx.metrics.add(self._families)
        if self._brokers.show_credentials:
            self._ctx.log.warning("credentials go to %s unencrypted; tls would hide them", self._brokers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        await self._producer.close()

    def columns(self) -> frozenset[str] | None:
        used = self._encoder.columns
        return None if used is None else used | {*self._key_columns, *self._topics.columns}

    async def write(self, batch: Batch) -> int:
        if not len(batch):
            return 0
        if self._batch is not None and not same_rows(batch, self._batch):
            await self._producer.drop()
        if self._producer.is_idle:
            result = Result()
            self._producer.take(await self._runs(batch, result), result)
            self._batch = batch
        result = await self._producer.deliver()
        self._batch = None
        return self._account(len(batch), result)

    async def _runs(self, batch: Batch, result: Result) -> list[Run]:
        """The rows in order by partition."""
        assigned = self._topics.assign(batch)
        counts = np.zeros(len(assigned.names), np.int64)
        for i, topic in enumerate(assigned.names):
            try:
                counts[i] = await self._producer.partitions(topic)
            except Rejected as error:
                result.refuse(int(np.count_nonzero(assigned.of_row == i)), error.reason, f"topic {topic}")
        allowed = counts[assigned.of_row] > 0
        of_row, rows = assigned.of_row[allowed], batch.take(allowed)
        if not len(rows):
            return []
        keys: list[bytes | None] = self._key(rows) if self._key_columns else [None] * len(rows)
        partitions = self._partitions(keys, counts[of_row])
        slots = (np.cumsum(counts) - counts)[of_row] + partitions
        # Of 16-bit numbers this is a radix sort.
        order = np.argsort(slots.astype(np.uint16 if counts.sum() < 65536 else np.uint32), kind="stable")
        starts = np.flatnonzero(np.diff(slots[order], prepend=-1)).tolist()
        pick = itemgetter(*order.tolist(), order[0])  # one more, so that it always makes a tuple
        keys, pieces = list(pick(keys)), list(pick(self._encode(rows)))
        return [
            Run(
                assigned.names[of_row[order[start]]],
                int(partitions[order[start]]),
                keys[start:stop],
                pieces[start:stop],
            )
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True)
        ]

    def _partitions(self, keys: list[bytes | None], counts: Array) -> Array:
        """(n,) int64: by the keys; rows without one go in blocks to one partition after the other."""
        has_key = np.fromiter((key is not None for key in keys), np.bool_, len(keys))
        chosen = np.empty(len(keys), np.int64)
        chosen[has_key] = partitions_of([key for key in keys if key is not None], counts[has_key])
        rest = len(keys) - int(np.count_nonzero(has_key))
        if rest:
            blocks = max(1, min(int(counts.max()), rest // _BLOCK))
            chosen[~has_key] = (self._turn + np.arange(rest) * blocks // rest) % counts[~has_key]
            self._turn += blocks
        return chosen

    def _account(self, rows: int, result: Result) -> int:
        self._refused.update(result.refused)
        refused = result.refused.total()
        if refused == rows:
            raise Rejected(result.refused.most_common(1)[0][0], result.why)
        if refused and result.why != self._said:
            self._ctx.log.warning("%d of %d rows were refused, %s", refused, rows, result.why)
            self._said = result.why
        return result.bytes

    def _families(self) -> Iterable[Family]:
        name = self._ctx.name
        samples = {(name, reason): rows for reason, rows in self._refused.items()}
        text = "Rows that the other side refused, or that are too large for it."
        yield Family("flowagent_sink_refused_rows", "counter", text, ("sink", "reason"), samples)
        text = "Rows sent again to brokers that may have them already."
        yield Family(
            "flowagent_sink_repeated_rows", "counter", text, ("sink",), {(name,): self._producer.repeated_rows}
        )
        yield from self._topics.families(name)


def same_rows(a: Batch, b: Batch) -> bool:
    """Whether two batches hold the same rows."""
    return a is b or (
        len(a) == len(b)
        and all(
            mine.keys() == others.keys() and all(_same(values, others[name]) for name, values in mine.items())
            for mine, others in ((a.columns, b.columns), (a.valid, b.valid))
        )
    )


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _form(config: Config, format_: str, content_type: str) -> Form:
    def lines(rows: list[bytes]) -> bytes:
        return b"\n".join(rows) + b"\n"

    is_many, is_json = config.records_per_message > 1, format_ == "json"
    headers = {
        "schema": f"{config.schema}/{format_}",
        "content-type": NDJSON if is_many and is_json else content_type,
        "flowagent-version": __version__,
    }
    encoded = [(name, value.encode()) for name, value in headers.items()]
    return Form(config.records_per_message, lines if is_json else b"".join, encoded)


def _max_bytes(config: Config, path: str) -> int:
    size = parse_size(config.max_message_bytes, path)
    if not _SMALLEST <= size <= _LARGEST:
        raise ConfigError(path, f"{config.max_message_bytes!r} is out of range; from 10kB to 100MB")
    return size


def _known(names: tuple[str, ...], path: str) -> tuple[str, ...]:
    """These names, which are of columns that there can be; raises ConfigError."""
    others = schemas.fields_of("netobserv").columns or frozenset()
    known = [*COLUMNS, *sorted(others - COLUMNS.keys())]
    for name in names:
        # Elements without a column of their own keep the registry's name, in which some letter is large.
        is_extra = name != name.lower() or re.match(r"pen\d+_\d+", name)
        if re.sub(r"_\d+$", "", name) not in known and not is_extra:
            raise ConfigError(path, f"{name!r} is not a column{did_you_mean(name, known)}")
    return names
