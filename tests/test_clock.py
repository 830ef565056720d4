"""Clocks: the machine's and the one that is turned by hand."""

import time

from flowagent.clock import SECOND, ManualClock, SystemClock


def test_the_system_clock_says_what_the_machine_says():
    before = time.time_ns()  # noqa: TID251
    now = SystemClock().now_ns()
    assert before <= now <= time.time_ns()  # noqa: TID251


def test_the_monotonic_clock_never_goes_back():
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_a_manual_clock_stands_still():
    clock = ManualClock(5 * SECOND)
    assert (clock.now_ns(), clock.monotonic()) == (5 * SECOND, 5.0)
    assert clock.now_ns() == 5 * SECOND


def test_advancing_moves_both_clocks():
    clock = ManualClock()
    clock.advance(1.5)
    clock.advance(0.000_000_001)
    assert clock.now_ns() == 1_500_000_001
    assert clock.monotonic() == 1.500_000_001
