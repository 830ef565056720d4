"""The window: flow records with equal keys become one row in each stretch of time.

Windows tumble on the agent's clock, so a skewed exporter cannot open windows in
the past or the future. A window is a list of partial aggregates that are merged
when they have grown (as a log-structured merge tree does): every row is merged
a few times at most, however long the window.

Memory is bounded by `max_keys`: a window with more keys is written out early,
in parts. Its rows are then partial sums (each exact), nothing is lost, and the
early flushes are counted.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowagent.aggregate.group import aggregate
from flowagent.batch import Batch
from flowagent.metrics import Family

_IMPLICIT_KEY = ("sampling_rate", "sampling_source", "inclusion_prob")
"""Rows that stand for different numbers of packets or records cannot be added up."""
_MIN_MERGE = 65536
"""Fewer partial rows than this are not worth a merge."""


class Window:
    """Aggregates what `process` gets; `every_ns` 0 passes rows through unchanged."""

    def __init__(
        self, every_ns: int, key: Iterable[str], measures: Iterable[str], max_keys: int, brought: Iterable[str] = ()
    ) -> None:
        """Columns in `brought` are part of the key where rows have them; nobody is asked to make them."""
        self._every_ns = every_ns
        self._brought = frozenset(brought).difference(key)
        self._key = tuple(dict.fromkeys((*key, *_IMPLICIT_KEY, *sorted(self._brought))))
        self._measures = tuple(measures)
        if "records" not in self._measures:
            self._measures += ("records",)
        self._max_keys = max_keys
        self._ends_ns: int | None = None
        self._partials: list[Batch] = []
        self._merged = Batch({})
        self._early = 0
        self._windows = 0

    @property
    def columns(self) -> frozenset[str] | None:
        """What the window needs of each record; None (all) where it passes rows through."""
        return frozenset((*self._key, *self._measures)) if self._every_ns else None

    @property
    def needs(self) -> frozenset[str]:
        """The columns of them that are to be made where rows lack them."""
        return (self.columns or frozenset()) - self._brought

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing."""
        return not self._partials and not len(self._merged)

    @property
    def starts_ns(self) -> int | None:
        """When the window began that is open now."""
        return self._ends_ns - self._every_ns if self._ends_ns is not None else None

    def process(self, batch: Batch, now_ns: int) -> Batch:
        """Take rows in; returns rows only when passing through or when the window had to be written out early."""
        return self.hold(self.condense(batch), now_ns)

    def condense(self, batch: Batch) -> Batch:
        """Rows of equal keys merged, which is what the window holds; the rows as they are where they pass through."""
        return aggregate(batch, self._key, self._measures) if self._every_ns and len(batch) else batch

    def hold(self, condensed: Batch, now_ns: int) -> Batch:
        """`process` for rows that are condensed already."""
        if not self._every_ns or not len(condensed):
            return condensed
        if self._ends_ns is None:
            self._ends_ns = (now_ns // self._every_ns + 1) * self._every_ns
        self._partials.append(condensed)
        enough = min(max(_MIN_MERGE, 2 * len(self._merged)), self._max_keys)
        if sum(len(p) for p in self._partials) >= enough:
            self._merge()
            if len(self._merged) > self._max_keys:
                self._early += 1
                return self._take()
        return Batch({})

    def flush(self, now_ns: int, *, final: bool = False) -> Batch:
        """The window's rows if it is over, or `final`."""
        if self._ends_ns is None or not (final or now_ns >= self._ends_ns):
            return Batch({})
        self._ends_ns = None
        self._windows += 1
        self._merge()
        return self._take()

    def _merge(self) -> None:
        parts = [self._merged, *self._partials] if len(self._merged) else self._partials
        self._partials = []
        if len(parts) > 1:
            self._merged = aggregate(Batch.concat(parts), self._key, self._measures)
        elif parts:
            self._merged = parts[0]

    def _take(self) -> Batch:
        rows, self._merged = self._merged, Batch({})
        return rows

    def count_on(self, old: Window) -> None:
        """Go on with the counts of the window that this one replaces."""
        if old is not self:
            self._windows, self._early = old._windows + self._windows, old._early + self._early

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        keys = len(self._merged) + sum(len(p) for p in self._partials)
        yield Family("flowagent_windows", "counter", "Windows written out.", (), {(): self._windows})
        early = "Times a window was written out early because it held more than max_keys keys."
        yield Family("flowagent_window_early_flushes", "counter", early, (), {(): self._early})
        yield Family("flowagent_window_rows", "gauge", "Aggregated rows held in memory.", (), {(): keys})
