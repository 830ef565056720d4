"""Offsets: committed once all before them is settled; what waits is not read again; doubles are counted."""

from hypothesis import given
from hypothesis import strategies as st

from flowagent.ingest.offsets import Commit, Offsets, Place

A, B = Place("flows", 0), Place("flows", 1)


def read(offsets, place, mark, first, after, newest=None):
    """Messages of a run that are news, as the source reads them."""
    known = offsets.fresh(place, list(range(first, after)), newest)
    offsets.read(place, mark, after)
    return after - first - known


def test_a_new_group_begins_where_it_is_told():
    offsets = Offsets()
    assert offsets.begin(A, None) is None
    assert read(offsets, A, 1, 40, 50) == 10
    assert offsets.position(A) == 50
    assert offsets.missing == 0
    offsets.settle(1)
    assert offsets.commits([A]) == {A: Commit(50, "read=50")}


def test_only_what_is_settled_is_committed_and_once():
    offsets = Offsets()
    assert offsets.begin(A, Commit(10, "")) == 10
    read(offsets, A, 1, 10, 20)
    read(offsets, A, 2, 20, 30)
    assert offsets.commits([A]) == {}
    offsets.settle(1)
    assert offsets.commits([A]) == {A: Commit(20, "read=30")}
    assert offsets.commits([B]) == {}
    offsets.committed(offsets.commits([A]))
    assert offsets.commits([A]) == {}
    assert not offsets.is_settled
    offsets.settle(2)
    assert offsets.is_settled
    assert offsets.commits([A]) == {A: Commit(30, "read=30")}


def test_the_next_reader_counts_what_the_last_one_had_read():
    offsets = Offsets()
    offsets.begin(A, Commit(20, "read=30"))
    assert read(offsets, A, 1, 20, 35) == 15
    assert offsets.repeated == 10


def test_what_waits_is_not_read_again_when_its_partition_comes_back():
    offsets = Offsets()
    offsets.begin(A, Commit(0, ""))
    read(offsets, A, 1, 0, 10)
    offsets.end([A])
    assert offsets.begin(A, Commit(5, "read=10")) == 10
    assert read(offsets, A, 2, 8, 12, newest=20) == 2  # fetched before the position was told
    offsets.settle(1)
    assert offsets.commits([A]) == {A: Commit(10, "read=12")}


def test_where_another_reader_got_further_it_begins_there():
    offsets = Offsets()
    offsets.begin(A, Commit(0, ""))
    read(offsets, A, 1, 0, 10)
    assert offsets.begin(A, Commit(50, "")) == 50
    offsets.settle(1)
    assert offsets.commits([A]) == {}


def test_a_partition_that_went_is_forgotten_once_it_is_settled():
    offsets = Offsets()
    for place in (A, B):
        offsets.begin(place, Commit(0, ""))
        read(offsets, place, 1 if place == A else 2, 0, 10)
    offsets.settle(1)
    offsets.end([A, B])
    assert (offsets.position(A), offsets.position(B)) == (None, 10)
    assert not offsets.is_settled


def test_what_retention_removed_is_counted_once():
    offsets = Offsets()
    offsets.begin(A, Commit(10, ""))
    read(offsets, A, 1, 100, 110)
    read(offsets, A, 2, 115, 120)  # a transaction's mark, or a message that was compacted away
    assert offsets.missing == 90


def test_a_topic_that_was_made_anew_is_read():
    offsets = Offsets()
    offsets.begin(A, Commit(1000, ""))
    assert read(offsets, A, 1, 0, 5, newest=5) == 5
    offsets.settle(1)
    assert offsets.commits([A]) == {A: Commit(5, "read=5")}


def test_strange_notes_mean_nothing():
    offsets = Offsets()
    offsets.begin(A, Commit(0, "read=99999999999999999999999"))
    read(offsets, A, 1, 0, 5)
    assert offsets.repeated == 0


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=30))
def test_a_commit_never_passes_what_is_not_settled(steps):
    offsets, after, delivered, settled = Offsets(), 0, [], 0
    offsets.begin(A, Commit(0, ""))
    for mark, (count, settles) in enumerate(steps, 1):
        read(offsets, A, mark, after, after + count)
        after += count
        delivered.append(after)
        if settles:
            settled = mark - 1
            offsets.settle(settled)
        commit = offsets.commits([A]).get(A)
        assert (commit.offset if commit else 0) == (delivered[settled - 1] if settled else 0)
