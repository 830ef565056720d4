"""Rows that are taken and given back."""

from flowagent.enrich.kube_slots import Slots


def test_rows_keep_their_values_while_the_arrays_grow():
    slots = Slots({"a": "u8", "b": "i4"})
    rows = [slots.take() for _ in range(100)]
    for row in rows:
        slots["a"][row], slots["b"][row] = row, -row
    assert slots["a"][:100].tolist() == list(range(100))
    assert slots["b"][:100].tolist() == [-row for row in range(100)]
    assert (len(slots), slots.size) == (100, 100)


def test_a_row_that_was_given_back_is_taken_again():
    slots = Slots({"a": "u8"})
    first, second = slots.take(), slots.take()
    slots.give(first)
    assert len(slots) == 1
    assert slots.take() == first != second
    assert slots.size == 2
