"""The history: steps of recent time, each a weighted sample of what was in it, in bounded memory.

    window's rows -> open step (thinned while it grows) -> merged, thinned, named, packed -> folded as it ages

A step is closed when its time is over. The first KEPT steps of each length stay as they are; then those of each next
longer step become one: equal keys are merged, and the rows thinned again, so totals stay what they were in
expectation and errors are known. What is older than `keep`, or does not fit into `memory`, goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.history.packed import Step
from flowagent.history.rows import MEASURES, Rows, estimated, merge, thin
from flowagent.metrics import Family
from flowagent.schema import COLUMNS
from flowagent.sections import History as Settings
from flowagent.sections import Window

KEPT = 60
"""Steps of each length that are kept before they are folded."""
FOLDS = (6, 10, 6)
"""How many steps become one, and of those how many, and so on: 10 s, 1 min, 10 min, 1 h."""
_SCALE = ("sampling_rate", "sampling_source", "inclusion_prob")
_TIMES = ("received_ns", "start_ns", "end_ns")
_ENOUGH = 32768
"""Rows that are worth a round."""
_MANY = 4
"""Budgets that an open step may hold before it is thinned."""


class View(NamedTuple):
    """The history at a moment, immutable."""

    steps: tuple[Step, ...]
    through_ns: int | None
    """Up to here all is in it; None where nothing is yet."""
    columns: frozenset[str]
    """What its rows may be told apart by."""
    measures: frozenset[str]
    """The columns that there are estimates of."""
    length_ns: int
    """Of the finest steps."""


class History:
    """Add a window's rows in any number of parts; `view` is what can be asked. `name` says what rows are called."""

    def __init__(self, settings: Settings, window: Window, rng: np.random.Generator) -> None:
        self._rng = rng
        self.name: Callable[[Batch], Batch] = lambda batch: batch
        self.names: frozenset[str] = frozenset()
        self.brought: tuple[str, ...] = ()
        """Names that rows may have when they come; they tell rows apart where they are there."""
        self.version = 0
        """Grows whenever something is there that was not before."""
        self._evicted = self._folded = self._rows_in = 0
        self._settings, self._window = settings, window
        self._clear()

    def configure(self, settings: Settings, window: Window) -> None:
        """Go on with other settings; where steps are of another length now, begin anew."""
        before = self._length_ns
        self._settings, self._window = settings, window
        self._measure()
        if self._length_ns != before or not self.is_on:
            self._clear()

    def _measure(self) -> None:
        s, w = self._settings, self._window
        self._length_ns = round(s.step_seconds(w) * SECOND)
        self._keep_ns = round(s.keep_seconds * SECOND)
        self._bytes = s.bytes
        self._keys = (*dict.fromkeys((*w.key, "sampling_source")),)
        self._measures = tuple(name for name in MEASURES if name in (*w.measures, "records"))
        self._lengths = [self._length_ns]
        for fold in FOLDS:
            self._lengths.append(self._lengths[-1] * fold)

    def _clear(self) -> None:
        self._measure()
        self._steps: list[Step] = []
        self._used = 0
        self._through_ns: int | None = None
        self._since_ns: int | None = None
        self.drop()
        self.version += 1

    def drop(self) -> None:
        """Forget the open step."""
        self._raw: list[Batch] = []
        self._raw_rows = 0
        self._parts: list[Rows] = []
        self._open_ns: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._bytes > 0

    @property
    def columns(self) -> frozenset[str]:
        """What it needs of each row."""
        return frozenset((*self._keys, *self._measures, *_SCALE)) if self.is_on else frozenset()

    def view(self) -> View:
        """What can be asked now."""
        columns = frozenset(self._keys) | self.names | frozenset().union(*(step.columns for step in self._steps))
        measures = frozenset(self._measures) if self.is_on else frozenset()
        return View(tuple(self._steps), self._through_ns, columns, measures, self._length_ns)

    def add(self, batch: Batch, start_ns: int) -> None:
        """Rows of the window that began at `start_ns`; those of a step come before those of the next."""
        if not len(batch) or not self.is_on:
            return
        begin = start_ns // self._length_ns * self._length_ns
        if self._open_ns is not None and not -self._length_ns <= begin - self._open_ns <= 0:
            self._close()
        if self._open_ns is None:
            self._open_ns = begin
        self._rows_in += len(batch)
        self._raw.append(batch.select((*self._keys, *self.brought, *self._measures, *_SCALE, *_TIMES)))
        self._raw_rows += len(batch)
        if self._raw_rows >= _ENOUGH:
            self._digest()

    def seal(self, until_ns: int, *, final: bool = False) -> None:
        """All rows of before this time have been added; `final`: there will be no more."""
        if not self.is_on:
            return
        if self._open_ns is not None and (final or until_ns >= self._open_ns + self._length_ns):
            self._close()
        until_ns = until_ns // self._length_ns * self._length_ns
        if self._since_ns is None:
            self._since_ns = until_ns
        if self._open_ns is None and until_ns != self._through_ns and not final:
            self._through_ns = until_ns
            self.version += 1
            self._forget()

    def _digest(self) -> None:
        """Make estimates of the rows that came."""
        # Of a window that merges, the rows of one part have different keys already.
        is_merged = len(self._raw) == 1 and self._window.seconds > 0
        batch, self._raw, self._raw_rows = Batch.concat(self._raw), [], 0
        keys = dict.fromkeys((*self._keys, *self.brought, *_TIMES))
        rows = estimated(batch, [name for name in keys if name in batch], self._measures)
        self._parts.append(rows if is_merged else merge([rows]))
        if sum(map(len, self._parts)) > _MANY * self._settings.rows:
            self._parts = [self._thinned(self._parts)]

    def _thinned(self, parts: Sequence[Rows]) -> Rows:
        return thin(merge(parts) if len(parts) > 1 else parts[0], self._settings.rows, self._rng)

    def _close(self) -> None:
        """The open step is over."""
        assert self._open_ns is not None
        if self._raw:
            self._digest()
        rows, start_ns = self._thinned(self._parts), self._open_ns
        self._parts, self._open_ns = [], None
        named = self.name(rows.keys)
        columns = [name for name in named.columns if name in self._keys or COLUMNS[name].kind == "name"]
        rows = Rows(named, rows.value, rows.variance, rows.heaviest)
        self._keep(Step.of(rows, start_ns, self._length_ns, columns))
        self._through_ns = start_ns + self._length_ns
        self._since_ns = start_ns if self._since_ns is None else min(self._since_ns, start_ns)
        self.version += 1
        self._fold()
        self._forget()

    def _keep(self, step: Step, at: int | None = None) -> None:
        self._steps.insert(len(self._steps) if at is None else at, step)
        self._used += step.nbytes

    def _fold(self) -> None:
        """Make one step of those that have been kept long enough."""
        assert self._through_ns is not None
        for length, longer in zip(self._lengths, self._lengths[1:], strict=False):
            until = self._through_ns - KEPT * length
            old = [s for s in self._steps if s.length_ns == length and s.start_ns // longer * longer + longer <= until]
            for start in sorted({s.start_ns // longer * longer for s in old}):
                group = [s for s in old if s.start_ns // longer * longer == start]
                self._fold_one(group, start, longer)

    def _fold_one(self, group: Sequence[Step], start_ns: int, length_ns: int) -> None:
        at = next(i for i, step in enumerate(self._steps) if step is group[0])
        self._remove(group)
        rows = self._thinned([step.unpacked() for step in group])
        self._keep(Step.of(rows, start_ns, length_ns, list(rows.keys.columns)), at)
        self._folded += len(group)

    def _remove(self, gone: Sequence[Step]) -> None:
        self._steps = [step for step in self._steps if not any(step is one for one in gone)]
        self._used -= sum(step.nbytes for step in gone)

    def _forget(self) -> None:
        """What is too old, and what does not fit."""
        assert self._through_ns is not None
        assert self._since_ns is not None
        after = self._through_ns - self._keep_ns
        gone = [step for step in self._steps if step.end_ns <= after]
        self._remove(gone)
        while self._used > self._bytes and len(self._steps) > 1:
            gone.append(self._steps[0])
            self._remove(gone[-1:])
            self._evicted += 1
        # What came before is not known any more; silence is.
        self._since_ns = max([self._since_ns, after // self._length_ns * self._length_ns, *(s.end_ns for s in gone)])

    def describe(self) -> dict[str, float | int | None]:
        """What it holds, as plain data: from when to when it knows what came (s since 1970), and the rows of that."""
        oldest, newest = (self._since_ns, self._through_ns) if self._steps else (None, None)
        return {
            "oldest": oldest if oldest is None else oldest / SECOND,
            "newest": newest if newest is None else newest / SECOND,
            "windows": len(self._steps),
            "rows": sum(step.rows for step in self._steps),
            "step": self._length_ns / SECOND,
            "memory": self._used,
        }

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        if not self.is_on:
            return
        held = self.describe()
        yield Family("flowagent_history_steps", "gauge", "Steps of the history.", (), {(): held["windows"] or 0})
        yield Family("flowagent_history_rows", "gauge", "Rows of the history.", (), {(): held["rows"] or 0})
        yield Family("flowagent_history_bytes", "gauge", "Memory that the history takes.", (), {(): self._used})
        text = "How far the history goes back."
        age = (held["newest"] or 0) - (held["oldest"] or 0)
        yield Family("flowagent_history_seconds", "gauge", text, (), {(): age if math.isfinite(age) else 0})
        text = "Rows that came into the history, before they were sampled."
        yield Family("flowagent_history_rows_in", "counter", text, (), {(): self._rows_in})
        text = "Steps that went before their time, as the memory did not suffice."
        yield Family("flowagent_history_evictions", "counter", text, (), {(): self._evicted})
