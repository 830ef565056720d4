"""Protobuf, read column by column: what Google's library writes, in any order, and damage of every kind."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.ingest.protobuf import BYTES, FIXED32, FIXED64, MAX_FIELDS, VARINT, Buffer, Messages, delimited


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number, wire_type, value):
    head = varint(number << 3 | wire_type)
    if wire_type == VARINT:
        return head + varint(value)
    if wire_type == BYTES:
        return head + varint(len(value)) + value
    return head + value.to_bytes(8 if wire_type == FIXED64 else 4, "little")


numbers = st.sampled_from([1, 2, 15, 16, 100, 1000, 2047, 2048, 2**29 - 1]) | st.integers(1, 3000)
fields = st.one_of(
    st.tuples(numbers, st.just(VARINT), st.integers(0, 2**64 - 1) | st.sampled_from([2**k for k in range(64)])),
    st.tuples(numbers, st.just(BYTES), st.binary(max_size=20)),
    st.tuples(numbers, st.just(FIXED64), st.integers(0, 2**64 - 1)),
    st.tuples(numbers, st.just(FIXED32), st.integers(0, 2**32 - 1)),
)


def places(messages):
    lengths = np.array(list(map(len, messages)), np.int64)
    ends = np.cumsum(lengths)
    return Buffer(b"".join(messages)), ends - lengths, ends


def walked(messages, known=range(1, 2048)):
    """{row: [fields]} and which messages are bad."""
    buffer, starts, ends = places(messages)
    found = defaultdict(list)
    walk = Messages(buffer, starts, ends)
    for one in walk.fields(known):
        for i, row in enumerate(one.rows.tolist()):
            value = int(one.values[i])
            if one.wire_type == BYTES:
                value = buffer.data[value : value + int(one.lengths[i])].tobytes()
            found[row].append((one.number, one.wire_type, value))
    return found, walk.bad.tolist()


@given(st.lists(st.lists(fields, max_size=12), max_size=8))
def test_every_field_of_every_message_is_read_in_its_order(messages):
    found, bad = walked([b"".join(field(*one) for one in message) for message in messages])
    assert not any(bad)
    for row, message in enumerate(messages):
        assert found[row] == [one for one in message if one[0] < 2048]


@given(st.lists(st.binary(max_size=60), max_size=20), st.lists(fields, max_size=5))
def test_damage_costs_its_own_message_only(noise, message):
    whole = b"".join(field(*one) for one in message)
    found, bad = walked([*noise, whole, *noise])
    assert not bad[len(noise)]
    assert found[len(noise)] == [one for one in message if one[0] < 2048]


@pytest.mark.parametrize(
    "damage",
    [b"\x08", b"\x08\x80", b"\x0a\x05abc", b"\x09\x01", b"\x0d\x01", b"\x0b", b"\x0c", b"\x00\x01", b"\x0e\x01",
     b"\x08" + b"\x80" * 10 + b"\x01", b"\x08" + b"\xff" * 9 + b"\x02", b"\x80" * 5 + b"\x10\x01",
     b"\x0a" + b"\xff" * 9 + b"\x01"],
)  # fmt: skip
def test_what_is_damaged_is_said(damage):
    good = field(2, VARINT, 7)
    found, bad = walked([good, damage, good])
    assert bad == [False, True, False]
    assert found[0] == found[2] == [(2, VARINT, 7)]


def test_one_with_too_many_fields_is_refused():
    enough = field(1, VARINT, 1) * MAX_FIELDS
    found, bad = walked([enough, enough + field(1, VARINT, 1)])
    assert bad == [False, True]
    assert len(found[0]) == MAX_FIELDS


def test_fields_that_nobody_wants_are_skipped():
    found, bad = walked([field(5, BYTES, b"x" * 300) + field(6, FIXED32, 1) + field(7, VARINT, 3)], known={7})
    assert found[0] == [(7, VARINT, 3)]
    assert bad == [False]


@given(st.lists(st.lists(st.binary(max_size=200), max_size=40), min_size=1, max_size=40))
def test_delimited_messages_are_found_in_their_order(chunks):
    buffer, starts, ends = places([b"".join(varint(len(m)) + m for m in messages) for messages in chunks])
    origin, begins, stops, bad = delimited(buffer, starts, ends)
    assert not bad.any()
    found = [(o, buffer.data[a:b].tobytes()) for o, a, b in zip(origin.tolist(), begins, stops, strict=True)]
    assert found == [(i, message) for i, messages in enumerate(chunks) for message in messages]


@pytest.mark.parametrize("others", [0, 40])
@pytest.mark.parametrize("rest", [b"\x05abc", b"\x80", b"\xff" * 11])
def test_what_stands_before_a_cut_is_read(others, rest):
    good = b"\x02ab"
    buffer, starts, ends = places([good * 3 + rest, *[good * 3] * others])
    origin, begins, _, bad = delimited(buffer, starts, ends)
    assert bad.tolist() == [True, *[False] * others]
    assert np.bincount(origin).tolist() == [3] * (others + 1)
    assert len(begins) == 3 * (others + 1)
