"""Loss by sequence numbers: gaps, reorder, duplicates, wrap, restarts, both ways to count records."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.ingest.sequence import Sequence

WRAP = 1 << 32


def follow(steps, *, counts_records=True, chunk=None):
    """Feed (sequence number, records or None where unknown), in chunks."""
    sequence = Sequence(counts_records=counts_records)
    chunk = chunk or len(steps)
    for i in range(0, len(steps), chunk):
        part = steps[i : i + chunk]
        sequence.follow(
            np.array([s for s, _ in part], np.int64),
            np.array([n or 0 for _, n in part], np.int64),
            np.array([n is not None for _, n in part]),
        )
    return sequence


def lost(steps, **options):
    return follow(steps, **options).lost_records(final=True)


def numbered(counts, first=0, rule="before"):
    """(sequence number, records) of datagrams with so many records."""
    steps, total = [], first
    for n in counts:
        steps.append(((total if rule == "before" else total + n) % WRAP, n))
        total += n
    return steps


COUNTS = [5, 7, 1, 30, 2, 9, 9, 4]


@pytest.mark.parametrize("rule", ["before", "including"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_nothing_lost(rule, chunk):
    assert lost(numbered(COUNTS, 17, rule), chunk=chunk) == 0


@pytest.mark.parametrize("rule", ["before", "including"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_gap_is_what_was_in_it(rule, chunk):
    steps = numbered(COUNTS * 3, 17, rule)
    del steps[9:11]
    assert lost(steps, chunk=chunk) == 7 + 1


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_late_datagram_fills_its_gap(chunk):
    steps = numbered(COUNTS)
    steps[2], steps[4] = steps[4], steps[2]
    assert lost(steps, chunk=chunk) == 0


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_duplicate_makes_up_for_nothing(chunk):
    steps = numbered(COUNTS * 3)
    steps = [*steps[:6], steps[4], *steps[6:9], *steps[10:]]
    assert lost(steps, chunk=chunk) == 7


def test_a_duplicate_alone_is_no_loss():
    steps = numbered(COUNTS)
    assert lost([*steps[:3], steps[2], *steps[3:]]) == 0


@pytest.mark.parametrize("chunk", [1, 100])
def test_datagrams_without_records_are_no_duplicates_of_their_neighbours(chunk):
    """A message of templates has the number of the data that follow it."""
    steps = numbered([5, 0, 7, 0, 3, 4, 0, 8])
    steps[4], steps[5] = steps[5], steps[4]
    assert lost(steps, chunk=chunk) == 0


@pytest.mark.parametrize("rule", ["before", "including"])
@pytest.mark.parametrize("chunk", [1, 100])
def test_wrap(rule, chunk):
    steps = numbered(COUNTS * 2, WRAP - 20, rule)
    assert lost(steps, chunk=chunk) == 0
    assert follow(steps).restarts == 0
    del steps[3]
    assert lost(steps, chunk=chunk) == 30


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_restart_is_not_loss(chunk):
    steps = numbered(COUNTS, 3_000_000_000) + numbered(COUNTS)
    sequence = follow(steps, chunk=chunk)
    assert (sequence.lost_records(final=True), sequence.restarts) == (0, 1)


def test_v9_counts_datagrams_and_loses_their_mean_of_records():
    steps = [(i, 10) for i in range(20) if i not in (5, 6)]
    assert lost(steps, counts_records=False) == 20


def test_v9_duplicates_and_late_ones():
    order = [0, 1, 3, 2, 4, 4, 5, 8, 9]
    assert lost([(i, 10) for i in order], counts_records=False) == round(2 * 90 / 9)


def test_v9_wrap_and_restart():
    assert lost([((WRAP - 3 + i) % WRAP, 10) for i in range(6)], counts_records=False) == 0
    sequence = follow([(3_000_000_000 + i, 10) for i in range(5)] + [(i, 10) for i in range(5)], counts_records=False)
    assert (sequence.lost_records(final=True), sequence.restarts) == (0, 1)


@pytest.mark.parametrize("rule", ["before", "including"])
def test_an_unknown_count_is_bridged(rule):
    steps = numbered(COUNTS, 5, rule)
    steps[3] = (steps[3][0], None)
    assert lost(steps) == 0


def test_unknown_counts_at_the_end_of_a_chunk_start_anew():
    steps = [(s, None if i % 3 == 2 else n) for i, (s, n) in enumerate(numbered(COUNTS * 4))]
    assert lost(steps, chunk=3) == 0


def test_the_newest_gap_waits_for_a_late_datagram_and_loss_never_falls():
    steps = numbered(COUNTS)
    sequence = follow([*steps[:3], steps[4]])
    assert sequence.lost_records() == 0
    sequence.follow(np.array([steps[3][0]]), np.array([steps[3][1]]), np.array([True]))
    assert sequence.lost_records(final=True) == 0
    sequence.follow(np.array([steps[7][0]]), np.array([steps[7][1]]), np.array([True]))
    sequence.follow(np.array([steps[7][0] + 4]), np.array([1]), np.array([True]))
    assert sequence.lost_records() == 2 + 0 + sum(n for _, n in steps[5:7]) - 2


@given(
    st.lists(st.integers(1, 40), min_size=12, max_size=60),
    st.integers(0, WRAP - 1),
    st.sets(st.integers(4, 50), max_size=5),
    st.integers(1, 20),
    st.sampled_from(["before", "including"]),
)
def test_loss_is_what_was_dropped(counts, first, dropped, chunk, rule):
    """Datagrams are dropped after a few that show how the exporter counts."""
    counts = [3, 8, 5, *counts]
    steps = numbered(counts, first, rule)
    dropped = {i for i in dropped if i < len(steps) - 1}
    steps = [step for i, step in enumerate(steps) if i not in dropped]
    assert lost(steps, chunk=chunk) == sum(counts[i] for i in dropped)


@given(
    st.integers(0, WRAP - 1), st.lists(st.integers(0, 6), min_size=30, max_size=60), st.integers(1, 20), st.randoms()
)
def test_local_disorder_and_duplicates_are_not_loss(first, counts, chunk, random):
    steps = numbered([3, 8, 5, *counts], first)
    order = sorted(range(len(steps)), key=lambda i: i + random.uniform(0, 3) if i > 3 else i)
    shuffled = [steps[i] for i in order]
    again = random.sample(shuffled[4:], 3)
    assert lost(shuffled + again, chunk=chunk) == 0


@given(st.integers(0, WRAP - 1), st.sets(st.integers(1, 90), max_size=30), st.integers(1, 30))
def test_v9_loss_is_the_number_of_datagrams_times_the_mean(first, dropped, chunk):
    steps = [((first + i) % WRAP, 12) for i in range(100) if i not in dropped]
    assert lost(steps, counts_records=False, chunk=chunk) == 12 * len(dropped)
