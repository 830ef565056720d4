"""The capped table: exact while it holds all keys, true bounds or unbiased sums beyond, the same in any order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent import grouping
from flowagent.aggregate.table import Table, group_sums
from flowagent.batch import Batch, constant

NAMES = ("src_addr", "proto")
key = st.tuples(st.none() | st.sampled_from([(0, 1), (1, 0), (2**64 - 1, 2**64 - 1)]), st.none() | st.integers(0, 3))
rows = st.lists(st.tuples(key, st.integers(0, 1000)), max_size=15)
updates = st.lists(rows, max_size=6)


def to_keys(keys):
    """Keys (address, proto) as columns; None is unknown, and a column unknown in all rows is left out."""
    columns, valid = {}, {}
    for name, dtype, nothing, values in zip(NAMES, ("u8", "u1"), ((0, 0), 0), zip(*keys, strict=True), strict=True):
        known = [value is not None for value in values]
        if any(known):
            columns[name] = np.array([nothing if v is None else v for v in values], dtype).T
        if any(known) and not all(known):
            valid[name] = np.array(known)
    return Batch(columns, len(keys), valid)


def to_dict(batch, sums):
    columns = []
    for name in NAMES:
        values = batch[name].T.tolist() if name in batch else [None] * len(batch)
        plain = [tuple(v) if isinstance(v, list) else v for v in values]
        columns.append([v if k else None for v, k in zip(plain, batch.is_known(name).tolist(), strict=True)])
    found = dict(zip(zip(*columns, strict=True), sums.tolist(), strict=True))
    assert len(found) == len(sums)
    return found


def filled(parts, capacity, seed=None):
    """A table that got these updates; an unbiased one where there is a seed."""
    unbiased = seed is not None
    table = Table(capacity, unbiased=unbiased, rng=np.random.default_rng(seed) if unbiased else None)
    for part in parts:
        if part:
            keys, weights = zip(*part, strict=True)
            table.update(to_keys(keys), np.array(weights, np.float64))
    return table


def true_sums(parts):
    sums = Counter()
    for part in parts:
        for k, weight in part:
            sums[k] += weight
    return sums


def numbers(values):
    """Keys of one column."""
    return Batch({"dst_port": np.asarray(values, np.uint32)})


def check_bounds(table, true):
    found = to_dict(*table.sums())
    assert set(found) <= set(true)
    assert len(found) <= table.capacity
    for k, weight in true.items():
        assert found.get(k, 0) <= weight <= found.get(k, 0) + table.offset
    assert table.total == sum(true.values())
    assert table.offset * (table.capacity + 1) <= table.total - sum(found.values())


@given(parts=updates, capacity=st.integers(1, 8))
def test_true_sums_are_within_the_bounds(parts, capacity):
    true = true_sums(parts)
    table = filled(parts, capacity)
    check_bounds(table, true)
    if table.is_exact:
        assert to_dict(*table.sums()) == true
        assert table.offset == 0
    assert not (table.is_exact and len(true) > capacity)


@given(a=updates, b=updates, capacity=st.integers(1, 8))
def test_merged_tables_keep_the_bounds(a, b, capacity):
    merged, other = filled(a, capacity), filled(b, capacity)
    merged.merge(other)
    check_bounds(merged, true_sums([*a, *b]))
    check_bounds(other, true_sums(b))


@given(parts=updates, seed=st.integers(0, 9))
def test_exact_up_to_the_capacity(parts, seed):
    true = true_sums(parts)
    for table in (filled(parts, max(len(true), 1)), filled(parts, max(len(true), 1), seed)):
        assert to_dict(*table.sums()) == true
        assert (table.is_exact, table.offset, table.pruned) == (True, 0, 0)


@given(parts=updates, capacity=st.integers(1, 8), seed=st.integers(0, 9))
def test_unbiased_sums_are_within_the_offset(parts, capacity, seed):
    true = true_sums(parts)
    table = filled(parts, capacity, seed)
    found = to_dict(*table.sums())
    assert len(found) <= capacity
    for k in true:
        assert abs(found.get(k, 0) - true[k]) <= table.offset * (1 + 1e-9)


def test_zipf_traffic_within_the_bound_of_misra_gries():
    rng = np.random.default_rng(1)
    values = rng.zipf(1.1, 1_000_000) % 2**32
    table = Table(8192)
    for part in np.split(values, 10):
        table.update(numbers(part), np.ones(len(part)))
    keys, sums = table.top(100)
    true = np.bincount(values[values < 200_000], minlength=200_000)
    assert 0 < table.offset <= 1_000_000 / 8193
    # The largest were there from the start, so each has lost exactly the offset.
    assert keys["dst_port"].tolist() == np.argsort(-true, kind="stable")[:100].tolist()
    assert (true[keys["dst_port"]] - sums == table.offset).all()


def test_subset_sums_are_unbiased():
    rng = np.random.default_rng(2)
    keys, trials = 300, 400
    parts = [(rng.integers(0, keys, 400), rng.pareto(1.3, 400) + 0.1) for _ in range(4)]
    true = sum(np.bincount(values, weights, keys) for values, weights in parts)
    small = np.argsort(true)
    subsets = [
        rng.random(keys) < 0.5,
        rng.random(keys) < 0.1,
        np.isin(np.arange(keys), small[:60]),
        np.ones(keys, bool),
    ]
    errors = np.zeros((trials, len(subsets)))
    for trial in range(trials):
        table, other = (Table(50, unbiased=True, rng=np.random.default_rng((trial, i))) for i in range(2))
        for i, (values, weights) in enumerate(parts):
            (table if i < 2 else other).update(numbers(values), weights)
        table.merge(other)
        found, sums = table.sums()
        estimates = np.bincount(found["dst_port"], sums, keys)
        errors[trial] = [(estimates - true)[subset].sum() for subset in subsets]
    assert (errors.std(axis=0) > 0).all()
    z = errors.mean(axis=0) / errors.std(axis=0) * trials**0.5
    assert np.abs(z).max() < 4


def test_a_seed_gives_the_same_table_whatever_the_order(monkeypatch):
    rng = np.random.default_rng(3)
    values, weights = rng.integers(0, 1000, 5000), rng.integers(1, 9, 5000).astype(np.float64)
    found = []
    for order in (np.arange(5000), rng.permutation(5000)):
        table = Table(100, unbiased=True, rng=np.random.default_rng(7))
        table.update(numbers(values[order]), weights[order])
        keys, sums = table.top(100)
        found.append((keys["dst_port"].tolist(), sums.tolist()))
        monkeypatch.setattr(grouping, "_MULTIPLIERS", grouping._MULTIPLIERS[::-1].copy())
    assert found[0] == found[1]
    assert len(found[0][0]) == 100


@given(parts=updates, k=st.integers(0, 20), random=st.randoms())
def test_the_top_is_in_order_of_sums_and_then_of_keys(parts, k, random):
    table = filled(parts, 100)
    shuffled = [random.sample(part, len(part)) for part in parts]

    def rank(item):
        (addr, proto), weight = item
        # Unknown before known; columns in the order of their names.
        return -weight, proto is not None, proto or 0, addr is not None, addr or (0, 0)

    expected = sorted(true_sums(parts).items(), key=rank)[:k]
    assert list(to_dict(*table.top(k)).items()) == expected
    assert list(to_dict(*filled(shuffled, 100).top(k)).items()) == expected


def test_ties_are_in_the_order_of_keys():
    table = Table(100)
    values = np.random.default_rng(4).permutation(50)
    table.update(numbers(values), np.where(values == 30, 2.0, 1.0))
    assert table.top(4)[0]["dst_port"].tolist() == [30, 0, 1, 2]
    assert table.top(4)[1].tolist() == [2, 1, 1, 1]
    assert len(table.top(1000)[1]) == 50


def test_dropped_keys_are_counted():
    table = Table(2)
    table.update(numbers([1, 2, 3, 4, 1]), np.array([5.0, 4, 3, 1, 5]))
    # 10, 4, 3, 1: three are lowered by 3, the rest goes.
    assert to_plain(table) == {1: 7, 2: 1}
    assert (table.offset, table.pruned, table.is_exact) == (3, 2, False)
    table.update(numbers([3]), np.array([1.0]))
    assert to_plain(table) == {1: 6}
    assert (table.offset, table.pruned, table.total) == (4, 4, 19)
    other = Table(2)
    other.merge(table)
    other.merge(table)
    assert to_plain(other) == {1: 12}
    assert (other.offset, other.pruned, other.total) == (8, 8, 38)


def to_plain(table):
    keys, sums = table.sums()
    return dict(zip(keys["dst_port"].tolist(), sums.tolist(), strict=True))


def test_reading_offset_first_takes_in_what_is_pending():
    table = Table(2)
    table.update(numbers([1, 2, 3]), np.ones(3))
    assert table.offset == 1
    assert to_plain(table) == {}


def test_keys_without_any_column():
    table = Table(1)
    for n in (3, 2):
        table.update(Batch({}, n), np.ones(n))
    keys, sums = table.top(5)
    assert (len(keys), sums.tolist()) == (1, [5])


def test_unknown_is_a_key_and_so_is_a_column_that_is_missing():
    table = Table(10)
    table.update(to_keys([((0, 1), 6), ((0, 1), None)]), np.array([1.0, 2.0]))
    table.update(to_keys([((0, 1), None), (None, None)]), np.array([4.0, 8.0]))
    assert to_dict(*table.sums()) == {((0, 1), 6): 1, ((0, 1), None): 6, (None, None): 8}


def test_constants_are_keys_like_others():
    table = Table(10)
    table.update(Batch({"dst_port": constant(7, 3, np.uint32)}), np.ones(3))
    table.update(numbers([7, 8]), np.ones(2))
    assert to_plain(table) == {7: 4, 8: 1}


@pytest.mark.parametrize("seed", [None, 1])
def test_memory_is_bounded(seed):
    rng = np.random.default_rng(5)
    table = Table(100, unbiased=seed is not None, rng=rng)
    for n in (10, 90, 250, 5000, 3, 120, 80):
        table.update(numbers(rng.integers(0, 2**32, n)), rng.random(n))
        assert table.nbytes <= 3 * 100 * (8 + 4)
        assert len(table.sums()[1]) <= 100


def test_clear_forgets_all():
    table = filled([[(((0, i), 1), 5) for i in range(20)]], 3)
    assert not table.is_exact
    table.clear()
    assert (table.total, table.offset, table.pruned, table.is_exact, table.nbytes) == (0, 0, 0, True, 0)
    assert [len(part) for part in (*table.sums(), *table.top(5))] == [0, 0, 0, 0]


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_that_are_refused(bad):
    table = Table(5)
    with pytest.raises(ValueError, match="negative or not finite"):
        table.update(numbers([1, 2]), np.array([1.0, bad]))
    with pytest.raises(ValueError, match="1 weights for 2 keys"):
        table.update(numbers([1, 2]), np.ones(1))
    assert (table.total, len(table.sums()[1])) == (0, 0)


def test_settings_that_do_not_work():
    with pytest.raises(ValueError, match="at least 1"):
        Table(0)
    with pytest.raises(ValueError, match="needs rng"):
        Table(5, unbiased=True)
    with pytest.raises(ValueError, match="do not merge"):
        Table(5).merge(Table(5, unbiased=True, rng=np.random.default_rng(1)))


@given(part=rows)
def test_group_sums_equal_a_dict(part):
    keys = to_keys([k for k, _ in part]) if part else Batch({})
    weights = np.array([weight for _, weight in part], np.float64)
    found, (sums, halves) = group_sums(keys, NAMES, [weights, weights / 2])
    assert to_dict(found, sums) == true_sums([part])
    assert (sums / 2).tolist() == halves.tolist()


def test_group_sums_by_some_of_the_columns():
    batch = to_keys([((0, 1), 6), ((0, 2), 6), ((0, 3), 17)])
    found, (sums,) = group_sums(batch, ("proto", "tos"), [np.array([1.0, 2.0, 4.0])])
    assert list(found.columns) == ["proto"]
    assert sorted(zip(found["proto"].tolist(), sums.tolist(), strict=True)) == [(6, 3), (17, 4)]
