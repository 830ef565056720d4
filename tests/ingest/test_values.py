"""Values as rows print them, back into columns: what is unknown, what is wrong, and that the rest stays."""

import numpy as np
import pytest

from flowagent.addresses import address_words
from flowagent.ingest.values import Values, batch_of
from flowagent.literals import WrongError
from flowagent.schema import EXPORT_PROTOCOLS

ALL = 2**64 - 1


def test_addresses_are_two_words():
    texts = ["192.0.2.1", "2001:db8::1", "192.0.2.1", "::", "::ffff:192.0.2.1", None]
    read = Values("src_addr").of_texts(texts)
    expected = [address_words(text or "::") for text in texts]
    assert read.values.dtype == np.uint64
    assert read.values.T.tolist() == [list(words) for words in expected]
    assert read.known.tolist() == [True] * 5 + [False]
    assert read.wrong == {}


@pytest.mark.parametrize(
    "text", ["", "192.0.2", "192.0.2.256", "192.0.2.1/32", "fe80::1%eth0", "2001:db8", "1::2::3", "\0", "x" * 1000]
)
def test_what_is_no_address(text):
    read = Values("exporter").of_texts(["192.0.2.1", text, "192.0.2.2", text])
    assert list(read.wrong) == [1, 3]
    assert read.wrong[1] == f"exporter: {text[:80]!r} is not an address"
    assert read.values[1, [0, 2]].tolist() == [0xFFFF_C000_0201, 0xFFFF_C000_0202]


def test_mac_addresses():
    read = Values("src_mac").of_texts(["02:00:5e:00:00:0A", None, "ff:ff:ff:ff:ff:ff", "02005e00000a", "1:2:3:4:5:6"])
    assert read.values.tolist() == [0x02005E00000A, 0, 2**48 - 1, 0, 0]
    assert read.known.tolist() == [True, False, True, True, True]
    assert read.wrong[3] == "src_mac: '02005e00000a' is not a MAC address with colons"
    assert sorted(read.wrong) == [3, 4]


def test_labels():
    read = Values("export_protocol").of_texts([*EXPORT_PROTOCOLS, None, "ipfx"])
    assert read.values.dtype == np.uint8
    assert read.values.tolist() == [*range(len(EXPORT_PROTOCOLS)), 0, 0]
    assert read.wrong == {8: f"export_protocol: 'ipfx' is not one of {', '.join(EXPORT_PROTOCOLS)}"}


@pytest.mark.parametrize(
    ("name", "dtype", "least", "most"),
    [
        ("proto", "u1", 0, 255),
        ("dst_port", "u2", 0, 65535),
        ("in_if", "u4", 0, 2**32 - 1),
        ("bytes", "u8", 0, ALL),
        ("start_ns", "i8", -(2**63), 2**63 - 1),
        ("forwardingStatus", "u8", 0, ALL),
        ("mibObjectValueInteger", "i8", -(2**63), 2**63 - 1),
    ],
)
def test_integers_up_to_both_ends(name, dtype, least, most):
    read = Values(name).of_numbers([least, most, None, 1, most + 1, least - 1])
    assert read.values.dtype == np.dtype(dtype)
    assert read.values.tolist() == [least, most, 0, 1, 0, 0]
    assert read.known.tolist() == [True, True, False, True, True, True]
    assert read.wrong == {row: f"{name}: {n} is not a number from {least} to {most}" for row, n in
                          ((4, most + 1), (5, least - 1))}  # fmt: skip


def test_floats():
    read = Values("sampling_rate").of_numbers([1, 2.5, None, float("nan"), 1e12, 0.5, 0, -1, float("inf"), 1e13])
    assert read.values.tolist() == [1, 2.5, 0, 0, 1e12, 0, 0, 0, 0, 0]
    assert read.known.tolist() == [True, True, False, False, *[True] * 6]
    assert sorted(read.wrong) == [5, 6, 7, 8, 9]
    assert read.wrong[5] == "sampling_rate: 0.5 is not a number from 1.0 to 1000000000000.0"


def test_a_probability_is_above_0_and_at_most_1():
    read = Values("inclusion_prob").of_numbers([1, 1e-9, 0, 1.01, -0.5])
    assert sorted(read.wrong) == [2, 3, 4]


def test_integers_among_floats():
    read = Values("bytes").of_array(np.array([1.0, np.nan, 1.5, -1.0, 2.0**63, 2.0**64]), np.ones(6, np.bool_))
    assert read.values.tolist() == [1, 0, 0, 0, 2**63, 0]
    assert read.known.tolist() == [True, False, True, True, True, True]
    assert sorted(read.wrong) == [2, 3, 5]


def test_numbers_of_what_rows_print_as_text():
    known = np.ones(3, np.bool_)
    addresses = Values("src_addr").of_array(np.array([0xC0000201, 2**32, 0]), known)
    assert addresses.values.T.tolist() == [list(address_words(a)) for a in ("192.0.2.1", "0.0.0.0", "0.0.0.0")]
    assert sorted(addresses.wrong) == [1]
    assert sorted(Values("export_protocol").of_array(np.array([0, 6, 7]), known).wrong) == [2]
    assert sorted(Values("src_mac").of_array(np.array([0, 2**48 - 1, 2**48]), known).wrong) == [2]


def test_nothing_at_all():
    assert Values("src_addr").of_texts([]).values.shape == (2, 0)
    assert Values("bytes").of_numbers([]).values.shape == (0,)


@pytest.mark.parametrize("name", ["nope", "interfaceName", "octetDeltaCount"])
def test_columns_that_there_are_not(name):
    with pytest.raises(WrongError):
        Values(name)


def test_a_batch_has_no_rows_with_wrong_values_and_no_unknown_columns():
    read = [
        ("proto", Values("proto").of_numbers([1, 300, 3, None, -1])),
        ("dst_port", Values("dst_port").of_numbers([None] * 5)),
        ("src_addr", Values("src_addr").of_texts(["10.0.0.1", "x", None, "x", "10.0.0.5"])),
    ]
    batch, wrong = batch_of(read, 5)
    assert list(wrong) == [1, 3, 4]
    assert len(batch) == 2
    assert set(batch.columns) == {"proto", "src_addr"}
    assert batch["proto"].tolist() == [1, 3]
    assert batch.is_known("src_addr").tolist() == [True, False]
