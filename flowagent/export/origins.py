"""The fields of an output schema: a table that says of each where its values come from.

An `Origin` reads a field from the columns of a batch. What a row lacks is
unknown there and left out of its message; so is a field of which the batch has
no column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, Batch
from flowagent.export.text import is_v4
from flowagent.export.value import Kind, Value
from flowagent.hashing import hash_rows, seed_of, unit_interval
from flowagent.schema import FLOW_KEY, SAMPLING_SOURCES

TCP, UDP, SCTP = 6, 17, 132
ICMP = (1, 58)
IPV4, IPV6 = 0x0800, 0x86DD
"""Ethernet types."""
_PRESCALED = SAMPLING_SOURCES.index("prescaled")
_MAPPED = np.uint64(V4_MAPPED)
_COIN = (*FLOW_KEY, "in_if", "out_if", "start_ns", "end_ns", "bytes", "packets")
_SEED = seed_of("rounding")
_GREATEST = 2.0**64 - 2048


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the values of a field come from: the columns it may need, and how it is read from them."""

    columns: tuple[str, ...]
    read: Callable[[Batch], Value | None]

    def map(self, function: Callable[[Array], Array], kind: Kind = "number") -> Origin:
        """With other data."""
        return self.then(lambda _, value: replace(value.map(function), kind=kind))

    def when(self, condition: Condition) -> Origin:
        """Known only where the condition holds."""
        return self.then(lambda batch, value: value.where(condition.holds(batch, value)), *condition.columns)

    def labelled(self, label: Callable[[int], Any]) -> Origin:
        """With names for its numbers."""
        return self.then(lambda _, value: replace(value, kind="code", label=label))

    def listed(self) -> Origin:
        """Each as the one element of a list."""
        return self.then(lambda _, value: replace(value, is_list=True))

    def or_else(self, other: Origin) -> Origin:
        """With another's values where these are not known."""

        def read(batch: Batch) -> Value | None:
            first = self.read(batch)
            return other.read(batch) if first is None else first.or_else(other.read(batch))

        return Origin((*self.columns, *other.columns), read)

    def then(self, function: Callable[[Batch, Value], Value], *columns: str) -> Origin:
        """With what a function makes of them, which may need more columns."""

        def read(batch: Batch) -> Value | None:
            value = self.read(batch)
            return None if value is None else function(batch, value)

        return Origin((*self.columns, *columns), read)


@dataclass(frozen=True, slots=True)
class Condition:
    """Rows in which a field means something: a bool mask (n,), from these columns and its values."""

    columns: tuple[str, ...]
    holds: Callable[[Batch, Value], Array]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a schema, with its name and type in the words of those who read it."""

    name: str
    type: str
    origin: Origin
    doc: str
    unit: str = ""


def column(name: str, kind: Kind = "number") -> Origin:
    """A column as it is."""

    def read(batch: Batch) -> Value | None:
        return Value(kind, batch[name], batch.valid.get(name)) if name in batch else None

    return Origin((name,), read)


def address(*names: str) -> Origin:
    """An address, from the first of these columns that knows it."""
    first, *others = (column(name, "addr") for name in names)
    for other in others:
        first = first.or_else(other)
    return first


def text(name: str) -> Origin:
    """A column of text, or of addresses, where it is not empty."""

    def read(batch: Batch) -> Value | None:
        if name not in batch:
            return None
        values = batch[name]
        if values.ndim == 2:
            return Value("addr", values, batch.valid.get(name))
        value = Value("text", values, batch.valid.get(name))
        return value.where(value.map(_is_filled).data)

    return Origin((name,), read)


def _is_filled(texts: Array) -> Array:
    octets = np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), -1)
    return np.asarray(octets[:, 0] != 0)


def of_protocols(*protocols: int) -> Condition:
    """Rows of these IP protocols, and those of which it is not known."""
    table = np.zeros(256, np.bool_)
    table[list(protocols)] = True
    among = column("proto").map(table.take)

    def holds(batch: Batch, value: Value) -> Array:
        found = among.read(batch)
        if found is None:
            return np.broadcast_to(np.True_, value.data.shape[-1:])
        return found.data if found.known is None else found.data | ~found.known

    return Condition(("proto",), holds)


def _is_not_zero(data: Array) -> Array:
    if data.ndim == 1:
        return np.asarray(data != 0)
    high, low = data
    return np.asarray((high != 0) | (low != 0) & (low != _MAPPED))


NOT_ZERO = Condition((), lambda _, value: value.map(_is_not_zero).data)
"""Rows in which it is neither 0 nor the address 0.0.0.0 or ::."""
NOT_NEGATIVE = Condition((), lambda _, value: value.map(lambda data: np.asarray(data >= 0)).data)

_VERSION = address("src_addr", "dst_addr").map(lambda words: np.where(is_v4(words), np.uint16(IPV4), np.uint16(IPV6)))
ETHER_TYPE = column("ether_type").when(NOT_ZERO).or_else(_VERSION)
"""The Ethernet type, or that of IPv4 or IPv6 by the addresses."""

_SCALED = Condition((), lambda _, value: value.map(lambda sources: np.asarray(sources == _PRESCALED)).data)
_ONE = column("sampling_source").when(_SCALED).map(lambda sources: np.ones(len(sources), np.uint64))
RATE = (
    column("sampling_rate")
    .map(lambda rates: np.rint(np.nan_to_num(rates).clip(0, _GREATEST)).astype(np.uint64))
    .when(NOT_ZERO)
    .or_else(_ONE)
)
"""The exporter's sampling rate as a whole number; 1 where it has scaled its counts, so nothing is to be multiplied."""

PROBABILITY = column("inclusion_prob")
"""Of a row that was sampled: probability with which it was kept."""
WEIGHT = column("weight").or_else(PROBABILITY.map(lambda probs: 1 / np.where(probs > 0, probs, 1)))
"""Of a row that was sampled: rows that it stands for."""


def weighted(name: str) -> Origin:
    """A sum, times the weight of its row where the rows are a sample: who knows of no weights finds right totals.

    It stays a whole number: it is rounded up with the probability that its
    fraction says, so that totals are right on average. The coin is a hash of
    the row, so that a row is written alike whenever it is sent.
    """

    def scale(batch: Batch, value: Value) -> Value:
        weight = WEIGHT.read(batch)
        if weight is None:
            return value
        factors = weight.data if weight.known is None else np.where(weight.known, weight.data, 1.0)
        coins = batch.memo("export coins", lambda: 1 - unit_interval(hash_rows(batch, _COIN, _SEED)))
        scaled = np.floor(value.data * factors + coins).clip(0, _GREATEST).astype(np.uint64)
        return replace(value, data=np.where(factors == 1, value.data, scaled))

    return column(name).then(scale, *WEIGHT.columns)
