"""Converters: every type, in every length it may have, many records at a time."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.addresses import address_text
from flowagent.ingest import fields as f

EXPORT_NS = 1_700_000_000_000_000_000
HEAD = f.Head(np.array([[EXPORT_NS]]))
NTP_1970 = 2_208_988_800


def read(convert, *items, head=HEAD):
    """Convert fields of equal length, one a record of one set; None where a value is unknown."""
    raw = np.frombuffer(b"".join(items), np.uint8).reshape(1, len(items), len(items[0]))
    values = convert(raw, head)
    known = values.known if values.known is not None else [True] * len(items)
    return [v if k else None for v, k in zip(values.data.tolist(), known, strict=True)]


@given(st.integers(1, 8), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_unsigned_of_every_length(length, numbers):
    numbers = [n % 256**length for n in numbers]
    assert read(f.unsigned("u8"), *(n.to_bytes(length, "big") for n in numbers)) == numbers


@given(st.integers(1, 8), st.integers(0, 2**64 - 1))
def test_signed_of_every_length(length, number):
    raw = (number % 256**length).to_bytes(length, "big")
    assert read(f.signed, raw) == [int.from_bytes(raw, "big", signed=True)]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_a_number_too_large_for_its_column_is_unknown(dtype):
    top = np.iinfo(dtype).max
    fields = [n.to_bytes(8, "big") for n in (top, top + 1, 0, 2**64 - 1)]
    assert read(f.unsigned(dtype), *fields) == [top, None, 0, None]


def test_a_number_that_fits_needs_no_mask():
    values = f.unsigned("u2")(np.array([[[0, 0, 0, 9]]], np.uint8), HEAD)
    assert values.known is None
    assert values.data.dtype == np.uint16


def test_floats():
    assert read(f.floating, struct.pack("!f", 1.5)) == [1.5]
    assert read(f.floating, struct.pack("!d", -2.25), struct.pack("!d", 1e300)) == [-2.25, 1e300]


def test_a_signalling_nan_is_a_nan():
    (value,) = read(f.floating, b"\x7f\xa0\x00\x00")
    assert np.isnan(value)


def test_addresses():
    raw = np.frombuffer(bytes([192, 0, 2, 1, 198, 51, 100, 7]), np.uint8).reshape(1, 2, 4)
    assert [address_text(*words) for words in f.address(raw, HEAD).data.T.tolist()] == ["192.0.2.1", "198.51.100.7"]
    raw = np.frombuffer(bytes.fromhex("20010db8000000000000000000000001"), np.uint8).reshape(1, 1, 16)
    assert [address_text(*words) for words in f.address(raw, HEAD).data.T.tolist()] == ["2001:db8::1"]


def test_text_ends_at_its_padding():
    assert read(f.text, b"eth0\0\0", b"a\0b\0\0\0", b"\0\0\0\0\0\0") == [b"eth0", b"a\0b", b""]


def test_text_is_cut_to_a_bounded_width():
    assert read(f.text, b"x" * 60000) == [b"x" * f.MAX_TEXT]


def test_opaque_bytes_stay_as_they_are():
    assert read(f.opaque, b"\0\1\0", b"abc") == [b"\0\1\0", b"abc"]


def test_mpls_label_leaves_out_the_other_bits():
    assert read(f.mpls_label, bytes.fromhex("12345f"), bytes.fromhex("fffff0")) == [0x12345, 0xFFFFF]
    assert read(f.mpls_label, bytes.fromhex("00064140")) == [100]


def test_seconds_and_milliseconds():
    assert read(f.seconds, struct.pack("!I", 1_700_000_000)) == [EXPORT_NS]
    assert read(f.milliseconds, struct.pack("!Q", 1_700_000_000_123)) == [EXPORT_NS + 123_000_000]


def test_a_time_past_2262_is_unknown():
    assert read(f.milliseconds, struct.pack("!Q", 2**63 // 10**6 + 1), struct.pack("!Q", 1)) == [None, 1_000_000]
    assert read(f.seconds, struct.pack("!Q", 2**64 - 1)) == [None]


@pytest.mark.parametrize(
    ("convert", "fraction", "ns"),
    [
        (f.ntp_nanoseconds, 0x8000_0000, 500_000_000),
        (f.ntp_nanoseconds, 1 << 31 | 5, 500_000_001),
        (f.ntp_microseconds, 0x8000_0000, 500_000_000),
        (f.ntp_microseconds, 0x8000_07FF, 500_000_000),
        (f.ntp_nanoseconds, 0xFFFF_FFFF, 999_999_999),
    ],
)
def test_ntp_times(convert, fraction, ns):
    assert read(convert, struct.pack("!II", 1_700_000_000 + NTP_1970 & 0xFFFFFFFF, fraction)) == [EXPORT_NS + ns]


def test_ntp_times_of_16_bytes_are_unix_seconds_and_microseconds():
    field = struct.pack("!QQ", 1_700_000_000, 123_456)
    assert read(f.ntp_microseconds, field) == [EXPORT_NS + 123_456_000]


def test_ntp_times_of_other_lengths_are_seconds():
    assert read(f.ntp_nanoseconds, struct.pack("!I", 1_700_000_000)) == [EXPORT_NS]


@pytest.mark.parametrize("size", ["!I", "!Q"])
def test_delta_microseconds_count_back_from_the_export(size):
    assert read(f.delta_microseconds, struct.pack(size, 1_500_000)) == [EXPORT_NS - 1_500_000_000]


@pytest.mark.parametrize(
    ("uptime", "then", "ago_ms"),
    [(5000, 3000, 2000), (5000, 5000, 0), (1000, 2**32 - 1000, 2000), (1000, 1500, -500), (2**32 - 1, 0, 2**32 - 1)],
)
def test_uptimes_are_relative_to_the_header_and_wrap(uptime, then, ago_ms):
    if ago_ms > 0xF000_0000:
        ago_ms -= 2**32  # so long ago that it is rather a moment ahead
    head = f.Head(np.array([[EXPORT_NS]]), np.array([[uptime]]))
    assert read(f.uptime, struct.pack("!I", then), head=head) == [EXPORT_NS - ago_ms * 10**6]


def test_uptimes_without_a_header_need_the_boot_time():
    raw = np.frombuffer(struct.pack("!I", 1234), np.uint8).reshape(1, 1, 4)
    assert f.uptime(raw, HEAD) is None
    booted = f.Head(HEAD.export_ns, None, EXPORT_NS)
    assert read(f.uptime, struct.pack("!I", 1234), head=booted) == [EXPORT_NS + 1_234_000_000]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("unsigned32", (1, 2, 3, 4, 5, 6, 7, 8), (9, 16, 65535)),
        ("signed16", (1, 2, 8), (9,)),
        ("boolean", (1,), (20,)),
        ("float64", (4, 8), (1, 2, 3, 5, 16)),
        ("ipv4Address", (4, 16), (1, 5, 8, 17)),
        ("macAddress", (6,), (1, 5, 7, 8)),
        ("dateTimeSeconds", (4, 8), (16, 9)),
        ("dateTimeMilliseconds", (8,), (16,)),
        ("dateTimeMicroseconds", (4, 8, 16), (9, 15, 17)),
        ("string", (1, 300), ()),
        ("octetArray", (1, 3, 300), ()),
        ("unsigned256", (1, 32), ()),
        ("basicList", (1, 70), ()),
    ],
)
def test_a_field_of_a_senseless_length_has_no_converter(kind, right, wrong):
    for length in right:
        assert f.converter(kind, length)(np.zeros((1, 1, length), np.uint8), HEAD) is not None
    assert [f.converter(kind, length) for length in wrong] == [None] * len(wrong)


def test_several_sets_keep_their_own_header():
    head = f.Head(np.array([[0], [10**12]]))
    raw = np.zeros((2, 3, 4), np.uint8)
    raw[..., 3] = 1
    assert f.delta_microseconds(raw, head).data.tolist() == [-1000] * 3 + [10**12 - 1000] * 3
