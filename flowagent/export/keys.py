"""Keys of messages, and the partitions that Kafka's clients choose by them.

A consumer finds all messages of one key in one partition, in order. Java's
clients, and what follows them, take murmur2 of the key for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.schema import COLUMNS

_SEED, _M, _R = 0x9747B28C, np.uint32(0x5BD1E995), np.uint32(24)
_ENDS = ("src_addr", "dst_addr")


def address_keys(batch: Batch) -> list[bytes | None]:
    """For each row the lower of both addresses and the higher behind it, 16 bytes each.

    So both directions of a conversation have one key (as with the eBPF agent of
    NetObserv). IPv4 addresses are ::ffff:a.b.c.d; one that is not known is all
    zeros; None where neither is known.
    """
    (src_high, src_low), (dst_high, dst_low) = (_known(batch, name, _column(batch, name)) for name in _ENDS)
    swap = (src_high > dst_high) | ((src_high == dst_high) & (src_low > dst_low))
    words = np.empty((len(batch), 4), ">u8")
    words[:, 0] = np.where(swap, dst_high, src_high)
    words[:, 1] = np.where(swap, dst_low, src_low)
    words[:, 2] = np.where(swap, src_high, dst_high)
    words[:, 3] = np.where(swap, src_low, dst_low)
    return _where_known(batch, _ENDS, words.view("V32").ravel().tolist())


def column_keys(batch: Batch, names: Sequence[str]) -> list[bytes | None]:
    """For each row the bytes of these columns, one behind the other.

    Numbers are big-endian and as wide as the column, addresses 16 bytes, texts
    as they are. What is not known is zeros, or nothing where the column is one
    of text; None where nothing is known.
    """
    parts = list(_octets(batch, names))
    joined = parts[0] if len(parts) == 1 else list(map(b"".join, zip(*parts, strict=True)))
    return _where_known(batch, names, joined)


def partitions_of(keys: Sequence[bytes], counts: Array) -> Array:
    """(n,) int64: the partition of each key among `counts` (n,) of them, as Java's clients choose it."""
    return (murmur2(keys) & np.uint32(0x7FFFFFFF)).astype(np.int64) % counts


def murmur2(keys: Sequence[bytes]) -> Array:
    """(n,) uint32: the hash of each key by Kafka's variant of MurmurHash2 (`Utils.murmur2` of its Java client)."""
    lengths = np.fromiter(map(len, keys), np.intp, len(keys))
    hashes = np.empty(len(keys), np.uint32)
    for length in set(lengths.tolist()):
        rows = np.flatnonzero(lengths == length)
        some = keys if len(rows) == len(keys) else [keys[row] for row in rows.tolist()]
        hashes[rows] = _murmur2(np.frombuffer(b"".join(some), np.uint8).reshape(len(rows), length))
    return hashes


def _murmur2(octets: Array) -> Array:
    """Of keys of one length: (n, length) uint8 into (n,) uint32."""
    n, length = octets.shape
    h = np.full(n, _SEED ^ length, np.uint32)
    whole = length & ~3
    for word in np.ascontiguousarray(octets[:, :whole]).view("<u4").T:
        k = word * _M
        k ^= k >> _R
        k *= _M
        h *= _M
        h ^= k
    for i, octet in enumerate(octets[:, whole:].T):
        h ^= octet.astype(np.uint32) << np.uint32(8 * i)
    if length > whole:
        h *= _M
    h ^= h >> np.uint32(13)
    h *= _M
    h ^= h >> np.uint32(15)
    return h


def _octets(batch: Batch, names: Sequence[str]) -> Iterator[list[bytes]]:
    """Each column's values as bytes."""
    for name in names:
        values = _column(batch, name)
        if values.dtype == object:
            yield [item if isinstance(item, bytes) else b"" for item in values.tolist()]
        elif values.dtype.kind == "S":
            yield _known(batch, name, values).tolist()
        else:
            numbers = np.atleast_2d(_known(batch, name, values))
            big_endian = np.ascontiguousarray(numbers.T.astype(numbers.dtype.newbyteorder(">")))
            yield big_endian.view(f"V{big_endian.itemsize * big_endian.shape[1]}").ravel().tolist()


def _column(batch: Batch, name: str) -> Array:
    """The column; one that is missing is as wide as it would be, so that keys do not depend on other rows."""
    if name in batch:
        return batch[name]
    column = COLUMNS.get(name)
    if column is None or column.kind == "name":
        return constant(b"", len(batch), "S1")
    return constant([0, 0] if column.kind == "addr" else 0, len(batch), column.dtype)


def _known(batch: Batch, name: str, values: Array) -> Array:
    """With zeros where the value is not known."""
    return np.where(batch.valid[name], values, values.dtype.type()) if name in batch.valid else values


def _where_known(batch: Batch, names: Sequence[str], keys: list[bytes]) -> list[bytes | None]:
    present = [name for name in names if name in batch]
    if any(name not in batch.valid for name in present):
        return list(keys)
    known = np.zeros(len(batch), np.bool_)
    for name in present:
        known |= batch.valid[name]
    return [key if has else None for key, has in zip(keys, known.tolist(), strict=True)]
