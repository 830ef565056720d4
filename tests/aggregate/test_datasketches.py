"""Sketches read back, merged and compared with the library whose formats they have."""

from collections import Counter
from itertools import permutations

import datasketches as ds
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate import datasketches
from flowagent.aggregate.hll import HyperLogLog
from flowagent.aggregate.kmv import KMinValues
from flowagent.hashing import finish

U64 = np.uint64
WHOLE = 2**63 - 1


def hashes_of(values, seed=0):
    return finish(np.asarray(values, U64) + U64(seed << 40))


def registers_of(hashes, p):
    """HyperLogLog: slot by the low p bits, rank of the others."""
    ranks = np.array([64 - p + 1 - (int(h) >> p).bit_length() for h in hashes], np.uint8)
    registers = np.zeros(1 << p, np.uint8)
    np.maximum.at(registers, (hashes & U64((1 << p) - 1)).astype(np.intp), ranks)
    return registers


def smallest(hashes, k):
    """The k smallest hashes and theta, as a KMV sketch has them."""
    ordered = np.sort(hashes)
    return (ordered[:k], int(ordered[k - 1])) if len(ordered) > k else (ordered, 1.0)


def read_hll(registers):
    return ds.hll_sketch.deserialize(datasketches.hll(registers))


def read_theta(hashes, theta):
    return ds.compact_theta_sketch.deserialize(datasketches.theta(hashes, theta))


def read_strings(items, weights, **settings):
    data = datasketches.frequent_strings(items, np.array(weights, np.int64), **settings)
    return ds.frequent_strings_sketch.deserialize(data)


def union_of(*sketches, lg_k=12):
    union = ds.hll_union(lg_k)
    for sketch in sketches:
        union.update(sketch)
    return union.get_result(ds.tgt_hll_type.HLL_8)


# HyperLogLog


@pytest.mark.parametrize("count", [600, 20_000])
def test_registers_become_the_bytes_the_library_writes_for_a_union(count):
    sketch = ds.hll_sketch(10, ds.tgt_hll_type.HLL_8)
    for value in range(count):
        sketch.update(value)
    registers = np.frombuffer(sketch.serialize_updatable()[40:], np.uint8)
    # Of itself: a union has no HIP estimator.
    assert datasketches.hll(registers) == union_of(sketch, sketch).serialize_compact()


def test_empty_registers_become_the_bytes_the_library_writes_for_an_empty_sketch():
    data = datasketches.hll(np.zeros(1 << 12, np.uint8))
    assert data == ds.hll_sketch(12, ds.tgt_hll_type.HLL_8).serialize_compact()


@pytest.mark.parametrize("p", [4, 12, 21])
@pytest.mark.parametrize("filled", [0, 1])
def test_every_size_is_read_back(p, filled):
    registers = np.zeros(1 << p, np.uint8)
    registers[:filled] = 3
    data = datasketches.hll(registers)
    sketch = ds.hll_sketch.deserialize(data)
    assert (sketch.lg_config_k, sketch.is_empty()) == (p, not filled)
    assert sketch.get_estimate() == pytest.approx(filled, rel=0.05)
    assert len(data) == (40 + (1 << p) if filled else 8)


@pytest.mark.parametrize("count", [0, 1, 10, 1000, 100_000])
def test_estimates_are_those_of_the_items(count):
    repeats = 10 if count < 100_000 else 2
    all_registers = (registers_of(hashes_of(range(count), seed), 12) for seed in range(repeats))
    errors = [read_hll(registers).get_estimate() - count for registers in all_registers]
    # Few items seldom share a register: their count is off by a part of one.
    sigma = max(1.04 / 64 * count, 0.1) / np.sqrt(repeats)
    assert abs(np.mean(errors)) < 4 * sigma


def test_the_largest_registers_count():
    registers = np.full(16, 40, np.uint8)
    registers[3] = 63
    power_sum = 15 * 2.0**-40 + 2.0**-63
    assert read_hll(registers).get_estimate() == pytest.approx(0.673 * 256 / power_sum, rel=0.02)


def test_a_union_is_the_sketch_of_the_larger_registers():
    a, b = (registers_of(hashes_of(values), 12) for values in (range(30_000), range(20_000, 60_000)))
    union = union_of(read_hll(a), read_hll(b), read_hll(np.zeros_like(a)))
    assert union.get_estimate() == read_hll(np.maximum(a, b)).get_estimate()
    assert abs(union.get_estimate() / 60_000 - 1) < 4 * 1.04 / 64


def test_registers_of_flowagent_fold_like_the_library():
    sketches = []
    for precision in (12, 10):
        sketch = HyperLogLog(precision=precision)
        sketch.update(hashes_of(range(50_000)))
        sketches.append(read_hll(sketch.registers[0]))
    fine, coarse = sketches
    assert abs(fine.get_estimate() / 50_000 - 1) < 4 * 1.04 / 64
    assert union_of(fine, lg_k=10).get_estimate() == coarse.get_estimate()


def test_hll_bytes_are_these():
    registers = np.array([0] * 11 + [1, 2, 31, 32, 63], np.uint8)
    head = "0a010704 0018000a 0000000000000000 0000040000802740 000020000000f03d 0b000000 00000000"
    assert datasketches.hll(registers) == bytes.fromhex(head) + bytes(registers)


@pytest.mark.parametrize(
    "registers",
    [
        np.zeros(0, np.uint8),
        np.zeros(8, np.uint8),
        np.zeros(100, np.uint8),
        np.zeros(1 << 22, np.uint8),
        np.zeros(1 << 12, np.int64),
        np.zeros((16, 2), np.uint8),
        np.full(16, 64, np.uint8),
    ],
    ids=["none", "few", "no power of two", "many", "wide", "flat", "high"],
)
def test_registers_that_are_none_are_refused(registers):
    with pytest.raises(ValueError, match="register"):
        datasketches.hll(registers)


# Theta


@pytest.mark.parametrize("count", [0, 1, 2, 10, 100, 5000])
def test_hashes_become_the_bytes_the_library_writes(count):
    sketch = ds.update_theta_sketch(6)
    for value in range(count):
        sketch.update(value)
    compact = sketch.compact()
    hashes = np.array(list(compact), U64) << U64(1)
    assert datasketches.theta(hashes, compact.theta64 << 1) == compact.serialize()


def test_theta_bytes_are_these():
    hashes = np.array([2, 0x0F1E2D3C4B5A6978], U64)
    assert datasketches.theta(hashes, 0.5) == bytes.fromhex(
        "0303030000 1a cc93 02000000 00000000 0000000000000040 0100000000000000 bc34ad259e168f07"
    )
    assert datasketches.theta(hashes[:1], 1.0) == bytes.fromhex("0103030000 1a cc93 0100000000000000")
    assert datasketches.theta(hashes[:0], 1.0) == bytes.fromhex("0103030000 1e cc93")


edges = st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 3, 2**64 - 2, 2**64 - 1])
numbers = st.lists(edges | st.integers(0, 2**64 - 1) | st.integers(0, 100), max_size=50)


@given(numbers, edges.filter(lambda theta: theta > 1) | st.integers(2, 2**64))
def test_a_sketch_holds_the_hashes_below_theta(values, theta):
    data = datasketches.theta(np.array(sorted(values), U64), theta)
    sketch = ds.compact_theta_sketch.deserialize(data)
    limit = min(theta >> 1, WHOLE)
    held = sorted({word for value in values if (word := max(value >> 1, 1)) < limit})
    assert list(sketch) == held
    assert sketch.theta64 == limit
    assert sketch.is_ordered()
    assert sketch.is_empty() == (not held and limit == WHOLE)
    assert sketch.is_estimation_mode() == (limit < WHOLE)
    assert sketch.get_estimate() == pytest.approx(len(held) * 2.0**63 / limit)
    assert len(data) <= 24 + 8 * len(values)


@given(st.floats(0, 1, exclude_min=True, allow_subnormal=False).filter(lambda share: share >= 2.0**-63))
def test_theta_may_be_a_share(share):
    assert read_theta(np.zeros(0, U64), share).theta == pytest.approx(share)


def test_theta_may_be_a_number_of_numpy():
    hashes = np.array([4, 2**62], U64)
    assert datasketches.theta(hashes, U64(2**63)) == datasketches.theta(hashes, np.float64(0.5))
    assert datasketches.theta(hashes, U64(2**64 - 1)) == datasketches.theta(hashes, 1.0)


def test_set_operations_see_what_the_hashes_say():
    a, b = smallest(hashes_of(range(30_000)), 1024), smallest(hashes_of(range(20_000, 60_000)), 1024)
    limit = min(a[1], b[1]) >> 1
    one, two = ({word for h in hashes if (word := max(int(h) >> 1, 1)) < limit} for hashes, _ in (a, b))
    union, both = ds.theta_union(), ds.theta_intersection()
    for sketch in (read_theta(*a), read_theta(*b)):
        union.update(sketch)
        both.update(sketch)
    rest = ds.theta_a_not_b().compute(read_theta(*a), read_theta(*b))
    for result, held, truth in (
        (union.get_result(), one | two, 60_000),
        (both.get_result(), one & two, 10_000),
        (rest, one - two, 20_000),
    ):
        assert sorted(result) == sorted(held)
        assert result.theta64 == limit
        # A sample of the hashes of the set, each with probability theta.
        assert abs(result.get_estimate() - truth) < 4 * np.sqrt(truth / result.theta)


def test_a_whole_sketch_counts_exactly():
    union = ds.theta_union()
    for values in (range(500), range(400, 1000), range(0)):
        union.update(read_theta(*smallest(hashes_of(values), 1024)))
    assert union.get_result().get_estimate() == 1000


def test_estimates_of_the_k_smallest_are_not_biased():
    k, truth, repeats = 256, 5000, 100
    estimates = [read_theta(*smallest(hashes_of(range(truth), s), k)).get_estimate() for s in range(repeats)]
    assert abs(np.mean(estimates) / truth - 1) < 4 / np.sqrt((k - 2) * repeats)


@pytest.mark.parametrize("count", [0, 255, 256, 20_000])
def test_the_sketch_of_flowagent_has_the_same_estimate(count):
    sketch = KMinValues(256)
    sketch.update(hashes_of(range(count)))
    exported = read_theta(sketch.hashes, sketch.limit)
    assert exported.get_estimate() == pytest.approx(sketch.estimate(), rel=1e-12)
    assert exported.num_retained == len(sketch.hashes)


@pytest.mark.parametrize("theta", [0, 1, -5, 2**64 + 2, 0.0, 1.5, -0.5, float("nan"), float("inf"), 1e-30])
def test_a_theta_that_is_none_is_refused(theta):
    with pytest.raises(ValueError, match="theta"):
        datasketches.theta(np.zeros(0, U64), theta)


@pytest.mark.parametrize("hashes", [np.array([2, 1], U64), np.array([1, 2]), np.zeros((2, 2), U64)])
def test_hashes_that_are_none_are_refused(hashes):
    with pytest.raises(ValueError, match="hashes"):
        datasketches.theta(hashes, 1.0)


# Frequent strings


def misra_gries(stream, capacity):
    """Weights, offset and total of a table of Misra and Gries."""
    weights, offset, total = Counter(), 0, 0
    for item, weight in stream:
        weights[item] += weight
        total += weight
        if len(weights) > capacity:
            least = min(weights.values())
            offset += least
            weights = Counter({kept: value - least for kept, value in weights.items() if value > least})
    return weights, {"offset": offset, "total": total, "capacity": capacity}


@pytest.mark.parametrize("items", [[], ["a"], ["", "é", "流", "x" * 300]])
def test_strings_become_the_bytes_the_library_writes(items):
    sketch = ds.frequent_strings_sketch(4)
    for number, item in enumerate(items):
        sketch.update(item, number + 1)
    written = set()
    for order in permutations(range(len(items))):  # the library's own depends on its hash
        weights = np.array(order, np.int64) + 1
        written.add(
            datasketches.frequent_strings(
                [items[i] for i in order], weights, offset=0, total=sketch.total_weight, capacity=12
            )
        )
    assert sketch.serialize() in written


def listed(sketch):
    return sketch.get_frequent_items(ds.frequent_items_error_type.NO_FALSE_NEGATIVES)


def test_string_bytes_are_these():
    data = datasketches.frequent_strings(["ab", "é"], np.array([3, 258]), offset=5, total=1000, capacity=100)
    assert data == bytes.fromhex(
        "04010a08 03000000 02000000 00000000 e803000000000000 0500000000000000"
        "0300000000000000 0201000000000000 02000000 6162 02000000 c3a9"
    )


tables = st.dictionaries(st.text(max_size=20), st.integers(0, 2**40), max_size=40)


@given(tables, st.integers(0, 2**40), st.integers(0, 2**40), st.none() | st.integers(0, 200))
def test_bounds_are_read_back_as_they_are(table, offset, rest, capacity):
    total = sum(table.values()) + rest
    weights = np.array(list(table.values()), np.int64)
    data = datasketches.frequent_strings(list(table), weights, offset=offset, total=total, capacity=capacity)
    sketch = ds.frequent_strings_sketch.deserialize(data)
    assert sketch.total_weight == total
    assert sketch.num_active_items == sum(1 for weight in table.values() if weight)
    for item, weight in table.items():
        assert sketch.get_lower_bound(item) == weight
        assert sketch.get_upper_bound(item) == weight + offset
        assert sketch.get_estimate(item) == (weight + offset if weight else 0)
    assert sketch.get_upper_bound("a string that is not in the table") == offset
    assert len(data) <= 32 + sum(12 + len(item.encode()) for item in table)


@pytest.mark.parametrize(("count", "lg"), [(0, 3), (6, 3), (7, 4), (12, 4), (13, 5), (3072, 12), (3073, 13)])
def test_the_table_is_as_large_as_it_must_be(count, lg):
    items = [str(number) for number in range(count)]
    data = datasketches.frequent_strings(items, np.ones(count, np.int64), offset=0, total=count)
    assert data[3:5] == bytes((lg, lg))
    sketch = ds.frequent_strings_sketch.deserialize(data)
    assert (sketch.num_active_items, sketch.epsilon) == (count, 3.5 / 2**lg)
    assert read_strings([], [], offset=0, total=0, capacity=count).epsilon == sketch.epsilon


def test_a_capacity_below_the_items_evicts_none():
    sketch = read_strings([str(number) for number in range(100)], range(1, 101), offset=0, total=5050, capacity=5)
    assert [sketch.get_upper_bound(str(number)) for number in range(100)] == list(range(1, 101))


def test_items_of_no_weight_are_left_out():
    some = datasketches.frequent_strings(["a", "b", "c"], np.array([0, 7, 0]), offset=1, total=9)
    assert some == datasketches.frequent_strings(["b"], np.array([7]), offset=1, total=9)


def test_merged_bounds_hold_for_what_both_agents_saw():
    rng = np.random.default_rng(7)
    merged = read_strings([], [], offset=0, total=0, capacity=48)
    truth = Counter()
    for _ in range(2):
        stream = [(f"10.0.0.{rng.zipf(1.3) % 1000}", int(rng.integers(1, 1500))) for _ in range(5000)]
        for item, weight in stream:
            truth[item] += weight
        weights, settings = misra_gries(stream, 48)
        assert settings["offset"] > 0
        merged.merge(read_strings(list(weights), list(weights.values()), **settings))
    assert merged.total_weight == truth.total()
    for item, weight in truth.items():
        assert merged.get_lower_bound(item) <= weight <= merged.get_upper_bound(item)
    heaviest = [item for item, _ in truth.most_common(5)]
    assert [item for item, *_ in listed(merged)[:3]] == heaviest[:3]


def test_tables_that_fit_merge_exactly():
    one, two = {"a": 5, "b": 1, "é": 2**40}, {"b": 7, "c": 9}
    merged = read_strings(list(one), list(one.values()), offset=3, total=2**41)
    merged.merge(read_strings(list(two), list(two.values()), offset=10, total=20))
    assert merged.total_weight == 2**41 + 20
    for item, weight in (Counter(one) + Counter(two)).items():
        assert (merged.get_lower_bound(item), merged.get_upper_bound(item)) == (weight, weight + 13)


def test_a_table_without_items_keeps_offset_and_total():
    sketch = read_strings(["a"], [0], offset=3, total=9)
    assert (sketch.num_active_items, sketch.total_weight, sketch.get_upper_bound("a")) == (0, 9, 3)


@pytest.mark.parametrize(
    ("items", "weights", "settings"),
    [
        (["a"], [-1], {}),
        (["a"], [1, 2], {}),
        (["a", "a"], [1, 2], {}),
        (["a"], [1.0], {}),
        (["a"], [[1]], {}),
        (["a"], [200], {}),
        (["a"], [1], {"offset": -1}),
        (["a"], [1], {"offset": 2**63}),
        (["a"], [1], {"total": 2**63}),
        (["a"], [1], {"capacity": 2**30}),
        (["\ud800"], [1], {}),
    ],
)
def test_tables_that_are_none_are_refused(items, weights, settings):
    with pytest.raises(ValueError):
        datasketches.frequent_strings(items, np.array(weights), **{"offset": 0, "total": 100, **settings})
