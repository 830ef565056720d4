"""Ranges as sets of numbers: against Python's own integers, whatever the way they are looked up."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.ranges import in_addresses, in_ranges, merged

ENDS = {"u1": (0, 255), "u2": (0, 65535), "u4": (0, 2**32 - 1), "u8": (0, 2**64 - 1), "i8": (-(2**63), 2**63 - 1)}


def pairs_of(numbers, max_size=100):
    return st.lists(st.tuples(numbers, numbers).map(sorted).map(tuple), min_size=1, max_size=max_size)


def near(pairs, least, most):
    """The ends of the ranges, their neighbours and the ends of all: where mistakes would show."""
    found = {v + d for pair in pairs for v in pair for d in (-1, 0, 1)} | {least, most}
    return sorted(v for v in found if least <= v <= most)


@given(st.data(), st.sampled_from(sorted(ENDS)))
def test_a_value_lies_in_the_ranges_or_not(data, dtype):
    least, most = ENDS[dtype]
    pairs = data.draw(pairs_of(st.sampled_from([least, most]) | st.integers(least, most)))
    values = near(pairs, least, most)
    found = in_ranges(merged(pairs), ENDS[dtype], np.dtype(dtype))(np.array(values, dtype))
    assert found.dtype == np.bool_
    assert found.tolist() == [any(first <= v <= last for first, last in pairs) for v in values]


@pytest.mark.parametrize("count", [1, 3, 5, 64, 65, 200])
@pytest.mark.parametrize("dtype", ["u2", "u4", "u8", "i8", "f8"])
@pytest.mark.parametrize("to_the_end", [False, True])
def test_however_many_ranges_there_are(count, dtype, to_the_end):
    ends = ENDS.get(dtype, (-math.inf, math.inf))
    pairs = [(10 * i, 10 * i + i % 3) for i in range(1, count + 1)]
    if to_the_end:
        pairs[-1] = (pairs[-1][0], ends[1])
    values = np.arange(0, 10 * count + 20).astype(dtype)
    found = in_ranges(pairs, ends, np.dtype(dtype))(values)
    assert found.tolist() == [any(first <= v <= last for first, last in pairs) for v in values.tolist()]


@pytest.mark.parametrize("count", [1, 65])
def test_nan_lies_in_no_range(count):
    pairs = [*((float(i), i + 0.5) for i in range(count - 1)), (1e9, math.inf)]
    match = in_ranges(pairs, (-math.inf, math.inf), np.dtype("f8"))
    assert match(np.array([math.nan, math.inf, 2e9])).tolist() == [False, True, True]


def test_large_integers_are_not_rounded():
    match = in_ranges([(2**63 + 1, 2**63 + 1)], ENDS["u8"], np.dtype("u8"))
    assert match(np.array([2**63, 2**63 + 1, 2**63 + 2], "u8")).tolist() == [False, True, False]


def test_ranges_are_merged_where_they_overlap_or_touch():
    assert merged([(443, 443), (80, 90), (91, 95), (85, 86), (97, 97)]) == [(80, 95), (97, 97), (443, 443)]


def test_ranges_of_fractions_do_not_touch():
    assert merged([(0.0, 1.0), (2.0, 3.0), (2.5, 4.0)]) == [(0.0, 1.0), (2.0, 4.0)]


word = st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
address = st.builds(lambda high, low: high << 64 | low, st.integers(0, 3) | word, word)


@given(pairs_of(address, max_size=8))
def test_an_address_lies_in_the_ranges_or_not(pairs):
    values = near(pairs, 0, 2**128 - 1)
    columns = np.array([[v >> 64 for v in values], [v & (2**64 - 1) for v in values]], "u8")
    found = in_addresses(merged(pairs))(columns)
    assert found.dtype == np.bool_
    assert found.tolist() == [any(first <= v <= last for first, last in pairs) for v in values]
