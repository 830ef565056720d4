"""Columns as text."""

import ipaddress
import json

import numpy as np
import pytest
from drawn import V4, addresses, integers, ip, mac_text, texts
from hypothesis import given
from hypothesis import strategies as st

from flowagent.export import text


def bare(array):
    """The texts, without NULs, in the order of rows."""
    width = array.dtype.itemsize
    data = array.tobytes()
    return [data[i : i + width].replace(b"\0", b"").decode() for i in range(0, len(data), width)]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_integers_of_every_length(dtype):
    info = np.iinfo(dtype)
    numbers = {0, 1, 9, int(info.min), int(info.max)}
    for digits in range(1, 20):
        numbers |= {n for n in (10**digits - 1, 10**digits, 10**digits + 1) if n <= info.max}
    assert bare(text.numbers(np.array(sorted(numbers), dtype))) == [str(n) for n in sorted(numbers)]
    for n in numbers:
        assert bare(text.numbers(np.array([n], dtype))) == [str(n)]


@given(st.sampled_from(["u1", "u2", "u4", "u8", "i8"]).flatmap(lambda d: st.tuples(st.just(d), st.lists(integers(d)))))
def test_any_integers(drawn):
    dtype, numbers = drawn
    assert bare(text.numbers(np.array(numbers, dtype))) == [str(n) for n in numbers]


def test_floats_are_the_shortest_that_read_back():
    values = [0.1, 1e300, 5e-324, -2.5, 3.0, 1 / 3]
    assert [float(t) for t in bare(text.numbers(np.array(values)))] == values
    assert bare(text.numbers(np.array([0.1, np.nan, np.inf]))) == ["0.1", "null", "null"]


def test_truth_values():
    assert bare(text.numbers(np.array([True, False]))) == ["true", "false"]


@given(st.lists(st.integers(0, 2**48 - 1)))
def test_mac_addresses(values):
    assert bare(text.macs(np.array(values, "u8"))) == [mac_text(v) for v in values]
    assert bare(text.macs(np.array(values, "u8"), upper=True)) == [mac_text(v).upper() for v in values]


@given(st.lists(addresses, min_size=1))
def test_addresses(values):
    found = bare(text.addresses(np.array(values, "u8").T))
    assert [ipaddress.ip_address(written) for written in found] == [ip(value) for value in values]
    assert found == [text.address(*value) for value in values]


@pytest.mark.parametrize(
    ("value", "length", "prefix"),
    [
        ((0, V4 | 0xC0A8_0123), 24, "192.168.1.0/24"),
        ((0, V4 | 0xC0A8_0123), 0, "0.0.0.0/0"),
        ((0, V4 | 0xC0A8_0123), 32, "192.168.1.35/32"),
        ((0x20010DB8_00010002, 0x00030004_00050006), 0, "::/0"),
        ((0x20010DB8_00010002, 0x00030004_00050006), 33, "2001:db8::/33"),
        ((0x20010DB8_00010002, 0x00030004_00050006), 64, "2001:db8:1:2::/64"),
        ((0x20010DB8_00010002, 0x00030004_00050006), 65, "2001:db8:1:2::/65"),
        ((0x20010DB8_00010002, 0x00030004_00050006), 128, "2001:db8:1:2:3:4:5:6/128"),
    ],
)
def test_prefixes(value, length, prefix):
    assert bare(text.prefixes(np.array([[*value, length]], "u8").T)) == [prefix]


@given(st.lists(texts, min_size=1))
def test_strings_are_escaped_and_nothing_of_them_is_lost(values):
    found = bare(text.strings(np.array(values, "S12")))
    stored = [value.rstrip(b"\0").decode("utf-8", "replace") for value in values]
    assert [json.loads(f'"{one}"') for one in found] == stored
    assert text.plain(np.array(values, "S12")) == stored


@pytest.mark.parametrize("value", [b'"', b"\\", b"\n", b"\x1f", b"\x7f", b"\x80", b"\0x", b"x\0y", "ü".encode(), b" ~"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_odd_string_among_plain_ones(value, place):
    values = [b"plain", b"fits-whole-", b""]
    values[place] = value
    found = bare(text.strings(np.array(values, "S11")))
    assert [json.loads(f'"{one}"') for one in found] == [v.decode("utf-8", "replace") for v in values]


def test_wide_columns_of_short_strings_get_narrow():
    assert text.strings(np.array([b"abc", b"d"], "S250")).dtype.itemsize <= 4


@given(st.lists(texts, min_size=1))
def test_utf8(values):
    found = text.utf8(np.array(values, "S12")).tolist()
    assert found == [value.rstrip(b"\0").decode("utf-8", "replace").encode() for value in values]


@given(st.lists(texts, min_size=2))
def test_words_tell_strings_apart(values):
    array = np.array(values, "S12")
    words = list(zip(*(word.tolist() for word in text.words(array)), strict=True))
    stored = array.tolist()
    for i in range(1, len(values)):
        assert (words[i] == words[0]) == (stored[i] == stored[0])
