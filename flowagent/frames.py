"""A Batch as bytes and back: msgpack of columns, compressed. For rows that must outlive the process."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
import zstandard

from flowagent.batch import Array, Batch, is_constant

_LEVEL = 1
_encoder = msgspec.msgpack.Encoder()
_compressor = zstandard.ZstdCompressor(level=_LEVEL)


class _Column(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    """NumPy's name of it, with byte order; `objects` for Python bytes."""
    shape: tuple[int, ...]
    is_constant: bool
    data: bytes | list[bytes | None]
    known: bytes | None
    """One byte a row where some are unknown."""


class _Frame(msgspec.Struct, array_like=True):
    length: int
    columns: list[_Column]


_DTYPE = re.compile(r"[<>|][biufSV][0-9]{1,6}")
"""What `dtype.str` says of columns; others may be names that NumPy warns of."""
_decoder = msgspec.msgpack.Decoder(_Frame)


def pack(batch: Batch) -> bytes:
    """All columns, masks included."""
    columns = [_pack(name, values, batch.valid.get(name)) for name, values in batch.columns.items()]
    return _compressor.compress(_encoder.encode(_Frame(len(batch), columns)))


def unpack(data: bytes) -> Batch:
    """What `pack` was given; ValueError where the bytes are not that."""
    try:
        frame = _decoder.decode(zstandard.ZstdDecompressor().decompress(data))
        columns = {column.name: _unpack(column) for column in frame.columns}
        masks = {c.name: np.frombuffer(c.known, np.bool_) for c in frame.columns if c.known is not None}
        return Batch(columns, frame.length, masks)
    except (zstandard.ZstdError, msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"not a frame: {error}") from error


def _pack(name: str, values: Array, known: Array | None) -> _Column:
    mask = None if known is None else np.ascontiguousarray(known).tobytes()
    if values.dtype == object:
        items = [v if isinstance(v, bytes) else None for v in values.tolist()]
        return _Column(name, "objects", values.shape, is_constant=False, data=items, known=mask)
    one = is_constant(values)
    stored = np.ascontiguousarray(values[..., :1] if one else values)
    return _Column(name, values.dtype.str, values.shape, is_constant=one, data=stored.tobytes(), known=mask)


def _unpack(column: _Column) -> Array:
    if isinstance(column.data, list):
        items: Any = np.empty(len(column.data), object)
        items[:] = column.data
        return np.asarray(items)
    if not _DTYPE.fullmatch(column.dtype):
        raise TypeError(f"{column.dtype!r} is no type of a column")
    shape = (*column.shape[:-1], 1) if column.is_constant else column.shape
    values: Array = np.frombuffer(column.data, column.dtype).reshape(shape)
    return np.broadcast_to(values, column.shape) if column.is_constant else values
