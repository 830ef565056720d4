"""Loss between exporter and agent, read from the sequence numbers of one session.

As RTP does it (RFC 3550, appendix A.3): lost = how far the numbers went, less
what arrived. A late datagram fills its own gap, and a duplicate counts once.

What the number counts differs: the records sent before this datagram (RFC
7011, section 3.1; NetFlow v5), those sent up to and including it (softflowd's
IPFIX; Open vSwitch's v5, less one), or the datagrams (NetFlow v9). Both ways
of counting records are followed, and the one that meets fewer odd steps is
believed: the wrong one finds one nearly everywhere.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from flowagent.batch import Array

Rule = Literal["before", "including", "datagrams"]

_WRAP, _HALF = 1 << 32, 1 << 31
_BACK, _AHEAD = 1 << 16, 1 << 24
"""Steps back or ahead by more than these are a restart of the exporter, not loss."""
_CERTAIN = 8
"""So many more odd steps settle that a way of counting is not this exporter's."""
_RECENT = 256
"""So many datagrams are remembered to tell a duplicate from a late one."""


class Sequence:
    """Follows one session; feed it every datagram in order of arrival."""

    def __init__(self, *, counts_records: bool) -> None:
        rules: tuple[Rule, ...] = ("before", "including") if counts_records else ("datagrams",)
        self._followers = [_Follower(rule) for rule in rules]
        self._records, self._datagrams = 0, 0
        self._lost = 0

    def follow(self, sequence: Array, counts: Array, counted: Array) -> None:
        """(k,) int64 sequence numbers and record counts; `counted` False where the count is not known."""
        self._datagrams += len(sequence)
        self._records += int(counts.sum())
        for follower in self._followers:
            follower.follow(sequence, counts, counted)
        best = self._best
        if any(f.odd - best.odd >= _CERTAIN for f in self._followers):
            self._followers = [best]

    @property
    def restarts(self) -> int:
        """Times the numbers began anew."""
        return self._best.restarts

    def lost_records(self, *, final: bool = False) -> int:
        """Records lost so far, never falling; a gap of the newest datagrams counts only when `final`.

        NetFlow v9 numbers datagrams: there it is their number times the
        session's mean records in a datagram, rounded.
        """
        missing = self._best.missing if final else self._best.settled
        if self._best.rule == "datagrams" and self._datagrams:
            missing = round(missing * self._records / self._datagrams)
        self._lost = max(self._lost, missing)
        return self._lost

    @property
    def _best(self) -> _Follower:
        return min(self._followers, key=lambda f: f.odd)


class _Follower:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.odd = 0
        self.restarts = 0
        self.missing = 0
        self.settled = 0
        self._high: int | None = None  # what the next datagram should begin with
        self._last: int | None = None  # the last sequence number, where its record count was known
        self._recent = np.zeros(0, np.int64)

    def follow(self, sequence: Array, counts: Array, counted: Array) -> None:
        if len(sequence) == 1 and bool(counted[0]) and self._follow_one(int(sequence[0]), int(counts[0])):
            return
        start, span = self._spans(sequence, counts, counted)
        before = self.missing
        if self._high is not None and self._in_order(start, span):
            start = start[:0]
        while len(start):
            if self._high is None:
                self._high = int(start[0])
            ahead = (start - self._high + _HALF) % _WRAP - _HALF
            jumps = np.flatnonzero((ahead > _AHEAD) | (ahead < -_BACK))
            n = int(jumps[0]) if len(jumps) else len(start)
            if n:
                self._take(start[:n], ahead[:n], span[:n])
            if n < len(start):
                self.restarts += 1
                self._high = None
                self._recent = self._recent[:0]
            start, span = start[n:], span[n:]
        # A gap seen only now may still be filled by a datagram on its way.
        self.settled = max(self.settled, min(before, self.missing))

    def _follow_one(self, sequence: int, count: int) -> bool:
        """The case of hundreds of exporters with a datagram each: in order, without arrays."""
        start = (sequence - count) % _WRAP if self.rule == "including" else sequence
        if start != self._high or self._last is None:
            return False
        span = 1 if self.rule == "datagrams" else count
        self._high = (start + span) % _WRAP
        self._last = sequence
        self._remember(np.array([start]), np.array([span]))
        self.settled = max(self.settled, self.missing)
        return True

    def _in_order(self, start: Array, span: Array) -> bool:
        """The usual case, without the bookkeeping: every datagram begins where the one before ended."""
        end = start + span
        if start[0] != self._high or bool((start[1:] != end[:-1]).any()):
            return False
        self._high = int(end[-1]) % _WRAP
        self._remember(start, span)
        return True

    def _remember(self, start: Array, span: Array) -> None:
        if not bool(span.all()):
            start = start[span > 0]  # one without records (templates) has the number of the next
        self._recent = start[-_RECENT:] if len(start) >= _RECENT else np.concatenate([self._recent, start])[-_RECENT:]

    def _take(self, start: Array, ahead: Array, span: Array) -> None:
        end = ahead + span
        due = np.maximum.accumulate(np.concatenate([np.zeros(1, np.int64), end[:-1]]))
        odd = ahead != due
        received = int(span.sum())
        if bool(odd.any()):
            self.odd += int(np.count_nonzero(odd))
            if bool((ahead < due).any()):
                received -= int(span[span > 0][self._is_duplicate(start[span > 0])].sum())
        top = max(0, int(end.max()))
        self.missing += top - received
        self._high = (int(self._high or 0) + top) % _WRAP
        self._remember(start, span)

    def _is_duplicate(self, start: Array) -> Array:
        order = np.argsort(start, kind="stable")
        again = np.zeros(len(start), np.bool_)
        again[order[1:]] = start[order[1:]] == start[order[:-1]]
        return again | np.isin(start, self._recent)

    def _spans(self, sequence: Array, counts: Array, counted: Array) -> tuple[Array, Array]:
        """First unit and number of units of each datagram; one with an unknown count reaches to its neighbour."""
        if self.rule == "datagrams":
            self._last = int(sequence[-1])
            return sequence, np.ones_like(sequence)
        unknown = not bool(counted.all())
        if self.rule == "before":
            span = counts
            if unknown:
                following = np.append(sequence[1:], sequence[-1])
                span = np.where(counted, counts, (following - sequence + _HALF) % _WRAP - _HALF)
                span = np.where((span < 0) | (span > _BACK), 0, span)
            if self._last is None:
                self._high = None  # the last datagram's count was not known: begin anew
            self._last = int(sequence[-1]) if counted[-1] else None
            return sequence, span
        start = (sequence - counts) % _WRAP
        if unknown:
            earlier = np.concatenate([np.array([self._last if self._last is not None else sequence[0]]), sequence[:-1]])
            start = np.where(counted, start, earlier)
        self._last = int(sequence[-1])
        span = (sequence - start + _HALF) % _WRAP - _HALF
        return start, np.where((span < 0) | (span > _BACK), 0, span)
