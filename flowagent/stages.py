"""What happens to every record between its source and the sinks: sync, in this order, and without I/O.

    prepare -> enrich -> dedup -> counters -> shed -> policies -> window -> history -> sample -> enrich

`run` feeds it from sources and `replay` from captures; both forward what comes
out. Of records only those columns are enriched that somebody here looks at; of
rows that are forwarded, few as they are, all others. Records gather until there
are enough to be worth a round of policies and window; counters do not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flowagent.aggregate.window import Window
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Analysis, Context, Enricher
from flowagent.config import Config
from flowagent.dedup import Deduplicate
from flowagent.history.store import History
from flowagent.metrics import Family
from flowagent.naming import Names
from flowagent.outcome import Outcomes
from flowagent.prepare import COLUMNS as PREPARE_COLUMNS
from flowagent.prepare import Prepare
from flowagent.sampling.sampler import Sampler
from flowagent.sampling.shed import Shed
from flowagent.scale import probabilities
from flowagent.sections import KEY

_ENOUGH = 32768
"""Records that are worth a round: larger groups, fewer calls."""
NOTHING = Batch({})


def brought(config: Config) -> tuple[str, ...]:
    """Columns of names that rows of sources may have already, which are part of the default key."""
    names = (name for kind in config.ingest for name in kind.settings.brings)
    return tuple(dict.fromkeys(names)) if config.window.key == KEY else ()


class Stages:
    """`process` takes decoded records in, `tick` looks at the time; both return rows to forward.

    No input may stop the agent: what a fault of a stage costs is counted and
    shown, and a fault of an analysis costs only what that one would have said.
    """

    def __init__(self, config: Config, outcomes: Outcomes, ctx: Context, history: History | None = None) -> None:
        self._outcomes = outcomes
        self._ctx = ctx
        self._prepare = Prepare(outcomes)
        self._shed = Shed(outcomes, ctx.rng)
        self._gathered: list[Batch] = []
        self._gathered_rows = 0
        self._gathered_ns = 0
        self._starts_ns: int | None = None
        self._inside = 0
        self._faults = 0
        self._config = config
        self.analyses: list[Analysis] = []
        self._names = Names(ctx)
        self._dedup = self._make_dedup(config)
        self.history = history or History(config.history, config.window, ctx.rng)
        self.history.name = self._names.named
        self._window, self._sampler = self._make(config)

    def configure(self, config: Config) -> None:
        """Change window and sampling; whoever calls has taken out what was in them."""
        old_window, old_sampler = self._window, self._sampler
        self._config = config
        if config.dedup != self._dedup.config:
            self._ctx.metrics.keep(self._dedup.families())
            self._dedup = self._make_dedup(config)
        self.history.configure(config.history, config.window)
        self._window, self._sampler = self._make(config)
        self._window.count_on(old_window)
        if self._sampler is not None and old_sampler is not None:
            self._sampler.count_on(old_sampler)
        elif old_sampler is not None:
            self._ctx.metrics.keep(old_sampler.families())

    def _make(self, config: Config) -> tuple[Window, Sampler | None]:
        w, s = config.window, config.sampling
        every_ns = round(w.seconds * SECOND)
        self._every_ns = every_ns or SECOND
        self._shed.configure(s.objectives if s.overload else None)
        sampler = Sampler(s, self._every_ns, self._outcomes) if s.budget is not None else None
        self.history.brought = brought(config)
        return Window(every_ns, w.key, w.measures, w.max_keys, self.history.brought), sampler

    @property
    def is_empty(self) -> bool:
        """Whether nothing of what came in is inside: all of it was forwarded, or is accounted for."""
        is_sampled = self._sampler is None or self._sampler.is_empty
        return not self._gathered and self._window.is_empty and is_sampled

    def _make_dedup(self, config: Config) -> Deduplicate:
        return Deduplicate(config.dedup, self._outcomes, int(self._ctx.rng.integers(2**63)))

    @property
    def window_columns(self) -> frozenset[str] | None:
        """What window and sampling need of each record; None (all) where rows pass through."""
        return self._window.columns

    @property
    def analysed_columns(self) -> frozenset[str]:
        """What is needed of each record whatever is forwarded."""
        history = self.history.columns if self._window.columns is None else frozenset()
        looked_at = (a.columns for a in self.analyses)
        return PREPARE_COLUMNS.union(self._names.needs, self._dedup.columns, history, *looked_at)

    def connect(self, enrichers: Sequence[Enricher], analyses: Sequence[Analysis]) -> None:
        """From now on these say what values mean, and these look at records."""
        self.analyses = list(analyses)
        looked_at = (a.columns for a in self.analyses)
        held = self.history.columns if self._window.columns is None else self._window.needs
        self._names.connect(enrichers, self._dedup.columns.union(held, *looked_at))
        self.history.names = self._names.names

    def process(self, batch: Batch, now_ns: int, backlog: float = 0.0) -> Batch:
        """Take records in; `backlog` is the part of the sources' buffers that is filled."""
        return self._names.of_rows(self._process(batch, now_ns, backlog))

    def _process(self, batch: Batch, now_ns: int, backlog: float) -> Batch:
        self._shed.follow(backlog)
        entered = self._guarded(lambda: self._enter(batch, now_ns), batch.record_count)
        if entered is not None:
            if not self._gathered:
                self._gathered_ns = now_ns
            self._gathered.append(entered)
            self._gathered_rows += len(entered)
        if self._gathered_rows >= _ENOUGH or self._window.columns is None:
            return self._round()
        return NOTHING

    def tick(self, now_ns: int, backlog: float | None = None, *, final: bool = False) -> Batch:
        """What is due by now; all that is left when `final`. With a `backlog` overload ends though nothing comes."""
        return self._names.of_rows(self._tick(now_ns, backlog, final=final))

    def _tick(self, now_ns: int, backlog: float | None, *, final: bool) -> Batch:
        if backlog is not None:
            self._shed.follow(backlog)
        early = self._round()
        for analysis in self.analyses:
            self._safely(analysis, lambda a: a.tick(now_ns))
        rows = [early]
        if final or self._is_over(now_ns):
            rows.append(self._held(self._end_period, 0))
        until_ns = now_ns // self._every_ns * self._every_ns if self._starts_ns is None else self._starts_ns
        # Also where a window is cut short (a reload, a source in a hurry) its step goes on.
        self._remember(lambda history: history.seal(until_ns))
        return Batch.concat(rows)

    def _enter(self, batch: Batch, now_ns: int) -> Batch:
        batch = self._names.of_records(self._prepare.process(batch, now_ns))
        batch = self._dedup.process(batch, now_ns)
        self._analyse(batch, batch, now_ns, every_record=True)
        return self._shed.process(batch)

    def _round(self) -> Batch:
        """Pass on what has gathered."""
        batch, now_ns = Batch.concat(self._gathered), self._gathered_ns
        self._gathered, self._gathered_rows = [], 0
        flows = self._guarded(lambda: self._window.condense(batch), batch.record_count)
        if not flows:
            return NOTHING
        self._analyse(batch, flows, now_ns, every_record=False)
        return self._held(lambda: self._sample(self._window.hold(flows, now_ns), now_ns), flows.record_count)

    def _sample(self, rows: Batch, now_ns: int) -> Batch:
        """Rows that need not wait for the end of the period."""
        if self._starts_ns is None:
            starts_ns = self._window.starts_ns
            self._starts_ns = now_ns // self._every_ns * self._every_ns if starts_ns is None else starts_ns
        starts_ns = self._starts_ns
        self._remember(lambda history: history.add(rows, starts_ns))
        if self._sampler is None:
            if "inclusion_prob" not in rows:
                return rows
            prob = np.broadcast_to(probabilities(rows), len(rows))
            return rows.with_columns({"inclusion_prob": prob, "weight": 1 / prob})
        self._sampler.add(rows, self._starts_ns)
        return NOTHING

    def _is_over(self, now_ns: int) -> bool:
        """Whether the period ends; it does, too, where the clock steps back by more than a period."""
        return self._starts_ns is not None and not -self._every_ns <= now_ns - self._starts_ns < self._every_ns

    def _end_period(self) -> Batch:
        """The rows of a period that is over."""
        if self._starts_ns is None:
            return NOTHING
        rows = self._sample(self._window.flush(self._starts_ns, final=True), self._starts_ns)
        self._starts_ns = None
        return rows if self._sampler is None else self._sampler.take()

    def _analyse(self, records: Batch, flows: Batch, now_ns: int, *, every_record: bool) -> None:
        for analysis in self.analyses:
            if analysis.every_record == every_record:
                self._safely(analysis, lambda a: a.process(records, flows, now_ns))

    def _remember(self, step: Callable[[History], None]) -> None:
        """Do something with the history, a fault of which costs only what it had of the step under way."""
        try:
            step(self.history)
        except Exception:
            self._faults += 1
            self._ctx.log.exception("the history failed")
            self.history.drop()

    def _safely(self, analysis: Analysis, step: Callable[[Analysis], None]) -> None:
        try:
            step(analysis)
        except Exception:
            self._faults += 1
            self._ctx.log.exception("an analysis failed: %r", analysis)

    def _held(self, step: Callable[[], Batch], records: int) -> Batch:
        """What window and sampler give when these records come in; all that is inside is lost where one fails."""
        self._inside += records
        before = self._outcomes.counts.total()
        rows = self._guarded(step, self._inside)
        if rows is None:
            self._starts_ns = None
            self.configure(self._config)
            rows = NOTHING
        self._inside -= rows.record_count + self._outcomes.counts.total() - before
        return rows

    def _guarded(self, step: Callable[[], Batch], records: int) -> Batch | None:
        """What a step gives; None where it fails, which costs these records as far as they are not accounted for."""
        before = self._outcomes.counts.total()
        try:
            return step()
        except Exception:
            lost = records - (self._outcomes.counts.total() - before)
            self._outcomes.dropped("internal", lost)
            self._ctx.log.exception("lost %d records to an unexpected error", lost)
            return None

    def sampling(self) -> dict[str, Any] | None:
        """How rows are sampled, as plain data; None where all go on."""
        return self._sampler.describe() if self._sampler is not None else None

    def families(self) -> Iterable[Family]:
        """Self metrics of all stages."""
        yield from self._prepare.families()
        yield from self._names.families()
        yield from self._dedup.families()
        yield from self._shed.families()
        yield from self._window.families()
        yield from self.history.families()
        if self._sampler is not None:
            yield from self._sampler.families()
        for analysis in self.analyses:
            yield from self._shown(analysis)
        text = "Batches that an analysis or the history failed on; what it shows lacks them."
        yield Family("flowagent_analysis_faults", "counter", text, (), {(): self._faults})

    def _shown(self, analysis: Analysis) -> list[Family]:
        shown: list[Family] = []
        self._safely(analysis, lambda a: shown.extend(a.families()))
        return shown
