"""Hashes of rows that are the same on every machine: for sampling that agents agree on, and for sketches that merge.

`grouping` has a quicker hash for one process; this one depends on nothing but
the columns' values, their order and the seed, and all 64 bits of it are good.
A row's hash does not depend on its neighbours: a column that is missing counts
as unknown, and what is unknown hashes alike however the batch stores it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flowagent.batch import Array, Batch, is_constant
from flowagent.schema import COLUMNS

_U64 = np.uint64
_STEP, _FINAL_1, _FINAL_2 = _U64(0x9FB21C651E98DF25), _U64(0xBF58476D1CE4E5B9), _U64(0x94D049BB133111EB)
_UNKNOWN = _U64(0xD1B54A32D192ED03)
"""Stands for a value that is not known; a known value that equals it only costs a collision."""


def seed_of(*parts: object) -> int:
    """A 64-bit seed from whatever tells hashes apart: a secret, a window's start, a purpose."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def hash_rows(batch: Batch, names: Sequence[str], seed: int = 0) -> Array:
    """(n,) uint64: a hash of these columns for every row."""
    h: Any = _U64(seed)
    with np.errstate(over="ignore"):  # a scalar's product is meant to wrap, as an array's does
        for word in _words(batch, names):
            value = word[0] if is_constant(word) else word
            h = (h ^ value) * _STEP
            h ^= h >> _U64(32)
        h = finish(h)
    return np.broadcast_to(h, (len(batch),)) if h.ndim == 0 else np.asarray(h)


def finish(h: Any) -> Any:
    """Spread every bit over all others (the finaliser of SplitMix64); a bijection of uint64."""
    h = (h ^ (h >> _U64(30))) * _FINAL_1
    h = (h ^ (h >> _U64(27))) * _FINAL_2
    return h ^ (h >> _U64(31))


def unit_interval(hashes: Array) -> Array:
    """(n,) float64, uniform on (0, 1]: multiples of 2^-53."""
    numbers = (hashes >> _U64(11)).astype(np.float64)
    numbers += 1
    numbers *= 2.0**-53
    return numbers


def _words(batch: Batch, names: Sequence[str]) -> Iterator[Array]:
    """The values as uint64 arrays; narrow columns share one."""
    packed: Array | None = None
    used = 0
    for name in names:
        column = COLUMNS.get(name)
        bits = 8 * np.dtype(column.dtype).itemsize if column is not None and column.kind != "addr" else 64
        if bits > 32:
            yield from _wide(batch, name, 2 if column is not None and column.kind == "addr" else 1)
            continue
        bits += 1  # for what is not known
        if packed is not None and used + bits > 64:
            yield packed
            packed, used = None, 0
        word = _narrow(batch, name, _U64(1 << bits - 1))
        packed = word if packed is None else packed | (word << _U64(used))
        used += bits
    if packed is not None:
        yield packed


def _narrow(batch: Batch, name: str, unknown: np.uint64) -> Array:
    if name not in batch:
        return np.broadcast_to(unknown, (len(batch),))
    values = batch[name]
    if name in batch.valid:
        return np.where(batch.valid[name], values.astype(_U64), unknown)
    return np.broadcast_to(values[:1].astype(_U64), values.shape) if is_constant(values) else values.astype(_U64)


def _wide(batch: Batch, name: str, words: int) -> Iterator[Array]:
    if name not in batch:
        yield from [np.broadcast_to(_UNKNOWN, (len(batch),))] * words
        return
    values = batch[name]
    for word in values if values.ndim == 2 else (values,):
        one = word[:1] if len(word) and (is_constant(word) or bool((word == word[0]).all())) else word
        bits = np.ascontiguousarray(one).view(_U64) if one.dtype.itemsize == 8 else one.astype(_U64)
        bits = np.broadcast_to(bits, word.shape)
        yield np.where(batch.valid[name], bits, _UNKNOWN) if name in batch.valid else bits
