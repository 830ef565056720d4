"""Numbers are asked for when somebody scrapes; families of several components are joined."""

import pytest

from flowagent.metrics import Family, Metrics


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
