"""Every method keeps what its budget allows, says with which probability, and is right about that."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import v4

from flowagent.batch import Batch, constant
from flowagent.sampling.methods import Hash, Priority, Systematic, Threshold, Uniform, method_of
from flowagent.sampling.pool import Pool, threshold
from flowagent.sections import Sampling

METHODS = [Threshold(), Priority(), Systematic()]
sizes = st.lists(st.sampled_from([1.0, 1.0, 2.0]) | st.floats(1e-3, 1e9), min_size=1, max_size=60)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def pool(values, seed=1, prob=None, **columns):
    """Rows of these sizes, with coins from the seed, that are here with these probabilities."""
    n = len(values)
    coin = 1 - np.random.default_rng(seed).random(n)
    batch = Batch(columns or {"src_port": np.arange(n, dtype=np.uint16)})
    some = Pool.of(batch, coin, np.array(values, np.float64), np.zeros(n, np.bool_))
    return some if prob is None else Pool(some.batch, some.row, coin * prob, prob, some.size, some.is_kept)


@every_method
@given(values=sizes, seed=st.integers(0, 99), budget=st.integers(0, 70), chance=st.floats(0, 1, exclude_min=True))
def test_no_more_rows_than_the_budget(method, values, seed, budget, chance):
    cut = method.cut(pool(values, seed), budget, chance)
    assert len(cut) <= budget
    assert len(set(cut.row.tolist())) == len(cut)
    assert ((cut.prob > 0) & (cut.prob <= 1)).all()
    # All light rows stand for the same.
    assert np.ptp((cut.size / cut.prob)[cut.prob < 1]) < 1e-6 * max(values) if (cut.prob < 1).any() else True


@every_method
@given(values=sizes, spare=st.integers(0, 3))
def test_rows_that_fit_stay_as_they_are(method, values, spare):
    thinned = pool(values, prob=np.full(len(values), 0.25))
    cut = method.cut(thinned, len(values) + spare, 0.5)
    assert cut.row.tolist() == thinned.row.tolist()
    assert cut.prob.tolist() == thinned.prob.tolist()


@every_method
def test_no_budget_no_rows(method):
    assert len(method.cut(pool([1, 2, 3]), 0, 0.5)) == 0
    assert len(method.cut(pool([]), 5, 0.5)) == 0


@every_method
def test_a_giant_is_kept_for_certain(method):
    for seed in range(50):
        cut = method.cut(pool([1] * 40 + [1e12], seed), 20, (seed + 1) / 50)
        assert cut.prob[cut.size > 1].tolist() == [1]


@pytest.mark.parametrize("method", [Threshold(), Priority()], ids=["Threshold", "Priority"])
@given(values=sizes, seed=st.integers(0, 99), budget=st.integers(1, 70))
def test_survivors_have_coins_below_their_probability(method, values, seed, budget):
    cut = method.cut(pool(values, seed), budget, 0.5)
    assert (cut.coin <= cut.prob * (1 + 1e-12)).all()


# So few rows that `threshold` misses its aim and thins again in every second trial.
SMALL = [1, 1, 2, 3, 5, 8, 40]


def assert_mean(trials, expected):
    """(trials, rows): each row's mean is what is expected, within four standard errors."""
    error = np.abs(trials.mean(0) - expected)
    assert (error <= 4 * trials.std(0) / math.sqrt(len(trials)) + 1e-9).all()


@every_method
@pytest.mark.parametrize("budget", [2, 4])
def test_every_row_is_there_as_often_as_it_says(method, budget):
    rng = np.random.default_rng(2)
    trials = 4000
    stands_for = np.zeros((trials, len(SMALL)))
    for trial in range(trials):
        cut = method.cut(pool(SMALL, rng), budget, 1 - rng.random())
        stands_for[trial, cut.row] = 1 / cut.prob
    assert_mean(stands_for, 1)


@every_method
def test_thinning_what_was_thinned_and_what_is_new_is_unbiased(method):
    rng = np.random.default_rng(3)
    trials = 4000
    stands_for = np.zeros((trials, len(SMALL)))
    for trial in range(trials):
        first = method.cut(pool(SMALL, rng), 4, 1 - rng.random()).packed()
        cut = method.cut(Pool.concat([first, pool(SMALL, rng).packed()]), 3, 1 - rng.random())
        ports = cut.columns(("src_port",))["src_port"] if len(cut) else np.zeros(0, np.intp)
        np.add.at(stands_for[trial], ports, 1 / cut.prob)
    # A row of either half has the same port, so together they stand for two.
    assert_mean(stands_for, 2)


def test_threshold_aims_below_its_budget_by_two_standard_deviations():
    rng = np.random.default_rng(4)
    counts = [len(Threshold().cut(pool(np.ones(10_000), rng), 400, 0.5)) for _ in range(300)]
    assert np.mean(counts) == pytest.approx(360, abs=4 * math.sqrt(360 / 300) + 2)
    assert max(counts) <= 400


def test_priority_keeps_the_largest_of_size_over_coin():
    some = pool([5.0, 1, 9, 3, 3, 7, 2], seed=5)
    q = some.size / some.coin
    descending = np.argsort(-q)
    cut = Priority().cut(some, 3, 0.5)
    assert sorted(cut.row.tolist()) == sorted(descending[:3].tolist())
    assert cut.prob.tolist() == np.minimum(1, cut.size / q[descending[3]]).tolist()


def test_priority_in_parts_is_priority_of_the_whole():
    whole = pool(np.random.default_rng(6).pareto(1.1, 400) + 1, seed=6)
    first, other = whole.split(np.arange(400) < 150)
    at_once = Priority().cut(whole, 50, 0.5)
    in_parts = Priority().cut(Pool.concat([Priority().cut(first, 50, 0.5), other]), 50, 0.5)
    assert sorted(zip(at_once.row.tolist(), at_once.prob.tolist(), strict=True)) == sorted(
        zip(in_parts.row.tolist(), in_parts.prob.tolist(), strict=True)
    )


def test_priority_of_rows_that_are_all_alike_in_size_and_coin():
    twins = pool(np.ones(10))
    twins = Pool(twins.batch, twins.row, np.full(10, 0.5), twins.prob, twins.size, twins.is_kept)
    assert len(Priority().cut(twins, 5, 0.5)) == 0  # none is larger than the next


@pytest.mark.parametrize("chance", [2.0**-53, 0.5, 1.0])
def test_systematic_sampling_keeps_exactly_its_budget(chance):
    for n in (101, 1000, 4567):
        cut = Systematic().cut(pool(np.random.default_rng(n).pareto(1.1, n) + 1), 100, chance)
        assert len(cut) == 100


def places(n, rng):
    return {
        "src_addr": v4(rng.integers(0, 2**32, n, np.uint64)),
        "in_if": rng.integers(0, 40, n, np.uint32),
        "exporter": v4(rng.integers(0, 5, n).astype(np.uint64)),
    }


def test_neighbours_of_systematic_sampling_are_exporters_interfaces_and_prefixes():
    rng = np.random.default_rng(7)
    values, columns = rng.pareto(1.1, 5000) + 1, places(5000, rng)
    z = threshold(values, 300)
    exporter, interface = columns["exporter"][1] & np.uint64(7), columns["in_if"]
    half = columns["src_addr"][1] >> np.uint64(31) & np.uint64(1)
    for chance in (0.1, 0.5, 0.9):
        cut = Systematic().cut(pool(values, **columns), 300, chance)
        estimate = np.bincount(cut.row, cut.size / cut.prob, 5000)
        for group in (exporter, exporter * 40 + interface, (exporter * 40 + interface) * 2 + half):
            off = np.bincount(group.astype(np.intp), estimate - values)
            assert np.abs(off).max() < z * (1 + 1e-9)


@pytest.mark.parametrize("missing", ["src_addr", "in_if", "exporter"])
def test_systematic_sampling_does_without_some_columns(missing):
    rng = np.random.default_rng(8)
    columns = {name: values for name, values in places(500, rng).items() if name != missing}
    assert len(Systematic().cut(pool(np.ones(500), **columns), 100, 0.5)) == 100
    six = columns | {
        "src_addr": rng.integers(0, 2**63, (2, 500), np.uint64),
        "exporter": constant((0, 1), 500, np.uint64),
    }
    assert len(Systematic().cut(pool(np.ones(500), **six), 100, 0.5)) == 100


def test_hash_admits_a_fixed_range_of_coins():
    some = pool(np.ones(1000))
    admitted = Hash(0.25).admit(some)
    assert admitted.row.tolist() == np.flatnonzero(some.coin <= 0.25).tolist()
    assert admitted.prob.tolist() == [0.25] * len(admitted)
    assert Hash(0.25).cut(admitted, 1000, 0.5) is admitted
    assert len(Hash(1.0).admit(some)) == 1000
    cut = Hash(0.25).cut(admitted, 100, 0.5)
    assert 50 < len(cut) <= 100
    assert (cut.coin <= cut.prob).all()


@every_method
def test_all_others_admit_every_row(method):
    some = pool([1, 2])
    assert method.admit(some) is some


@pytest.mark.parametrize(
    ("name", "kind", "by_size"),
    [
        ("threshold", Threshold, True), ("priority", Priority, True), ("systematic", Systematic, True),
        ("uniform", Uniform, False), ("hash", Hash, False),
    ],
)  # fmt: skip
def test_the_configuration_names_a_method(name, kind, by_size):
    method = method_of(Sampling(method=name, fraction=0.5))
    assert type(method) is kind
    assert method.by_size == by_size


def test_read_only_arrays_are_enough():
    some = pool([3, 2, 1, 1, 1, 9])
    for array in (some.coin, some.size, some.is_kept, some.row):
        array.flags.writeable = False
    for method in METHODS:
        assert len(method.cut(some, 2, 0.5)) <= 2
