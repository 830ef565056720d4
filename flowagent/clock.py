"""Time as an argument: components ask their Context's clock, tests turn it by hand."""

from __future__ import annotations

import time
from typing import Protocol

SECOND = 1_000_000_000
"""Nanoseconds in a second."""


class Clock(Protocol):
    """Where a component gets the time from."""

    def now_ns(self) -> int:
        """Wall clock: nanoseconds since 1970 (UTC)."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; only differences mean something."""


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        return time.time_ns()  # noqa: TID251 - here it comes from

    def monotonic(self) -> float:
        return time.monotonic()  # noqa: TID251 - here it comes from


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._now_ns / SECOND

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now_ns += round(seconds * SECOND)
