"""Where the values of fields come from."""

import math

import msgspec
import numpy as np
import pytest

from flowagent.batch import Batch, constant
from flowagent.export.origins import (
    ETHER_TYPE,
    NOT_NEGATIVE,
    NOT_ZERO,
    PROBABILITY,
    RATE,
    WEIGHT,
    address,
    column,
    of_protocols,
    text,
    weighted,
)
from flowagent.export.value import plain
from flowagent.schema import SAMPLING_SOURCES

V4 = 0xFFFF_0000_0000
U = msgspec.UNSET
PRESCALED, WIRE = SAMPLING_SOURCES.index("prescaled"), SAMPLING_SOURCES.index("wire")


def read(origin, columns, valid=None):
    """What an origin reads from columns, as Python objects."""
    value = origin.read(Batch(columns, valid={k: np.array(v) for k, v in (valid or {}).items()}))
    return None if value is None else plain(value)


def words(*pairs):
    return np.array(pairs, "u8").T


def test_a_column():
    assert read(column("bytes"), {"bytes": np.array([1, 2], "u8")}) == [1, 2]
    assert read(column("bytes"), {"bytes": np.array([1, 2], "u8")}, {"bytes": [True, False]}) == [1, U]
    assert read(column("bytes"), {"packets": np.array([1], "u8")}) is None
    assert column("bytes").columns == ("bytes",)


def test_mapped_labelled_listed():
    tos = np.array([4, 8], "u1")
    shifted = column("tos").map(lambda data: data >> 2)
    assert read(shifted, {"tos": tos}) == [1, 2]
    assert read(shifted.labelled(" ab".__getitem__), {"tos": tos}) == ["a", "b"]
    assert read(shifted.listed(), {"tos": tos}) == [[1], [2]]
    assert read(shifted, {"bytes": tos}) is None


def test_an_address_from_the_first_column_that_knows_it():
    both = address("a", "b")
    one, two = words((0, V4 | 1), (0, V4 | 2)), words((0, V4 | 3), (0, V4 | 4))
    assert read(both, {"a": one}) == ["0.0.0.1", "0.0.0.2"]
    assert read(both, {"b": two}) == ["0.0.0.3", "0.0.0.4"]
    assert read(both, {"a": one, "b": two}, {"a": [False, True]}) == ["0.0.0.3", "0.0.0.2"]
    assert read(both, {"a": one, "b": two}, {"a": [False, True], "b": [False, True]}) == [U, "0.0.0.2"]
    assert read(both, {}) is None
    assert both.columns == ("a", "b")


def test_text_where_it_is_not_empty():
    names = np.array([b"a", b"", b"c"])
    assert read(text("x"), {"x": names}) == ["a", U, "c"]
    assert read(text("x"), {"x": names}, {"x": [False, True, True]}) == [U, U, "c"]
    assert read(text("x"), {"x": constant(b"", 2, "S3")}) == [U, U]
    assert read(text("x"), {"x": words((0, V4 | 1))}) == ["0.0.0.1"]


def test_of_protocols():
    port = column("src_port").when(of_protocols(6, 17))
    ports = np.array([1, 2, 3], "u2")
    assert read(port, {"src_port": ports}) == [1, 2, 3]
    assert read(port, {"src_port": ports, "proto": np.array([6, 1, 17], "u1")}) == [1, U, 3]
    assert read(port, {"src_port": ports, "proto": np.array([6, 1, 17], "u1")}, {"proto": [True, False, True]}) == [
        1,
        2,
        3,
    ]
    assert read(port, {"src_port": ports, "proto": constant(1, 3, "u1")}) == [U, U, U]
    assert port.columns == ("src_port", "proto")


def test_not_zero_and_not_negative():
    assert read(column("a").when(NOT_ZERO), {"a": np.array([0, 1])}) == [U, 1]
    assert read(column("a").when(NOT_NEGATIVE), {"a": np.array([-1, 0])}) == [U, 0]
    zeros = words((0, V4), (0, 0), (0, V4 | 1), (1, 0), (0, 1), (1, V4))
    assert read(address("a").when(NOT_ZERO), {"a": zeros}) == [
        U,
        U,
        "0.0.0.1",
        "0:0:0:1::",
        "::1",
        "::1:0:ffff:0:0",
    ]


def test_the_ether_type_is_given_or_follows_from_an_address():
    v4, v6 = (0, V4 | 1), (1, 1)
    given = np.array([0x0806, 0, 0x8847], "u2")
    assert read(ETHER_TYPE, {"ether_type": given}) == [0x0806, U, 0x8847]
    assert read(ETHER_TYPE, {"ether_type": given, "src_addr": words(v4, v6, v4)}) == [0x0806, 0x86DD, 0x8847]
    assert read(ETHER_TYPE, {"dst_addr": words(v4, v6)}) == [0x0800, 0x86DD]
    assert read(ETHER_TYPE, {"src_addr": words(v4, v6), "dst_addr": words(v6, v6)}, {"src_addr": [True, False]}) == [
        0x0800,
        0x86DD,
    ]
    assert read(ETHER_TYPE, {}) is None


def test_the_rate_is_known_or_nothing_is_to_be_scaled():
    rates, sources = np.array([100.0, 0.0, 0.0]), np.array([WIRE, PRESCALED, 0], "u1")
    assert read(RATE, {"sampling_rate": rates}) == [100, U, U]
    assert read(
        RATE, {"sampling_rate": rates, "sampling_source": sources}, {"sampling_rate": [True, False, False]}
    ) == [
        100,
        1,
        U,
    ]
    assert read(RATE, {"sampling_source": sources}) == [U, 1, U]
    assert read(RATE, {"sampling_source": constant(PRESCALED, 2, "u1")}) == [1, 1]
    assert read(RATE, {"sampling_rate": np.array([1.5, 2.5, 1e30, math.nan])})[:2] == [2, 2]


def test_the_weight_of_a_row_that_was_sampled():
    probs, weights = np.array([0.5, 0.25]), np.array([2.0, 4.0])
    assert read(WEIGHT, {"weight": weights, "inclusion_prob": probs}) == [2.0, 4.0]
    assert read(WEIGHT, {"inclusion_prob": probs}) == [2.0, 4.0]
    assert read(WEIGHT, {"inclusion_prob": np.array([0.5, 0.0])}, {"inclusion_prob": [True, False]}) == [2.0, U]
    assert read(WEIGHT, {"bytes": np.array([1])}) is None
    assert read(PROBABILITY, {"inclusion_prob": probs}) == [0.5, 0.25]


def test_sums_of_rows_that_are_no_sample_are_as_they_are():
    sums = np.array([1, 2**64 - 1], "u8")
    assert read(weighted("bytes"), {"bytes": sums}) == [1, 2**64 - 1]
    assert read(weighted("bytes"), {"bytes": sums, "weight": np.ones(2)}) == [1, 2**64 - 1]
    known = {"weight": [False, False]}
    assert read(weighted("bytes"), {"bytes": sums, "weight": np.full(2, 9.0)}, known) == [1, 2**64 - 1]


def test_whole_products_are_exact_and_too_great_ones_bounded():
    columns = {"bytes": np.array([10, 7, 2**63, 0], "u8"), "weight": np.array([3.0, 2.0, 1e6, 5.0])}
    assert read(weighted("bytes"), columns) == [30, 14, 2**64 - 2048, 0]


def flows(n):
    rng = np.random.default_rng(1)
    return {
        "src_addr": rng.integers(0, 2**32, (2, n)).astype("u8"),
        "src_port": rng.integers(0, 2**16, n).astype("u2"),
        "packets": rng.integers(1, 4, n).astype("u8"),
        "weight": 1 / rng.uniform(0.3, 1, n),
    }


@pytest.mark.parametrize("part", [slice(None), slice(0, None, 2), slice(0, 20_000)])
def test_rounding_keeps_totals_right_on_average(part):
    columns = flows(40_000)
    rounded = np.array(read(weighted("packets"), columns))[part]
    exact = (columns["packets"] * columns["weight"])[part]
    fraction = exact - np.floor(exact)
    assert (np.abs(rounded - exact) < 1).all()
    z = (rounded - exact).sum() / math.sqrt((fraction * (1 - fraction)).sum())
    assert abs(z) < 4


def test_a_row_is_rounded_alike_whatever_is_around_it():
    columns = flows(100)
    whole = read(weighted("packets"), columns)
    some = read(weighted("packets"), {name: values[..., 40:60] for name, values in columns.items()})
    assert some == whole[40:60]
