"""What one agent knows of a cluster, as bytes for others, so that not each of them asks the API server.

A line says what it is and in which version; behind it is MessagePack, compressed with zlib: every text once, and
arrays of little-endian numbers.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Struct

from flowagent import names
from flowagent.batch import Array
from flowagent.enrich.kube_objects import POD_RANK
from flowagent.enrich.kube_table import PARTS, Holdings

CONTENT_TYPE = "application/vnd.flowagent.kubernetes"
_MAGIC, _VERSION = b"flowagent kubernetes ", 1
_MAX_BYTES = 128 << 20
"""Of a snapshot as MessagePack."""
_LEVEL = 1


class _Snapshot(Struct, forbid_unknown_fields=True):
    texts: list[Annotated[str, msgspec.Meta(max_length=names.MAX_BYTES)]]
    parts: dict[str, bytes]
    """For each of PARTS (k,) int32: indexes of texts."""
    high: bytes
    low: bytes
    since: bytes
    until: bytes
    entity: bytes
    rank: bytes


class SnapshotError(ValueError):
    """Bytes are no snapshot that can be used."""


def encode(holdings: Holdings) -> tuple[bytes, str]:
    """The snapshot, and its ETag."""
    used = np.zeros(len(holdings.parts["name"]), np.bool_)
    used[holdings.entity] = True
    which = np.cumsum(used) - 1
    parts = {name: codes[used] for name, codes in holdings.parts.items()}
    numbers = np.sort(np.concatenate(list(parts.values())))
    numbers = numbers[np.append(numbers[:1] == numbers[:1], numbers[1:] != numbers[:-1])]
    snapshot = _Snapshot(
        list(map(names.text, numbers.tolist())),
        {name: _bytes(np.searchsorted(numbers, column), "<i4") for name, column in parts.items()},
        _bytes(holdings.addresses[0], "<u8"), _bytes(holdings.addresses[1], "<u8"),
        _bytes(holdings.since_ns, "<i8"), _bytes(holdings.until_ns, "<i8"),
        _bytes(which[holdings.entity], "<i4"), _bytes(holdings.rank, "u1"),
    )  # fmt: skip
    data = b"%s%d\n" % (_MAGIC, _VERSION) + zlib.compress(msgspec.msgpack.encode(snapshot), _LEVEL)
    return data, f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'


def decode(data: bytes, max_addresses: int) -> tuple[Holdings, int]:
    """What is in a snapshot, and how many addresses were left out because there are more; raises SnapshotError."""
    snapshot = _read(data)
    count, entities = len(snapshot.rank), len(snapshot.parts.get("name", b"")) // 4
    if set(snapshot.parts) != set(PARTS):
        raise SnapshotError(f"the snapshot has the parts {', '.join(sorted(snapshot.parts)[:20])}")
    indexes = {name: _array(snapshot.parts[name], "<i4", entities, name) for name in PARTS}
    for name, column in indexes.items():
        _check(column, len(snapshot.texts), name)
    high, low = _array(snapshot.high, "<u8", count, "high"), _array(snapshot.low, "<u8", count, "low")
    since, until = _array(snapshot.since, "<i8", count, "since"), _array(snapshot.until, "<i8", count, "until")
    entity, rank = _array(snapshot.entity, "<i4", count, "entity"), _array(snapshot.rank, "u1", count, "rank")
    _check(entity, entities, "entity")
    _check(rank, POD_RANK + 1, "rank")
    codes = names.codes(snapshot.texts)
    kept = np.arange(count)
    if count > max_addresses:
        kept = np.sort(np.argpartition(until, count - max_addresses)[count - max_addresses :])
    return Holdings(
        np.stack([high[kept], low[kept]]), since[kept], until[kept], entity[kept], rank[kept],
        {name: codes[column] for name, column in indexes.items()},
    ), count - len(kept)  # fmt: skip


def _read(data: bytes) -> _Snapshot:
    line, _, packed = data.partition(b"\n")
    if not line.startswith(_MAGIC):
        raise SnapshotError("the answer is no snapshot of a flowagent")
    if line != b"%s%d" % (_MAGIC, _VERSION):
        version = line[len(_MAGIC) : len(_MAGIC) + 20].decode("ascii", "replace")
        raise SnapshotError(f"the snapshot is of version {version}, and this agent reads {_VERSION}")
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(packed, _MAX_BYTES)
        if not unpacker.eof:
            raise SnapshotError("the snapshot is cut off" if len(plain) < _MAX_BYTES else "the snapshot is too large")
        return msgspec.msgpack.decode(plain, type=_Snapshot)
    except (zlib.error, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise SnapshotError(f"the snapshot is damaged: {error}") from error


def _bytes(values: Array, dtype: str) -> bytes:
    return values.astype(dtype).tobytes()


def _array(data: bytes, dtype: str, count: int, name: str) -> Array:
    if len(data) != count * np.dtype(dtype).itemsize:
        raise SnapshotError(f"the snapshot's {name} has not {count} values")
    return np.frombuffer(data, dtype).astype(np.dtype(dtype).newbyteorder("="))


def _check(indexes: Array, below: int, name: str) -> None:
    if len(indexes) and (int(indexes.min()) < 0 or int(indexes.max()) >= below):
        raise SnapshotError(f"the snapshot's {name} goes beyond {below - 1}")
