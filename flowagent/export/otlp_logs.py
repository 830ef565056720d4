"""Rows as OpenTelemetry's log records in protobuf, written column by column.

    ExportLogsServiceRequest  resource_logs = 1
    ResourceLogs              resource = 1, scope_logs = 2
    Resource                  attributes = 1
    ScopeLogs                 scope = 1, log_records = 2
    InstrumentationScope      name = 1, version = 2
    LogRecord                 time_unix_nano = 1, attributes = 6, observed_time_unix_nano = 11
    KeyValue                  key = 1, value = 2
    AnyValue                  string_value = 1, int_value = 3, double_value = 4

What is not known of a row is left out of its record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flowagent import __version__
from flowagent.batch import Array, Batch
from flowagent.export import text
from flowagent.export.encode import parts
from flowagent.export.matrix import Marked, first_bytes, pack
from flowagent.export.otlp_fields import OBSERVED, TIME, attributes
from flowagent.export.protobuf import varint, varints
from flowagent.export.value import Value, distinct, json_text, label_table, plain

_PREFIX = np.dtype("<u4")
"""Room for the length of a record, as a varint."""
_FIXED64, _LENGTH = 1, 2
_STRING, _INT, _DOUBLE = b"\x0a", b"\x18", b"\x21"
"""Tags of an AnyValue."""
_GREATEST = np.uint64(2**63 - 1)


class Logs(NamedTuple):
    """The records of many rows, any run of which makes a request."""

    data: bytes
    stops: Array
    """int64 (n,): where each record ends."""

    def request(self, resource: bytes, start: int, stop: int) -> bytes:
        """The body of a request with these rows; `resource` is what the function of this name made."""
        first, last = (int(self.stops[row - 1]) if row else 0 for row in (start, stop))
        return field(1, resource + field(2, SCOPE + self.data[first:last]))


def encode(batch: Batch, now_ns: int) -> Logs:
    """A record a row; what has no time of receipt was observed now."""
    pieces = [_encode(part, now_ns) for part in parts(batch)]
    lengths = [np.diff(piece.stops, prepend=0) for piece in pieces]
    stops = np.cumsum(np.concatenate(lengths), dtype=np.int64) if pieces else np.zeros(0, np.int64)
    return Logs(b"".join(piece.data for piece in pieces), stops)


def resource(values: Mapping[str, str]) -> bytes:
    """Who says all this: attributes with texts."""
    pairs = (field(1, field(1, name.encode()) + field(2, field(1, value.encode()))) for name, value in values.items())
    return field(1, b"".join(pairs))


def _encode(batch: Batch, now_ns: int) -> Logs:
    rows = len(batch)
    matrix = Marked(rows)
    matrix.constant(tag(2, _LENGTH))
    matrix.column(np.zeros(1, _PREFIX), np.zeros(1, _PREFIX))
    time = TIME.read(batch)
    if time is not None:
        _add_time(matrix, 1, time)
    for name, value in attributes(batch).items():
        _add(matrix, name.encode(), value)
    now = Value("number", np.full(rows, now_ns))
    observed = OBSERVED.read(batch)
    _add_time(matrix, 11, now if observed is None else observed.or_else(now))
    data, used, lengths = matrix.build()
    lengths -= np.uint32(1)
    prefix, used_of_prefix, counts = _varints(lengths)
    for buffer, column in ((data, prefix), (used, used_of_prefix)):
        np.ndarray((rows,), _PREFIX, buffer, 1, (matrix.width,))[:] = column
    return Logs(pack(data, used), np.cumsum(1 + counts + lengths, dtype=np.int64))


def _add_time(matrix: Marked, number: int, value: Value) -> None:
    start = matrix.width
    matrix.constant(tag(number, _FIXED64))
    matrix.column(distinct(value).astype("<u8"))
    if value.known is not None:
        matrix.erase(start, ~value.known)


def _add(matrix: Marked, name: bytes, value: Value) -> None:
    """An attribute: a length is known only when what it is the length of is."""
    kind, octets, used, lengths = _octets(value)
    sizes = []
    if kind == _STRING:
        sizes.append(lengths)
        lengths = lengths + _varints(lengths)[2]
    lengths = lengths + 1
    sizes.append(lengths)
    key = field(1, name)
    sizes.append(lengths + _varints(lengths)[2] + (len(key) + 1))
    start = matrix.width
    matrix.constant(tag(6, _LENGTH))
    _add_number(matrix, sizes.pop())
    matrix.constant(key + tag(2, _LENGTH))
    _add_number(matrix, sizes.pop())
    matrix.constant(kind)
    if sizes:
        _add_number(matrix, sizes.pop())
    matrix.column(octets, used)
    if value.known is not None:
        matrix.erase(start, ~value.known)


def _add_number(matrix: Marked, values: Array) -> None:
    octets, used, _ = _varints(values)
    matrix.column(octets, used)


def _octets(value: Value) -> tuple[bytes, Array, Array | None, Array]:
    """Tag, bytes, which of them are used (None for all) and how many, uint32: of each row, or of all alike (1,)."""
    data = distinct(value)
    match value.kind:
        case "number" if data.dtype.kind == "f":
            return _DOUBLE, data.astype("<f8"), None, np.full(1, 8, np.uint32)
        case "number":
            return _INT, *_varints(_int64(data))
        case "text":
            octets = text.utf8(data)
            lengths = np.strings.str_len(octets)
            used = first_bytes(lengths, octets.dtype.itemsize)
        case "code":
            table, table_lengths = label_table(value, data, str.encode)
            octets, lengths = table.take(data), table_lengths.take(data)
            used = first_bytes(table_lengths, table.dtype.itemsize).take(data)
        case "opaque":
            octets = np.array(plain(Value(value.kind, data)), "S")
            lengths = np.strings.str_len(octets)
            used = first_bytes(lengths, octets.dtype.itemsize)
        case _:
            octets = json_text(value)
            marks = octets.view(np.uint8).reshape(len(octets), -1) != 0
            used, lengths = marks.view(f"V{octets.dtype.itemsize}")[:, 0], marks.sum(axis=1)
    return _STRING, octets, used, lengths.astype(np.uint32)


def _int64(data: Array) -> Array:
    """Integers as protobuf's int64 has them: two's complement of 64 bits. There is none above 2^63 - 1."""
    if data.dtype.kind == "i":
        return data.astype(np.int64).view(np.uint64)
    return np.minimum(data, _GREATEST) if data.dtype == np.uint64 else data


def _varints(values: Array) -> tuple[Array, Array, Array]:
    """Varints as `protobuf.varints` writes them, but a 0 is written, too; and the bytes of each, uint32."""
    octets, used = varints(values)
    low, *high = (used[part] for part in used.dtype.names) if used.dtype.names else (used,)
    low |= low.dtype.type(1)
    counts = np.bitwise_count(low).astype(np.uint32)
    for word in high:
        counts += np.bitwise_count(word)
    return octets, used, counts


def tag(number: int, kind: int) -> bytes:
    """What stands before a value: its number and how it is written."""
    return varint(number << 3 | kind)


def field(number: int, data: bytes) -> bytes:
    """A message or text."""
    return b"".join((tag(number, _LENGTH), varint(len(data)), data))


SCOPE = field(1, field(1, b"flowagent") + field(2, __version__.encode()))
"""Who measures: the field of a ScopeLogs or ScopeMetrics."""
