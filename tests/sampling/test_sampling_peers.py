"""Pairs of addresses are new once within the horizon, whoever began, and memory does not grow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import v4

from flowagent.batch import Batch, constant
from flowagent.clock import SECOND
from flowagent.sampling.peers import Peers

HOUR = 3600 * SECOND


def talk(*pairs):
    source, destination = (np.array(numbers, np.uint64) for numbers in zip(*pairs, strict=True))
    return Batch({"src_addr": v4(source), "dst_addr": v4(destination)})


def many(first, count):
    numbers = np.arange(first, first + count, dtype=np.uint64)
    return Batch({"src_addr": v4(numbers), "dst_addr": v4(np.full(count, 1, np.uint64))})


def new(peers, batch, now_ns=0):
    return peers.are_new(batch, now_ns).tolist()


def test_a_pair_is_new_once():
    peers = Peers(HOUR)
    assert new(peers, talk((1, 2), (1, 3))) == [True, True]
    assert new(peers, talk((1, 2), (1, 4), (1, 3))) == [False, True, False]


def test_all_rows_of_a_new_pair_are_new():
    assert new(Peers(HOUR), talk((1, 2), (1, 2), (2, 1))) == [True, True, True]


def test_the_direction_does_not_matter():
    peers = Peers(HOUR)
    peers.are_new(talk((1, 2)), 0)
    assert new(peers, talk((2, 1))) == [False]


def test_the_version_of_ip_does():
    peers = Peers(HOUR)
    peers.are_new(talk((1, 2)), 0)
    six = Batch({"src_addr": np.array([[0], [1]], np.uint64), "dst_addr": np.array([[0], [2]], np.uint64)})
    assert new(peers, six) == [True]


@given(seen=st.integers(0, 10 * HOUR), passed=st.integers(0, 3 * HOUR))
def test_a_pair_is_forgotten_after_the_horizon_and_an_eighth_at_most(seen, passed):
    peers = Peers(HOUR)
    peers.are_new(talk((1, 2)), seen)
    [is_new] = new(peers, talk((1, 2)), seen + passed)
    if passed < HOUR:
        assert not is_new
    if passed >= HOUR * 9 / 8:
        assert is_new


@pytest.mark.parametrize("every", [HOUR // 3, HOUR - 1])
def test_who_goes_on_talking_is_never_new_again(every):
    peers = Peers(HOUR)
    peers.are_new(talk((1, 2)), 0)
    assert not any(new(peers, talk((1, 2)), i * every)[0] for i in range(1, 300))


@pytest.mark.parametrize("steps", [8, 24, 100])
def test_a_pair_is_forgotten_while_others_go_on_talking(steps):
    peers = Peers(HOUR)
    peers.are_new(talk((1, 2)), 0)
    for step in range(1, steps + 1):
        peers.are_new(talk((3, 4)), HOUR * 9 // 8 * step // steps)
    assert new(peers, talk((1, 2), (3, 4)), HOUR * 9 // 8) == [True, False]


def test_the_steps_come_round():
    # The number of a step is kept in a byte, so after 255 of them it is another's.
    peers = Peers(8)
    for now in range(0, 3000, 10):
        assert new(peers, talk((1, 2)), now) == [True], now
        assert new(peers, talk((1, 2)), now + 1) == [False], now


@pytest.mark.parametrize("back", [1, HOUR, 20 * HOUR, 1000 * HOUR])
def test_a_clock_that_steps_back_does_no_harm(back):
    peers, now = Peers(HOUR), 2000 * HOUR
    peers.are_new(talk((1, 2)), now)
    peers.are_new(talk((3, 4)), now - back)
    assert new(peers, talk((3, 4)), now - back) == [False]
    if back <= HOUR:
        assert new(peers, talk((1, 2)), now - back) == [False]
    assert new(peers, talk((3, 4)), now - back + 2 * HOUR) == [True]


def test_next_to_no_new_pair_passes_for_a_known_one():
    peers = Peers(HOUR)
    peers.are_new(many(0, 100_000), 0)
    missed = 1 - peers.are_new(many(100_000, 100_000), 0).mean()
    assert missed == pytest.approx(100_000 / 2**22, rel=0.15)


def test_memory_is_the_same_for_any_number_of_pairs():
    peers = Peers(HOUR)
    for first in range(0, 500_000, 100_000):
        peers.are_new(many(first, 100_000), 0)
    assert sum(getattr(value, "nbytes", 0) for value in vars(peers).values()) == 1 << 22


def test_rows_without_addresses_are_not_new():
    both = talk((1, 2))
    assert new(Peers(HOUR), both.select(("src_addr",))) == [False]
    assert new(Peers(HOUR), Batch({"proto": constant(6, 3, np.uint8)})) == [False] * 3
    assert new(Peers(HOUR), both.rows(0, 0)) == []


def test_unknown_addresses_are_one_address():
    masked = Batch(
        talk((1, 2), (3, 4)).columns, valid={name: np.zeros(2, np.bool_) for name in ("src_addr", "dst_addr")}
    )
    peers = Peers(HOUR)
    assert new(peers, masked) == [True, True]
    assert new(peers, masked) == [False, False]


def test_columns_that_are_the_same_everywhere():
    batch = Batch({"src_addr": constant((0, 7), 3, np.uint64), "dst_addr": constant((0, 8), 3, np.uint64)})
    peers = Peers(HOUR)
    assert new(peers, batch) == [True] * 3
    assert new(peers, batch) == [False] * 3
