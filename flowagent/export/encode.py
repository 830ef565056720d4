"""Rows into the values people and programs read: addresses as text, MACs with colons, unknown left out."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from flowagent.batch import Array, Batch, is_constant
from flowagent.elements import column_kind
from flowagent.schema import COLUMNS

_ORDER = {name: i for i, name in enumerate(COLUMNS)}
_encoder = msgspec.json.Encoder()


def json_lines(batch: Batch) -> bytes:
    """One JSON object a row in canonical names, each ended by a newline; unknown values are left out."""
    if not batch.columns:
        return b"{}\n" * len(batch)
    if not len(batch):
        return b""
    names = tuple(sorted(batch.columns, key=lambda name: _ORDER.get(name, len(_ORDER))))
    row = _row_type(names)
    values = [plain_values(batch, name) for name in names]
    return _encoder.encode_lines(list(map(row, *values)))


def plain_values(batch: Batch, name: str) -> list[Any]:
    """The column as Python values; `msgspec.UNSET` where unknown."""
    values = batch[name]
    if is_constant(values):
        one = _plain(name, np.ascontiguousarray(values[..., :1]))
        plain = one * len(batch)
    else:
        plain = _plain(name, values)
    if name in batch.valid:
        known = batch.valid[name].tolist()
        plain = [v if k else msgspec.UNSET for v, k in zip(plain, known, strict=True)]
    return plain


def _plain(name: str, values: Array) -> list[Any]:
    kind = column_kind(name)
    if values.dtype == object:
        return [v.hex() if isinstance(v, bytes) else msgspec.UNSET for v in values.tolist()]
    if values.dtype.kind == "S":
        return [v.decode("utf-8", "replace") for v in values.tolist()]
    if values.ndim == 2:
        return _addresses(values)
    if kind == "mac":
        return _distinct(values, lambda v: v.to_bytes(8, "big")[2:].hex(":"))
    if kind == "enum":
        return list(map(COLUMNS[name].labels.__getitem__, values.tolist()))
    if values.dtype == np.float64 and bool((values == np.trunc(values)).all()) and bool((np.abs(values) < 2**53).all()):
        return values.astype(np.int64).tolist()  # type: ignore[no-any-return]
    return values.tolist()  # type: ignore[no-any-return]


def _addresses(values: Array) -> list[str]:
    high, low = values
    if not high.any() and bool((low >> np.uint64(32) == 0xFFFF).all()):
        return _distinct(low & np.uint64(0xFFFFFFFF), _ipv4)
    return list(map(_address, high.tolist(), low.tolist()))


def _distinct(values: Array, convert: Callable[[int], str]) -> list[str]:
    """Convert each distinct value once: addresses repeat a lot."""
    distinct, inverse = np.unique(values, return_inverse=True)
    texts = list(map(convert, distinct.tolist()))
    return list(map(texts.__getitem__, inverse.tolist()))


def _ipv4(value: int) -> str:
    return socket.inet_ntoa(value.to_bytes(4, "big"))


@lru_cache(maxsize=65536)
def _address(high: int, low: int) -> str:
    if high == 0 and low >> 32 == 0xFFFF:
        return _ipv4(low & 0xFFFFFFFF)
    return socket.inet_ntop(socket.AF_INET6, (high << 64 | low).to_bytes(16, "big"))


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> type[msgspec.Struct]:
    """A struct with these fields: msgspec encodes structs several times faster than dicts."""
    fields = [(f"f{i}", Any, msgspec.field(default=msgspec.UNSET, name=name)) for i, name in enumerate(names)]
    return msgspec.defstruct("Row", fields, gc=False)
