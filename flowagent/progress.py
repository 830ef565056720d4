"""How far what sources delivered is settled, so that one that reads from a log can say there how far it is done.

    deliver -> stages (a window holds records for a while) -> tickets, one for each part of the rows -> sinks

Every delivery has a number, its mark. A record is settled once it is accounted for in every sink's queue: sent,
refused, dropped for a counted reason, or in a spool on disk. Rows of a window come from many deliveries, so marks
are followed in spans: one ends when the stages are empty, and is settled when all tickets made in it are. Marks are
settled in their order.
"""

from __future__ import annotations

from collections import deque

_MAX_SPANS = 1024
"""Spans that are followed at once; with more, the last one is not ended, which is only less precise."""


class Span:
    """Deliveries that are settled together."""

    __slots__ = ("_progress", "ends", "open")

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.open = 0
        """What is not settled: one for each ticket and sink."""
        self.ends: int | None = None
        """Mark of the last delivery; None while there may be more."""

    def settle(self) -> None:
        """One sink is through with one ticket, or has it on disk."""
        self.open -= 1
        if not self.open:
            self._progress.advance()


class Progress:
    """Marks of one pipeline, in their order."""

    def __init__(self) -> None:
        self.delivered = 0
        """Mark of the last delivery."""
        self.settled = 0
        """All deliveries up to this mark are settled."""
        self._spans: deque[Span] = deque([Span(self)])

    @property
    def span(self) -> Span:
        """The one that tickets made now belong to."""
        return self._spans[-1]

    def next(self) -> int:
        """The mark of one more delivery."""
        self.delivered += 1
        return self.delivered

    def end_span(self) -> None:
        """Nothing of what was delivered is in the stages: all of it has become tickets, or is accounted for."""
        if len(self._spans) < _MAX_SPANS and self.delivered > self.settled:
            self.span.ends = self.delivered
            self._spans.append(Span(self))
            self.advance()

    def advance(self) -> None:
        """Look how far marks are settled now."""
        while self._spans[0].ends is not None and not self._spans[0].open:
            self.settled = self._spans.popleft().ends or 0
