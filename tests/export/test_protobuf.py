"""Messages of protobuf: the bytes are those that Google's library writes."""

import numpy as np
import pytest
from drawn import integers
from google.protobuf.internal.decoder import _DecodeVarint32
from hypothesis import given
from hypothesis import strategies as st
from protobuf_class import message_class

from flowagent.batch import constant
from flowagent.export.protobuf import Field, encode, varints
from flowagent.export.value import Value

V4 = 0xFFFF_0000_0000


def split(data):
    """The messages of a stream."""
    found, at = [], 0
    while at < len(data):
        length, at = _DecodeVarint32(data, at)
        found.append(data[at : at + length])
        at += length
    return found


FIELDS = {
    "flag": (1, "enum"), "small": (3, "uint32"), "large": (15, "uint64"), "far": (16, "uint32"),
    "labels": (81, "repeated uint32"), "weight": (1000, "double"), "last": (536_870_911, "uint64"),
}  # fmt: skip
Message = message_class(FIELDS)
DTYPES = {"flag": "u1", "small": "u4", "large": "u8", "far": "u2", "labels": "u4", "weight": "f8", "last": "u8"}


@given(st.data(), st.integers(1, 6))
def test_equals_the_bytes_of_the_library(data, n):
    fields, rows = [], [Message() for _ in range(n)]
    for name, (number, kind) in FIELDS.items():
        dtype = DTYPES[name]
        values = st.floats(0, 1e9) if dtype == "f8" else integers(dtype)
        drawn = data.draw(st.lists(values, min_size=n, max_size=n))
        known = data.draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
        value = Value("number", np.array(drawn, dtype), None if known is None else np.array(known))
        fields.append(Field(number, kind, value))
        for i, row in enumerate(rows):
            if known is None or known[i]:
                if kind.startswith("repeated"):
                    getattr(row, name).append(drawn[i])
                else:
                    setattr(row, name, drawn[i])
    found = encode(fields, n)
    assert found.messages() == [row.SerializeToString(deterministic=True) for row in rows]
    assert split(found.data) == found.messages()
    assert b"".join(found.delimited()) == found.data


@pytest.mark.parametrize("n", sorted({0, 1, 2**64 - 1, *(2**k + d for k in range(7, 64) for d in (-1, 0))}))
def test_varints_of_every_length(n):
    cls = message_class({"n": (1, "uint64")})
    for numbers in ([n], [n, 0, 1, n // 3], [n, 2**64 - 1], [n, 2**56]):
        found = encode([Field(1, "uint64", Value("number", np.array(numbers, "u8")))], len(numbers))
        assert found.messages() == [cls(n=number).SerializeToString() for number in numbers]


def test_the_bytes_of_varints_are_as_few_as_the_greatest_needs():
    sizes = {2**7 - 1: 1, 2**14 - 1: 2, 2**28 - 1: 4, 2**56 - 1: 8, 2**56: 10}
    assert {n: varints(np.array([0, n], "u8"))[0].dtype.itemsize for n in sizes} == sizes


def addresses(*words):
    return Value("addr", np.array(words, "u8").T)


def test_addresses_are_4_bytes_or_16():
    v4, v6 = (0, V4 | 0xC000_0201), (0x2001_0DB8 << 32, 1)
    packed4, packed6 = bytes([192, 0, 2, 1]), bytes.fromhex("20010db8000000000000000000000001")
    assert encode([Field(6, "bytes", addresses(v4, v4))], 2).messages() == [b"\x32\4" + packed4] * 2
    assert encode([Field(6, "bytes", addresses(v4, v6))], 2).messages() == [b"\x32\4" + packed4, b"\x32\x10" + packed6]
    zeros = encode([Field(6, "bytes", addresses((0, V4), (0, 0)))], 2).messages()
    assert zeros == [b"\x32\4" + bytes(4), b"\x32\x10" + bytes(16)]


def test_unknown_addresses_are_left_out():
    value = Value("addr", addresses((0, V4), (0, 0)).data, np.array([False, True]))
    assert encode([Field(6, "bytes", value)], 2).messages() == [b"", b"\x32\x10" + bytes(16)]


def test_what_all_rows_have():
    fields = [
        Field(1, "uint64", Value("number", constant(300, 3, "u8"))),
        Field(2, "uint64", Value("number", constant(0, 3, "u8"))),
        Field(3, "uint32", Value("number", constant(7, 3, "u8"), np.array([True, False, True]))),
    ]
    assert encode(fields, 3).messages() == [b"\x08\xac\x02\x18\x07", b"\x08\xac\x02", b"\x08\xac\x02\x18\x07"]


def test_what_does_not_fit_its_type_is_left_out():
    fields = [
        Field(1, "uint32", Value("number", np.array([2**32 - 1, 2**32], "u8"))),
        Field(2, "uint64", Value("number", np.array([-1, 5], "i8"))),
    ]
    assert encode(fields, 2).messages() == [b"\x08\xff\xff\xff\xff\x0f", b"\x10\x05"]


def test_long_messages_have_a_length_of_two_bytes():
    fields = [Field(n, "uint64", Value("number", np.array([2**64 - 1, 0], "u8"))) for n in range(1, 30)]
    long, short = split(encode(fields, 2).data)
    assert (len(long), short) == (15 * 11 + 14 * 12, b"")


def test_messages_without_fields():
    found = encode([], 2)
    assert (found.data, found.messages()) == (b"\0\0", [b"", b""])
