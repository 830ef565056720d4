"""What was told of a connection is not told again, whatever the order of dumps and ends."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.ingest.conntrack_table import Table


def keys(*values):
    return np.array(values, np.uint64)


def counters(*bytes_):
    """Of connections with these bytes, and a packet for each."""
    one = np.array(bytes_, np.uint64)
    return np.stack([one, one, 2 * one, 2 * one])


def dump(table, entries, **options):
    """Bytes to tell of each entry of a dump."""
    table.begin()
    news = table.dumped(keys(*entries), counters(*entries.values()), **options)
    table.end()
    return news.counters[1].tolist()


def test_what_was_there_before_counts_from_now_on():
    table = Table(10)
    assert dump(table, {1: 100, 2: 50}, baseline=True) == [0, 0]
    assert dump(table, {1: 130, 2: 50, 3: 7}) == [30, 0, 7]
    assert dump(table, {3: 8, 1: 130}) == [1, 0]


def test_an_end_tells_the_rest():
    table = Table(10)
    dump(table, {1: 100})
    news = table.ended(keys(1, 9), counters(120, 5))
    assert news.counters[1].tolist() == [20, 5]
    assert news.counters[3].tolist() == [40, 10]
    assert news.known.tolist() == [True, False]
    assert dump(table, {}) == []
    assert (len(table), table.vanished) == (0, 0)


def test_ends_of_before_the_beginning_are_not_counted():
    table = Table(10)
    dump(table, {1: 100}, baseline=True)
    news = table.ended(keys(1, 9), counters(120, 5), since_baseline=False)
    assert news.counters[1].tolist() == [20, 0]
    assert table.vanished == 1


def test_an_end_that_comes_after_the_dump_that_lacks_it():
    table = Table(10)
    dump(table, {1: 100})
    dump(table, {2: 1})
    assert table.ended(keys(1), counters(120)).counters[1].tolist() == [20]
    assert dump(table, {2: 1}) == [0]
    assert table.vanished == 0


def test_who_is_in_neither_of_two_dumps_is_forgotten_and_counted():
    table = Table(10)
    dump(table, {1: 100, 2: 5})
    dump(table, {2: 5})
    assert len(table) == 2
    dump(table, {2: 5})
    assert (len(table), table.vanished) == (1, 1)


def test_counters_that_fell_begin_anew():
    table = Table(10)
    dump(table, {1: 100})
    assert dump(table, {1: 30}) == [30]


def test_the_same_key_again_after_an_end():
    table = Table(10)
    dump(table, {1: 100})
    table.ended(keys(1), counters(100))
    assert dump(table, {1: 130}) == [130]
    assert table.ended(keys(1, 1), counters(140, 20)).counters[1].sum() in (30, 150)


def test_an_entry_twice_in_a_dump_counts_once():
    table = Table(10)
    table.begin()
    assert sorted(table.dumped(keys(1, 1, 2), counters(5, 5, 3)).counters[1].tolist()) == [0, 3, 5]
    table.end()
    table.begin()
    assert table.dumped(keys(1, 2, 1), counters(9, 3, 9)).counters[1].sum() == 4
    assert len(table) == 2


def test_beyond_the_bound_a_connection_is_told_of_when_it_ends():
    table = Table(2)
    assert sorted(dump(table, {1: 10, 2: 20, 3: 30})) == [0, 10, 20]
    assert (len(table), table.untracked) == (2, 1)
    told = dump(table, {1: 11, 2: 21, 3: 31})
    assert told == [1, 1, 0]
    assert table.ended(keys(3), counters(33)).counters[1].tolist() == [33]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=60), st.integers(1, 8))
def test_all_that_was_counted_is_told_once(steps, bound):
    """Connections grow, begin and end, between dumps; their sums are told in the end, whatever the bound."""
    table, alive, told, truth, number = Table(bound), {}, 0, 0, 0
    for slot, growth, ends in steps:
        if slot not in alive:
            number += 1
            alive[slot] = [number, 0]
        alive[slot][1] += growth
        truth += growth
        if ends:
            key, octets = alive.pop(slot)
            told += int(table.ended(keys(key), counters(octets)).counters[1].sum())
        if growth == 3:
            told += sum(dump(table, dict(alive.values())))
    for key, octets in alive.values():
        told += int(table.ended(keys(key), counters(octets)).counters[1].sum())
    assert told == truth
    assert table.vanished == 0
    assert len(table) <= bound
