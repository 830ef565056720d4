"""The output schemas, and the encoders that write rows in them.

    canonical  the columns, by their own names      JSON, MessagePack
    netobserv  the flows of NetObserv               JSON, MessagePack
    goflow2    the FlowMessage of goflow2           JSON, protobuf

docs/fields.md lists their fields.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from flowagent.batch import Batch
from flowagent.errors import ConfigError
from flowagent.export import goflow2, maps, netobserv, protobuf
from flowagent.export.encode import canonical, parts
from flowagent.export.encoder import Encoder
from flowagent.export.lines import json_lines
from flowagent.export.origins import Origin
from flowagent.export.value import Value
from flowagent.sections import did_you_mean

FORMATS = {"canonical": ("json", "msgpack"), "netobserv": ("json", "msgpack"), "goflow2": ("json", "protobuf")}
"""What each schema is written as; the first is the default."""


class Fields(NamedTuple):
    """What reads the fields of a schema, as its JSON has them, from a batch."""

    columns: frozenset[str] | None
    """The columns it may need; None for all there are."""
    read: Callable[[Batch], dict[str, Value]]
    """Those that any row has, in their order."""


def encoder(schema: str, format: str = "json", *, without: Collection[str] = (), path: str = "") -> Encoder:  # noqa: A002
    """The encoder of a schema in a format; raises ConfigError where there is none.

    Fields named in `without` are left out of messages, as a sink may say them
    elsewhere. `path` is where the settings `schema` and `format` stand.
    """
    place = f"{path}." if path else ""
    if schema not in FORMATS:
        raise ConfigError(
            f"{place}schema",
            f"{schema!r} is not a schema{did_you_mean(schema, list(FORMATS))}; one of {', '.join(FORMATS)}",
        )
    known = FORMATS[schema]
    if format not in known:
        raise ConfigError(f"{place}format", f"{schema} is not written as {format!r}; one of {', '.join(known)}")
    if format == "protobuf":
        return ProtobufEncoder(without)
    return (JsonEncoder if format == "json" else MsgpackEncoder)(schema, without)


def fields_of(schema: str) -> Fields:
    """The fields of a schema."""
    if schema == "canonical":
        return Fields(None, canonical)
    if schema == "netobserv":
        return _table({field.name: field.origin for field in netobserv.FIELDS.values()})
    return _table({field.name: field.shown or field.origin for field in goflow2.FIELDS})


def _table(origins: dict[str, Origin]) -> Fields:
    def read(batch: Batch) -> dict[str, Value]:
        found = {}
        for name, origin in origins.items():
            value = origin.read(batch)
            if value is not None and (value.known is None or bool(value.known.any())):
                found[name] = value
        return found

    return Fields(frozenset(name for origin in origins.values() for name in origin.columns), read)


class _FieldsEncoder:
    """What JSON and MessagePack have in common."""

    def __init__(self, schema: str, without: Collection[str] = ()) -> None:
        self.schema = schema
        self.columns, self._read = fields_of(schema)
        self._without = frozenset(without)

    def _parts(self, batch: Batch) -> Iterator[tuple[list[tuple[str, Value]], int]]:
        """The fields of some rows at a time, and how many these are."""
        for part in parts(batch):
            yield [(name, value) for name, value in self._read(part).items() if name not in self._without], len(part)


class JsonEncoder(_FieldsEncoder):
    """An object of JSON a row."""

    content_type = "application/json"

    def messages(self, batch: Batch) -> list[bytes]:
        """One object a row, without a newline."""
        return self.joined(batch).split(b"\n")[:-1]

    def joined(self, batch: Batch) -> bytes:
        """Lines, each ended by a newline."""
        return b"".join(json_lines(fields, rows) for fields, rows in self._parts(batch))


class MsgpackEncoder(_FieldsEncoder):
    """A map of MessagePack a row."""

    content_type = "application/vnd.msgpack"

    def messages(self, batch: Batch) -> list[bytes]:
        """One map a row."""
        return [message for fields, rows in self._parts(batch) for message in maps.messages(fields, rows)]

    def joined(self, batch: Batch) -> bytes:
        """The maps one after the other."""
        return b"".join(self.messages(batch))


class ProtobufEncoder:
    """A FlowMessage of goflow2 a row."""

    schema = "goflow2"
    content_type = "application/protobuf"

    def __init__(self, without: Collection[str] = ()) -> None:
        wanted = [field for field in goflow2.FIELDS if field.name not in without]
        self.columns: frozenset[str] | None = frozenset(name for field in wanted for name in field.origin.columns)
        self._fields = sorted(wanted, key=lambda field: field.number)

    def messages(self, batch: Batch) -> list[bytes]:
        """One message a row, without its length."""
        return [message for encoded in self._encoded(batch) for message in encoded.messages()]

    def delimited(self, batch: Batch) -> list[bytes]:
        """One message a row after its length as a varint: what goflow2 puts into each message of Kafka."""
        return [message for encoded in self._encoded(batch) for message in encoded.delimited()]

    def joined(self, batch: Batch) -> bytes:
        """The messages, each after its length."""
        return b"".join(encoded.data for encoded in self._encoded(batch))

    def _encoded(self, batch: Batch) -> Iterator[protobuf.Messages]:
        for part in parts(batch):
            values = ((field, field.origin.read(part)) for field in self._fields)
            present = [protobuf.Field(field.number, field.type, value) for field, value in values if value is not None]
            yield protobuf.encode(present, len(part))
