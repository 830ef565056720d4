"""Numbers are asked for when somebody scrapes; families of several components are joined."""

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


def test_a_removed_collector_is_not_asked():
    metrics, collector = Metrics(), counter(a=1)
    metrics.add(collector)
    metrics.remove(collector)
    assert metrics.collect() == []


def test_removing_what_was_never_added():
    Metrics().remove(counter())
