"""Room is shared among senders."""

from hypothesis import given
from hypothesis import strategies as st

from flowagent.ingest.fair import FairTable


def keys(table):
    return [key for key, _ in table.items()]


def test_who_is_alone_has_all_the_room_and_forgets_what_was_told_of_least_recently():
    table = FairTable(3)
    for key in "abc":
        table.put(key, key.upper(), "one")
    assert table.get("a") == "A"
    table.put("d", "D", "one")
    assert (keys(table), table.evicted, table.get("b")) == (["c", "a", "d"], 1, None)


def test_who_has_more_than_a_share_makes_room_for_others():
    table = FairTable(10)
    for n in range(100):
        table.put(("loud", n), n, "loud")
    for n in range(5):
        table.put(("quiet", n), n, "quiet")
        for again in range(90, 100):  # all of the loud one's are newer
            table.get(("loud", again))
    for n in range(100, 200):
        table.put(("loud", n), n, "loud")
    assert [key for key in keys(table) if key[0] == "quiet"] == [("quiet", n) for n in range(5)]


def test_a_key_stays_with_who_told_of_it_first():
    table = FairTable(4)
    table.put("a", 1, "one")
    for value in range(9):
        table.put("a", value, "two")
    assert dict(table.items()) == {"a": ("one", 8)}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=60), st.integers(1, 6))
def test_it_is_bounded_and_its_books_agree(puts, most):
    table = FairTable(most)
    told = set()
    for number, sender in puts:
        table.put(number, sender, sender)
        told.add(number)
        assert keys(table)[-1] == number
        assert len(table) <= most
    held = {key: holder for holder, mine in table._held.items() for key in mine}
    assert held == {key: holder for key, (holder, _) in table.items()}
    assert table.evicted >= len(told) - len(table)
