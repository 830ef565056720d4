"""Encoders of all schemas and formats."""

import json

import msgspec
import numpy as np
import pytest
from drawn import batches
from hypothesis import given
from hypothesis import strategies as st
from protobuf_class import message_class

from flowagent.batch import Batch, constant
from flowagent.errors import ConfigError
from flowagent.export.encode import json_lines
from flowagent.export.schemas import FORMATS, encoder, fields_of

V4 = 0xFFFF_0000_0000
ALL = [(schema, format_) for schema, formats in FORMATS.items() for format_ in formats]
every_encoder = pytest.mark.parametrize(("schema", "format_"), ALL)
COLUMNS = (
    "src_addr",
    "bytes",
    "packets",
    "proto",
    "tcp_flags",
    "in_if",
    "start_ns",
    "interfaceName",
    "src_mac",
    "exporter",
)


def batch_of(n=3):
    return Batch(
        {
            "src_addr": np.array([(0, V4 | i) for i in range(n)], "u8").reshape(n, 2).T,
            "bytes": np.arange(n, dtype="u8") * 1000,
            "proto": constant(6, n, "u1"),
            "tcp_flags": np.arange(n).astype("u2"),
        },
        valid={"bytes": np.arange(n) % 3 > 0},
    )


def test_what_there_is():
    assert FORMATS == {
        "canonical": ("json", "msgpack"),
        "netobserv": ("json", "msgpack"),
        "goflow2": ("json", "protobuf"),
    }


@pytest.mark.parametrize(
    ("schema", "format_", "message"),
    [
        ("netobserve", "json", "sinks.kafka.schema: 'netobserve' is not a schema; did you mean netobserv?; one of "),
        ("canonical", "protobuf", "sinks.kafka.format: canonical is not written as 'protobuf'; one of json, msgpack"),
        ("netobserv", "protobuf", "sinks.kafka.format: netobserv is not written as 'protobuf'; one of json, msgpack"),
        ("goflow2", "msgpack", "sinks.kafka.format: goflow2 is not written as 'msgpack'; one of json, protobuf"),
    ],
)
def test_what_there_is_not(schema, format_, message):
    with pytest.raises(ConfigError) as caught:
        encoder(schema, format_, path="sinks.kafka")
    assert str(caught.value).startswith(message)


def test_without_a_path_the_setting_alone_is_named():
    with pytest.raises(ConfigError) as caught:
        encoder("x")
    assert caught.value.path == "schema"


@every_encoder
def test_says_what_it_is(schema, format_):
    made = encoder(schema, format_)
    types = {"json": "application/json", "msgpack": "application/vnd.msgpack", "protobuf": "application/protobuf"}
    assert (made.schema, made.content_type) == (schema, types[format_])
    assert (made.columns is None) == (schema == "canonical")


def unpacked(format_, messages):
    if format_ == "json":
        return [json.loads(message) for message in messages]
    if format_ == "msgpack":
        return [msgspec.msgpack.decode(message) for message in messages]
    return messages


@every_encoder
def test_many_rows_are_written_like_few(schema, format_):
    # Other code, and several parts.
    made, few = encoder(schema, format_), batch_of(7)
    many = few.take(np.arange(20_003) % 7)
    expected = unpacked(format_, made.messages(few))
    found = unpacked(format_, made.messages(many))
    assert len(found) == 20_003
    assert all(found[i] == expected[i % 7] for i in range(len(found)))


@every_encoder
@given(st.data())
def test_joined_is_all_messages(schema, format_, data):
    batch, _ = data.draw(batches(COLUMNS))
    made = encoder(schema, format_)
    messages, joined = made.messages(batch), made.joined(batch)
    assert len(messages) == len(batch)
    assert isinstance(joined, bytes)
    if format_ == "json":
        assert joined == b"".join(message + b"\n" for message in messages)
    elif format_ == "msgpack":
        assert joined == b"".join(messages)
    else:
        assert joined == b"".join(made.delimited(batch))
        assert all(one.endswith(message) for one, message in zip(made.delimited(batch), messages, strict=True))


@every_encoder
def test_nothing_is_nothing(schema, format_):
    made = encoder(schema, format_)
    for batch in (Batch({}), batch_of(0)):
        assert (made.messages(batch), made.joined(batch)) == ([], b"")


@every_encoder
def test_rows_of_which_nothing_is_known(schema, format_):
    batch = Batch({"bytes": np.zeros(2, "u8")}, valid={"bytes": np.zeros(2, "?")})
    empty = {"json": b"{}", "msgpack": b"\x80", "protobuf": b""}[format_]
    assert encoder(schema, format_).messages(batch) == [empty] * 2


@every_encoder
def test_a_batch_is_not_changed_and_may_be_frozen(schema, format_):
    batch = batch_of(600)
    before = {name: values.copy() for name, values in batch.columns.items()}
    for values in (*batch.columns.values(), *batch.valid.values()):
        values.flags.writeable = False
    encoder(schema, format_).joined(batch)
    assert all((batch[name] == values).all() for name, values in before.items())


def test_canonical_lines_are_those_of_the_file_sink():
    assert encoder("canonical").joined(batch_of()) == json_lines(batch_of())


@pytest.mark.parametrize("format_", ["json", "msgpack"])
def test_fields_that_are_said_elsewhere_can_be_left_out(format_):
    whole, made = encoder("netobserv", format_), encoder("netobserv", format_, without=("Proto", "Flags"))
    expected = [
        {k: v for k, v in row.items() if k not in ("Proto", "Flags")}
        for row in unpacked(format_, whole.messages(batch_of()))
    ]
    assert unpacked(format_, made.messages(batch_of())) == expected


def test_fields_left_out_of_protobuf():
    cls = message_class({"bytes": (9, "uint64"), "proto": (20, "uint32")})
    messages = encoder("goflow2", "protobuf", without=("proto", "src_addr", "etype", "tcp_flags")).messages(batch_of())
    assert messages == [cls(bytes=n).SerializeToString() for n in (0, 1000, 2000)]


def test_the_fields_of_a_schema():
    fields = fields_of("netobserv")
    assert list(fields.read(batch_of())) == ["SrcAddr", "Proto", "Flags", "Bytes", "Etype"]
    assert "tcp_flags" in fields.columns
    unknown = Batch(batch_of().columns, valid={"tcp_flags": np.zeros(3, "?")})
    assert list(fields.read(unknown)) == ["SrcAddr", "Proto", "Bytes", "Etype"]
    assert fields_of("canonical").columns is None
    assert list(fields_of("goflow2").read(batch_of())) == ["bytes", "src_addr", "etype", "proto", "tcp_flags"]
