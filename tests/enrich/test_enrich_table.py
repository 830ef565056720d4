"""Who held an address, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent import names
from flowagent.enrich.table import FOREVER, AddressTable, text_column

WORD = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
TIME = st.integers(0, 20)
HOLDERS = st.lists(st.tuples(st.tuples(WORD, WORD), TIME, st.one_of(TIME, st.just(FOREVER))), max_size=60)


def table_of(holders: list[tuple[tuple[int, int], int, int]]) -> AddressTable:
    addresses = np.array([h[0] for h in holders], np.uint64).reshape(-1, 2).T
    since, until = (np.array([h[i] for h in holders], np.int64) for i in (1, 2))
    return AddressTable(addresses, since, until, np.arange(len(holders), dtype=np.int32))


def holder(holders: list[tuple[tuple[int, int], int, int]], address: tuple[int, int], at: int) -> int:
    """The last one who came by then, if he is still there."""
    found = [(since, i) for i, (a, since, until) in enumerate(holders) if a == address and since <= at < until]
    return max(found)[1] if found else -1


@given(HOLDERS, st.lists(st.tuples(st.tuples(WORD, WORD), TIME), max_size=30), st.data())
def test_it_finds_who_held_an_address_then(holders, others, data) -> None:  # type: ignore[no-untyped-def]
    known = st.tuples(st.sampled_from([h[0] for h in holders]), TIME) if holders else st.nothing()
    asked = others + (data.draw(st.lists(known, max_size=30)) if holders else [])
    addresses = np.array([a for a, _ in asked], np.uint64).reshape(-1, 2).T
    at = np.array([t for _, t in asked], np.int64)
    found = table_of(holders).find(addresses, at)
    assert found.dtype == np.int32
    assert found.tolist() == [holder(holders, *one) for one in asked]


def test_without_a_time_it_is_who_holds_it_now() -> None:
    table = table_of([((0, 1), 0, 5), ((0, 1), 5, FOREVER), ((0, 2), 0, 5)])
    assert table.find(np.array([[0, 0, 0], [1, 2, 3]], np.uint64)).tolist() == [1, -1, -1]


def test_an_empty_table_finds_nobody() -> None:
    assert table_of([]).find(np.array([[0], [1]], np.uint64), np.array([1])).tolist() == [-1]


def test_many_addresses_are_all_found() -> None:
    rng = np.random.default_rng(1)
    addresses = np.stack([rng.integers(0, 2, 50_000, np.uint64), rng.permutation(50_000).astype(np.uint64)])
    always, forever = np.zeros(50_000, np.int64), np.full(50_000, FOREVER)
    table = AddressTable(addresses, always, forever, np.arange(50_000, dtype=np.int32))
    assert (table.find(addresses, np.zeros(50_000, np.int64)) == np.arange(50_000)).all()
    assert table.nbytes < 16_000_000


def test_the_name_of_nobody_is_none() -> None:
    column = text_column(["web", "db"])
    assert names.texts(column[[0, 1, -1]]).tolist() == [b"web", b"db", b""]


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_an_address_may_have_had_many_holders(count: int) -> None:
    table = table_of([((0, 7), i, i + 1) for i in range(count)])
    address = np.array([[0] * count, [7] * count], np.uint64)
    assert table.find(address, np.arange(count)).tolist() == list(range(count))
