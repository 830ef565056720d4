"""The bounded queue in front of a sink."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.batch import Batch
from flowagent.channel import Channel, Item
from flowagent.outcome import Outcomes, Ticket


@pytest.fixture
def outcomes():
    return Outcomes()


def item(outcomes, rows):
    outcomes.decoded += rows
    return Item(Batch({"bytes": np.arange(rows, dtype="u8")}), Ticket(outcomes, rows, 1))


async def contents(channel):
    channel.close()
    out = []
    while (got := await channel.get()) is not None:
        out.append(len(got.batch))
    return out


async def test_first_in_first_out(outcomes):
    channel = Channel(100)
    for rows in (1, 2, 3):
        channel.put(item(outcomes, rows))
    assert channel.rows == 6
    assert await contents(channel) == [1, 2, 3]
    assert channel.rows == 0


async def test_full_it_drops_the_oldest_and_counts(outcomes):
    channel = Channel(10)
    for rows in (4, 5, 6):
        channel.put(item(outcomes, rows))
    assert (channel.rows, channel.dropped_rows) == (6, 9)
    assert outcomes.counts["dropped", "sink_queue_full"] == 9
    assert await contents(channel) == [6]


async def test_exactly_full_nothing_is_dropped(outcomes):
    channel = Channel(10)
    channel.put(item(outcomes, 4))
    channel.put(item(outcomes, 6))
    assert (channel.rows, channel.dropped_rows) == (10, 0)


async def test_one_batch_larger_than_the_queue_is_kept(outcomes):
    channel = Channel(10)
    channel.put(item(outcomes, 50))
    assert await contents(channel) == [50]


async def test_get_waits_for_what_comes(outcomes):
    channel = Channel(10)
    async with asyncio.TaskGroup() as group:
        taker = group.create_task(channel.get())
        await asyncio.sleep(0)
        assert not taker.done()
        channel.put(item(outcomes, 3))
    assert len(taker.result().batch) == 3


async def test_closing_wakes_who_waits():
    channel = Channel(10)
    async with asyncio.TaskGroup() as group:
        taker = group.create_task(channel.get())
        await asyncio.sleep(0)
        channel.close()
    assert taker.result() is None


async def test_closed_it_is_emptied_first(outcomes):
    channel = Channel(10)
    channel.put(item(outcomes, 3))
    channel.close()
    assert len((await channel.get()).batch) == 3
    assert await channel.get() is None
    assert await channel.get() is None


async def test_abandoning_drops_all_that_is_left(outcomes):
    channel = Channel(20)
    channel.put(item(outcomes, 8))
    channel.put(item(outcomes, 7))
    channel.abandon("shutdown")
    assert (channel.rows, channel.dropped_rows) == (0, 15)
    assert outcomes.counts["dropped", "shutdown"] == 15


@given(sizes=st.lists(st.integers(1, 30), max_size=30), limit=st.integers(1, 60))
def test_rows_given_are_rows_taken_or_dropped(sizes, limit):
    outcomes = Outcomes()

    async def run():
        channel = Channel(limit)
        for rows in sizes:
            channel.put(item(outcomes, rows))
            assert channel.rows <= max(limit, rows)
        dropped = channel.dropped_rows
        return dropped, await contents(channel)

    dropped, left = asyncio.run(run())
    assert sum(left) + dropped == sum(sizes)
    assert left == sizes[len(sizes) - len(left) :]
    assert outcomes.counts["dropped", "sink_queue_full"] == dropped
