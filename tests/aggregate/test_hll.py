"""HyperLogLog: registers as defined, estimates as good as theory says, merging as if all had been one stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.hll import HyperLogLog

TOP = 2**64 - 1
hashes = st.lists(st.integers(0, TOP) | st.integers(0, 64).map(lambda b: (1 << b) - 1 & TOP), max_size=40)


def sketch(values, precision=6, groups=1, group=None):
    hll = HyperLogLog(groups, precision)
    hll.update(np.array(values, np.uint64), group)
    return hll


def reference(values, precision):
    """Registers by the definition."""
    registers = [0] * (1 << precision)
    for value in values:
        rank = min(64 - value.bit_length(), 51, 64 - precision) + 1
        i = value % (1 << precision)
        registers[i] = max(registers[i], rank)
    return registers


def relative_errors(rng, precision, n, trials):
    """Of estimates of n random hashes, (trials,)."""
    hll = HyperLogLog(trials, precision)
    for i in range(trials):
        hll.update(rng.integers(0, TOP, n, np.uint64, endpoint=True), np.full(n, i))
    return hll.estimate() / n - 1


@given(values=hashes, precision=st.integers(4, 18))
def test_registers_are_as_defined(values, precision):
    assert sketch(values, precision).registers.tolist() == [reference(values, precision)]


@pytest.mark.parametrize("precision", [4, 12, 13, 14, 18])
@pytest.mark.parametrize("bits", [0, 1, 12, 13, 31, 52, 53, 54, 63, 64])
def test_ranks_are_exact_where_floats_would_round(precision, bits):
    for value in {(1 << bits) - 1, (1 << bits) & TOP, (1 << bits) - 2 & TOP}:
        assert sketch([value], precision).registers.tolist() == [reference([value], precision)]


@pytest.mark.parametrize(("precision", "n", "expected"), [(10, 50_000, 3.25), (12, 200_000, 1.63), (14, 500_000, 0.81)])
def test_the_error_is_the_one_of_theory(precision, n, expected):
    errors = relative_errors(np.random.default_rng(precision), precision, n, trials=100)
    assert 100 * errors.std() == pytest.approx(expected, rel=0.3)  # four standard errors of a deviation
    assert abs(errors.mean()) < 4 * errors.std() / 10
    assert 100 * HyperLogLog(1, precision).relative_error == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("n", "trials"), [(100, 400), (1000, 400), (10_000, 400), (100_000, 200), (1_000_000, 60)])
def test_no_bias_however_few_or_many(n, trials):
    errors = relative_errors(np.random.default_rng(n), 12, n, trials)
    assert abs(errors.mean()) < 4 * errors.std() / trials**0.5
    assert errors.std() < 0.0163 * (1 + 4 / (2 * trials) ** 0.5)


def test_a_few_are_counted_nearly_exactly():
    rng = np.random.default_rng(1)
    assert sketch([]).estimate().tolist() == [0]
    assert sketch([TOP], 12).estimate()[0] == pytest.approx(1, rel=0.001)
    assert sketch(rng.integers(0, TOP, 10, np.uint64), 14).estimate()[0] == pytest.approx(10, rel=0.001)


def test_more_than_any_registers_hold():
    # One hash of leading zeros only for each register.
    assert sketch(np.arange(1 << 12), 12).estimate().tolist() == [np.inf]


@pytest.mark.parametrize("n", [1e15, 1e18, 5e18])
def test_large_numbers(n):
    # Registers as so many hashes leave them, drawn from the distribution of their maximum; in the end many are full.
    rng = np.random.default_rng(2)
    hll = HyperLogLog(50)
    for registers in hll.registers:
        registers[:] = np.clip(np.ceil(np.log2(n / 4096 / rng.exponential(size=4096))), 1, 52)
    errors = hll.estimate() / n - 1
    assert abs(errors.mean()) < 4 * 0.0163 / 50**0.5
    assert errors.std() < 0.0163 * 1.4


@given(values=hashes, again=hashes)
def test_neither_order_nor_repetition_matters(values, again):
    once = sketch([*values, *again])
    twice = sketch(again)
    twice.update(np.array(values, np.uint64))
    twice.update(np.array(again, np.uint64))
    assert twice.registers.tolist() == once.registers.tolist()


@given(a=hashes, b=hashes)
def test_merged_is_the_sketch_of_all(a, b):
    merged = sketch(a)
    merged.merge(sketch(b))
    assert merged.registers.tolist() == sketch([*a, *b]).registers.tolist()
    merged.merge(sketch(b))
    merged.merge(merged)
    assert merged.registers.tolist() == sketch([*a, *b]).registers.tolist()


@given(values=hashes)
def test_a_sketch_folds_into_one_of_lower_precision(values):
    wide = sketch(values, 8).registers.reshape(2, -1)
    assert wide.max(axis=0).tolist() == sketch(values, 7).registers[0].tolist()


def test_groups_are_sketches_of_their_own():
    rng = np.random.default_rng(3)
    values, groups = rng.integers(0, TOP, 5000, np.uint64), rng.integers(0, 3, 5000)
    together = sketch(values, 8, 4, groups)
    alone = [sketch(values[groups == g], 8) for g in range(4)]
    assert together.registers.tolist() == [hll.registers[0].tolist() for hll in alone]
    assert together.estimate().tolist() == pytest.approx([hll.estimate()[0] for hll in alone])
    assert together.estimate()[3] == 0


def test_hashes_that_are_a_broadcast_or_read_only():
    value = np.array([5 << 50], np.uint64)
    value.flags.writeable = False
    assert (sketch(np.broadcast_to(value, (10,))).registers == sketch(value).registers).all()
    assert value.tolist() == [5 << 50]


def test_memory_is_one_byte_a_register():
    hll = sketch(np.arange(1000, dtype=np.uint64), 12, 3, np.arange(1000) % 3)
    assert hll.nbytes == 3 * 4096
    assert hll.registers.dtype == np.uint8


@pytest.mark.parametrize(("groups", "precision"), [(0, 12), (1, 3), (1, 19)])
def test_sizes_that_do_not_work(groups, precision):
    with pytest.raises(ValueError, match="at least 1, of 4 to 18"):
        HyperLogLog(groups, precision)


@pytest.mark.parametrize("other", [HyperLogLog(1, 11), HyperLogLog(2, 12)])
def test_different_shapes_do_not_merge(other):
    with pytest.raises(ValueError, match="do not merge"):
        HyperLogLog(1, 12).merge(other)


def test_a_group_beyond_the_last_is_an_error():
    with pytest.raises(IndexError):
        sketch([1], groups=2, group=np.array([2]))
