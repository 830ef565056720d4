"""MessagePack: the matrix says what msgspec says, in as few bytes."""

import msgspec
import numpy as np
import pytest
from drawn import batches, integers
from hypothesis import given
from hypothesis import strategies as st

from flowagent.export.encode import canonical
from flowagent.export.maps import encode, messages
from flowagent.export.structs import structs
from flowagent.export.value import Value

COLUMNS = (
    "src_addr", "exporter", "bytes", "start_ns", "proto", "tcp_flags", "src_mac", "export_protocol", "sampling_rate",
    "interfaceName", "interfaceName_2", "ipClassOfService",
)  # fmt: skip


def decoded(fields, rows):
    return [msgspec.msgpack.decode(message) for message in encode(fields, rows).messages()]


def reference(fields, rows):
    return [msgspec.msgpack.decode(msgspec.msgpack.encode(row)) for row in structs(fields, rows)]


@given(batches(COLUMNS))
def test_equals_the_maps_of_msgspec(drawn):
    batch, _ = drawn
    fields = list(canonical(batch).items())
    assert decoded(fields, len(batch)) == reference(fields, len(batch))


def one_field(value):
    """The bytes of each value of a field called x, without the map around it."""
    rows = value.data.shape[-1]
    return [message.removeprefix(b"\x81\xa1x") for message in encode([("x", value)], rows).messages()]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i2", "i8"])
@given(st.data())
def test_numbers_have_their_shortest_form(dtype, data):
    numbers = data.draw(st.lists(integers(dtype), min_size=1))
    assert one_field(Value("number", np.array(numbers, dtype))) == [msgspec.msgpack.encode(n) for n in numbers]


@pytest.mark.parametrize("n", [2**k + d for k in (7, 8, 15, 16, 31, 32, 63) for d in (-1, 0)] + [2**64 - 1])
def test_the_edges_of_forms(n):
    numbers = [0, 1, 127, 128, n]
    assert one_field(Value("number", np.array(numbers, "u8"))) == [msgspec.msgpack.encode(n) for n in numbers]


def test_the_edges_of_all_forms_at_once():
    numbers = [2**k + d for k in (7, 8, 15, 16, 31, 32, 63) for d in (-1, 0)] + [2**64 - 1]
    assert one_field(Value("number", np.array(numbers, "u8"))) == [msgspec.msgpack.encode(n) for n in numbers]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 255, 256, 300, 65_535])
def test_texts_of_every_length(length):
    texts = ["", "é", "x" * length]
    found = one_field(Value("text", np.array([text.encode() for text in texts])))
    assert found == [msgspec.msgpack.encode(text) for text in texts]


def test_text_keeps_nul_and_loses_what_is_not_utf8():
    found = one_field(Value("text", np.array([b"a\0b", b"\xff", b"c"])))
    assert found == [msgspec.msgpack.encode(text) for text in ("a\0b", "\ufffd", "c")]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 300])
def test_maps_of_every_size(count):
    known = np.array([True, False])
    fields = [(f"f{i}", Value("number", np.array([i, i]), known if i % 2 else None)) for i in range(count)]
    assert decoded(fields, 2) == reference(fields, 2)


def test_values_of_every_other_kind():
    fields = [
        ("floats", Value("number", np.array([0.5, -1e300]))),
        ("truth", Value("number", np.array([True, False]))),
        ("list", Value("number", np.array([7, 8]), is_list=True)),
        ("code", Value("code", np.array([1, 0], "u1"), label=[["a", 1], "\0"].__getitem__)),
        ("opaque", Value("opaque", np.array([b"\0\xff" * 40_000, b""], object))),
        ("prefix", Value("prefix", np.array([[0, 0xFFFF_0A00_0001, 8], [1, 2, 0]], "u8").T)),
    ]
    assert decoded(fields, 2) == reference(fields, 2)
    assert decoded(fields, 2)[0]["opaque"] == "00ff" * 40_000


@pytest.mark.parametrize("rows", [0, 1, 511, 512, 2000])
def test_few_rows_and_many_say_the_same(rows):
    numbers = np.arange(rows, dtype="u4") * 977
    fields = [("n", Value("number", numbers)), ("f", Value("number", numbers / 7, numbers % 3 > 0))]
    assert [msgspec.msgpack.decode(message) for message in messages(fields, rows)] == reference(fields, rows)
