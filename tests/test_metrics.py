"""Numbers are asked for when somebody scrapes; families of several components are joined, distributions added."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.metrics import Distribution, Family, Metrics


def counter(**samples):
    return lambda: [
        Family("flowagent_x", "counter", "X.", ("source",), {(name,): value for name, value in samples.items()})
    ]


def test_nothing_to_collect():
    assert Metrics().collect() == []


def test_a_collector_is_asked_every_time():
    metrics, value = Metrics(), [1]
    metrics.add(lambda: [Family("flowagent_x", "gauge", "X.", (), {(): value[0]})])
    assert metrics.collect()[0].samples == {(): 1}
    value[0] = 2
    assert metrics.collect()[0].samples == {(): 2}


def test_families_of_one_name_are_joined():
    metrics = Metrics()
    metrics.add(counter(a=1, b=2))
    metrics.add(counter(b=3, c=4))
    (family,) = metrics.collect()
    assert family == Family("flowagent_x", "counter", "X.", ("source",), {("a",): 1, ("b",): 5, ("c",): 4})


def test_joining_leaves_the_components_numbers_alone():
    metrics = Metrics()
    first = counter(a=1)()
    metrics.add(lambda: first)
    metrics.add(counter(a=1))
    metrics.collect()
    assert first[0].samples == {("a",): 1}


def test_families_keep_their_order():
    metrics = Metrics()
    metrics.add(lambda: [Family(name, "counter", "X.") for name in ("b", "a", "c")])
    assert [family.name for family in metrics.collect()] == ["b", "a", "c"]


def test_a_removed_collector_is_not_asked_but_its_counters_stay():
    metrics, collector = Metrics(), counter(a=1)
    metrics.add(collector)
    metrics.add(gauge := lambda: [Family("flowagent_y", "gauge", "Y.", (), {(): 1})])
    metrics.remove(collector)
    metrics.remove(gauge)
    assert metrics.collect() == [*collector()]
    metrics.add(counter(a=2, b=1))
    assert metrics.collect()[0].samples == {("a",): 3, ("b",): 1}


def test_one_name_with_two_sets_of_labels_is_no_metric():
    metrics = Metrics()
    metrics.add(counter(a=1))
    metrics.add(lambda: [Family("flowagent_x", "counter", "X.", ("sink",), {("a",): 1})])
    with pytest.raises(ValueError, match="flowagent_x has labels"):
        metrics.collect()


def test_removing_what_was_never_added():
    Metrics().remove(counter())


def histogram(**samples):
    return lambda: [
        Family("flowagent_h", "histogram", "H.", ("source",), {(name,): value for name, value in samples.items()})
    ]


ONE = Distribution(3, 70.0, 1, 5, ((32, 1), (192, 1)))
TWO = Distribution(2.5, 5.5, 0, 5, ((-32, 1.5), (32, 1)))
BOTH = Distribution(5.5, 75.5, 1, 5, ((-32, 1.5), (32, 2), (192, 1)))


def test_two_distributions_add_bucket_by_bucket():
    assert ONE + TWO == TWO + ONE == BOTH


def test_an_empty_distribution_adds_nothing():
    assert ONE + Distribution() == Distribution() + ONE == ONE


def test_distributions_of_different_schemas_do_not_add():
    with pytest.raises(ValueError, match="schema 5 and 3"):
        ONE + Distribution(schema=3)


def test_histograms_of_one_name_are_joined():
    metrics = Metrics()
    metrics.add(histogram(a=ONE))
    metrics.add(histogram(a=TWO, b=TWO))
    assert metrics.collect() == histogram(a=BOTH, b=TWO)()


def test_a_removed_collectors_histograms_stay():
    metrics, collector = Metrics(), histogram(a=ONE, b=ONE)
    metrics.add(collector)
    metrics.remove(collector)
    assert metrics.collect() == collector()
    metrics.add(histogram(a=TWO))
    assert metrics.collect() == histogram(a=BOTH, b=ONE)()


@pytest.mark.parametrize(
    ("exponent", "count"),
    [(-3, 1), (-2, 1), (-1, 2.5), (0, 2.5), (1, 4.5), (5, 4.5), (6, 5.5), (40, 5.5)],
)
def test_a_cumulative_count_has_all_values_up_to_its_bound(exponent, count):
    assert BOTH.cumulative([exponent]) == [count]
    assert BOTH.cumulative(range(-3, exponent + 1))[-1] == count


def test_a_bucket_that_begins_at_the_bound_is_above_it():
    assert Distribution(3, 3, 0, 5, ((32, 1), (33, 2))).cumulative([1, 2]) == [1, 3]


@pytest.mark.parametrize("schema", range(9))
def test_powers_of_two_are_bounds_in_every_schema(schema):
    # 8 in the last bucket up to it, 8.1 in the first one above.
    end = 3 << schema
    assert Distribution(2, 16.1, 0, schema, ((end, 1), (end + 1, 1))).cumulative([2, 3, 4]) == [0, 1, 2]


def test_cumulative_counts_of_nothing():
    assert Distribution().cumulative(range(3)) == [0, 0, 0]
    assert Distribution(2, 0, 2).cumulative(range(3)) == [2, 2, 2]


weights = st.floats(0, 1e9)


def of(buckets, zero):
    """A distribution whose count is summed in another order than its buckets are."""
    count = sum(count for _, count in reversed(buckets)) + zero
    return Distribution(count, count, zero, 5, tuple(buckets))


distributions = st.builds(
    of, st.dictionaries(st.integers(-200, 1400), weights, max_size=20).map(lambda d: sorted(d.items())), weights
)


@given(distributions, distributions)
def test_what_is_derived_grows_with_the_counts(before, more):
    after, exponents = before + more, range(-8, 48)
    then, now = before.cumulative(exponents), after.cumulative(exponents)
    assert all(a <= b for a, b in zip(then, now, strict=True))
    assert after.count >= before.count
    assert after.sum >= before.sum
    assert {index for index, _ in before.buckets} <= {index for index, _ in after.buckets}


@given(distributions)
def test_cumulative_counts_rise_to_the_count(value):
    counts = value.cumulative(range(-8, 48))
    assert counts == sorted(counts)
    assert counts[-1] <= value.count
    assert counts[-1] == pytest.approx(value.count)
