"""Rows from messages of goflow2: its FlowMessage in protobuf, each behind its length (`pb/flow.proto`).

Of what is 0 nothing is written, so a field that is missing is unknown here: a port of 0 as one that nobody told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, Batch
from flowagent.ingest.decoded import BAD_MESSAGE, BAD_VALUE, Decoded, finish
from flowagent.ingest.protobuf import BYTES, FIXED64, VARINT, Buffer, Field, Messages, delimited
from flowagent.ingest.rates import MAX_RATE
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS

_U64 = np.uint64
_PROTOCOL = np.array(
    [EXPORT_PROTOCOLS.index(name) for name in ("unknown", "sflow5", "netflow5", "netflow9", "ipfix")], np.uint8
)
"""By the number of `FlowType`."""
_EXTRA = np.dtype("u8")
_CHUNK = 65536
"""Messages that are read at once."""


class Read(NamedTuple):
    """Values of a field: a column's array, and (k,) bool where they can be none of it."""

    values: Array
    wrong: Array


_Reader = Callable[[Buffer, Field], Read]


def _number(most: int, dtype: np.dtype[np.generic]) -> _Reader:
    def read(_: Buffer, field: Field) -> Read:
        wrong = field.values > _U64(most)
        return Read(np.where(wrong, _U64(0), field.values).astype(dtype), wrong)

    return read


def _protocol(_: Buffer, field: Field) -> Read:
    wrong = field.values >= len(_PROTOCOL)
    return Read(_PROTOCOL.take(np.where(wrong, _U64(0), field.values).astype(np.intp)), wrong)


def _address(buffer: Buffer, field: Field) -> Read:
    assert field.lengths is not None
    at = field.values.astype(np.int64)
    first = buffer.words(at).byteswap()
    is_v4 = field.lengths == 4
    high = np.where(is_v4, _U64(0), first)
    low = (first >> _U64(32)) | _U64(V4_MAPPED)
    if not is_v4.all():
        low = np.where(is_v4, low, buffer.words(at + 8).byteswap())
    return Read(np.stack([high, low]), ~(is_v4 | (field.lengths == 16)))


def _first(buffer: Buffer, field: Field) -> Read:
    """The first of several numbers."""
    if field.lengths is None:
        return Read(field.values.astype(np.uint32), field.values > _U64(0xFFFFFFFF))
    values, after = buffer.varints(field.values.astype(np.int64))
    wrong = (after > field.values.astype(np.int64) + field.lengths) | (values > _U64(0xFFFFFFFF))
    return Read(np.where(wrong, _U64(0), values).astype(np.uint32), wrong)


def _fraction(least: float, most: float) -> _Reader:
    def read(_: Buffer, field: Field) -> Read:
        values = field.values.view(np.float64)
        inside = (values >= least) & (values <= most)
        return Read(np.where(inside, values, 1.0), ~inside)

    return read


class _Field(NamedTuple):
    column: str
    wire_types: tuple[int, ...]
    read: _Reader


def _plain(column: str, bits: int = 0) -> _Field:
    """A number that is as the column has it; `bits` where it must be smaller than its type allows."""
    dtype = np.dtype(COLUMNS[column].dtype) if column in COLUMNS else _EXTRA
    most = (1 << bits) - 1 if bits else int(np.iinfo(dtype).max)
    return _Field(column, (VARINT,), _number(most, dtype))


FIELDS: dict[int, _Field] = {
    1: _Field("export_protocol", (VARINT,), _protocol), 3: _Field("sampling_rate", (VARINT,),
    _number(int(MAX_RATE), np.dtype("f8"))), 4: _plain("sequence"), 9: _plain("bytes"), 10: _plain("packets"),
    14: _plain("src_as"), 15: _plain("dst_as"), 16: _plain("src_mask"), 17: _plain("dst_mask"), 18: _plain("in_if"),
    19: _plain("out_if"), 20: _plain("proto"), 21: _plain("src_port"), 22: _plain("dst_port"), 23: _plain("tos"),
    24: _plain("forwardingStatus"), 25: _plain("ttl"), 26: _plain("tcp_flags"), 27: _plain("src_mac", 48),
    28: _plain("dst_mac", 48), 29: _plain("vlan"), 30: _plain("ether_type"), 31: _plain("icmp_type"),
    32: _plain("icmp_code"), 33: _plain("vlan"), 34: _plain("dst_vlan"), 35: _plain("fragmentIdentification"),
    36: _plain("fragmentOffset"), 37: _plain("flowLabelIPv6"), 70: _plain("observation_domain"),
    71: _plain("observation_point"), 81: _Field("mpls_label", (VARINT, BYTES), _first), 110: _plain("received_ns"),
    111: _plain("start_ns"), 112: _plain("end_ns"), 1002: _plain("row_id"),
    1000: _Field("weight", (FIXED64,), _fraction(1, 1e30)),
    1001: _Field("inclusion_prob", (FIXED64,), _fraction(1e-30, 1)),
} | {number: _Field(name, (BYTES,), _address) for number, name in (
    (6, "src_addr"), (7, "dst_addr"), (11, "exporter"), (12, "next_hop"),
)}  # fmt: skip
"""By number; those from 1000 on are ours. VLANs stand in two fields, of which the second counts."""
_ALWAYS = frozenset({"weight", "inclusion_prob"})
_NEEDS = {"sampling_source": "sampling_rate"}


class Goflow2Decoder:
    """Messages of one or several FlowMessages, each behind its length."""

    name = "goflow2"

    def __init__(self) -> None:
        self._known = FIELDS

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""
        if columns is None:
            self._known = FIELDS
            return
        wanted = columns | _ALWAYS | {_NEEDS[name] for name in _NEEDS if name in columns}
        self._known = {number: field for number, field in FIELDS.items() if field.column in wanted}

    def decode(self, values: list[bytes]) -> Decoded:
        """The rows of these messages; what is damaged behind the first messages of a value costs the rest of it."""
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        ends = np.cumsum(lengths)
        buffer = Buffer(b"".join(values))
        origin, starts, stops, is_cut = delimited(buffer, ends - lengths, ends)
        errors = Counter({BAD_MESSAGE: int(np.count_nonzero(is_cut))})
        parts = [
            self._rows(buffer, starts[at : at + _CHUNK], stops[at : at + _CHUNK], errors)
            for at in range(0, len(starts), _CHUNK)
        ]
        batch = Batch.concat([batch for batch, _ in parts])
        kept = np.concatenate([good for _, good in parts]) if parts else np.zeros(0, np.bool_)
        return finish(batch, origin[kept], +errors, is_weighted=True)

    def _rows(self, buffer: Buffer, starts: Array, stops: Array, errors: Counter[str]) -> tuple[Batch, Array]:
        """Rows, and (n,) bool: which messages they are."""
        n = len(starts)
        messages = Messages(buffer, starts, stops)
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        wrong = np.zeros(n, np.bool_)
        for field in messages.fields(self._known):
            known = self._known[field.number]
            if field.wire_type not in known.wire_types:
                wrong[field.rows] = True
                continue
            read = known.read(buffer, field)
            wrong[field.rows[read.wrong]] = True
            _place(columns, valid, known.column, field.rows, read.values, n)
        errors[BAD_MESSAGE] += int(np.count_nonzero(messages.bad))
        wrong &= ~messages.bad
        errors[BAD_VALUE] += int(np.count_nonzero(wrong))
        good = ~(wrong | messages.bad)
        return Batch(columns, n, valid).take(good), good


def _place(columns: dict[str, Array], valid: dict[str, Array], name: str, rows: Array, values: Array, n: int) -> None:
    """Put values where their rows are; the rest of the column is unknown as long as nothing else fills it."""
    if len(rows) == n:
        columns[name] = values
        valid.pop(name, None)
        return
    if name not in columns:
        columns[name] = np.zeros((*values.shape[:-1], n), values.dtype)
        valid[name] = np.zeros(n, np.bool_)
    columns[name][..., rows] = values
    if name in valid:
        valid[name][rows] = True
        if valid[name].all():
            del valid[name]
