"""The group-by: equal rows become neighbours, whatever their types, and two values never share a group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent import grouping
from flowagent.batch import constant
from flowagent.grouping import group_rows

DTYPES = ("?", "u1", "u2", "u4", "u8", "i8")


@st.composite
def columns(draw, max_rows=60):
    """Columns with few distinct values, so that groups form; some are broadcasts of one value."""
    n = draw(st.integers(0, max_rows))
    out = []
    for dtype in draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5)):
        if dtype == "?":
            value = st.booleans()
        else:
            info = np.iinfo(dtype)
            value = st.sampled_from(
                [0, 1, 2, int(info.max), int(info.max) - 1, int(info.min), int(info.max) // 2 + 1]
            ) | st.integers(int(info.min), int(info.max))
        if draw(st.booleans()):
            out.append(constant(draw(value), n, dtype))
        else:
            pool = draw(st.lists(value, min_size=1, max_size=3))
            out.append(np.array(draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n)), dtype))
    return out


def keys_of(arrays):
    return list(zip(*(a.tolist() for a in arrays), strict=True))


def found(arrays):
    """The groups as (key, rows), the key being that of every row."""
    groups = group_rows(arrays)
    keys = keys_of(arrays)
    out = []
    for part in np.split(groups.order, groups.starts[1:]) if len(groups.starts) else []:
        assert len({keys[i] for i in part.tolist()}) == 1
        out.append((keys[part[0]], part.tolist()))
    return out


@given(columns())
def test_equals_a_dict_of_lists(arrays):
    expected = {}
    for row, key in enumerate(keys_of(arrays)):
        expected.setdefault(key, []).append(row)
    groups = found(arrays)
    assert len(groups) == len(expected)
    assert dict(groups) == expected


@given(columns())
def test_first_and_sizes_follow_from_the_groups(arrays):
    groups = group_rows(arrays)
    parts = found(arrays)
    assert groups.first.tolist() == [rows[0] for _, rows in parts]
    assert groups.sizes().tolist() == [len(rows) for _, rows in parts]
    assert sorted(groups.order.tolist()) == list(range(len(arrays[0])))


@pytest.fixture
def colliding(monkeypatch):
    """Every row gets the same hash."""
    monkeypatch.setattr(grouping, "_MULTIPLIERS", np.zeros(64, np.uint64))


@pytest.mark.usefixtures("colliding")
def test_colliding_values_never_share_a_group():
    arrays = [np.array([7, 7, 8, 8, 7], "u8"), np.array([1, 1, 1, 2, 1], "u1")]
    assert found(arrays) == [((7, 1), [0, 1]), ((8, 1), [2]), ((8, 2), [3]), ((7, 1), [4])]


def test_random_colliding_values_never_share_a_group(colliding):
    # Hypothesis warns of fixtures that live longer than one example, so it runs inside.
    @given(columns())
    def check(arrays):
        rows = [row for _, part in found(arrays) for row in part]
        assert sorted(rows) == list(range(len(arrays[0])))

    check()


def test_no_rows():
    groups = group_rows([np.zeros(0, "u8")])
    assert (len(groups.order), len(groups.starts), len(groups.sizes())) == (0, 0, 0)


def test_one_row():
    assert found([np.array([5], "u4"), np.array([True])]) == [((5, True), [0])]


def test_only_constants_are_one_group():
    assert found([constant(3, 4, "u8"), np.array([9, 9, 9, 9])]) == [((3, 9), [0, 1, 2, 3])]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 255, 256, 257, 65536, 65537])
def test_row_numbers_fit_beside_the_hash_at_powers_of_two(n):
    values = np.arange(n, dtype="u8") % np.uint64(n - 1)
    groups = group_rows([values])
    assert len(groups.starts) == n - 1
    assert sorted(groups.order.tolist()) == list(range(n))


def test_many_distinct_rows_stay_apart():
    rng = np.random.default_rng(1)
    values = rng.permutation(np.arange(200_000, dtype="u8")) << np.uint64(40)
    assert len(group_rows([values]).starts) == 200_000


def test_more_columns_than_anybody_needs():
    # A template may have any number of variable-length fields; their lengths are grouped by.
    arrays = [np.array([i % 3, i % 3, i % 2 + 5], "u8") for i in range(300)]
    assert [rows for _, rows in sorted(found(arrays))] == [[0, 1], [2]]


def test_the_columns_are_left_alone():
    values = np.array([3, 1, 3, 2], "u8")
    values.flags.writeable = False
    group_rows([values])
    assert values.tolist() == [3, 1, 3, 2]
