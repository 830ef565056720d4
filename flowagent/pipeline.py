"""The way of the data: sources, then the stages, then sinks.

Started from the sinks upwards, so that whoever gives finds a taker; stopped
from the sources downwards, so that each part can drain. This is the only module
that makes tasks.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

from flowagent.batch import Batch
from flowagent.channel import Item
from flowagent.component import Context, Enricher, Resumable, Sink, Source
from flowagent.config import PACKAGES, Config, Kind
from flowagent.delivery import Delivery
from flowagent.errors import ConfigError
from flowagent.history.store import History
from flowagent.metrics import Family
from flowagent.outcome import Outcomes, Ticket
from flowagent.outlet import Outlet
from flowagent.progress import Progress
from flowagent.stages import Stages, brought

_TICK = 0.25
"""Seconds between looks at the window's end."""
_SLICE = 4096
"""Rows handed to the sinks at a time, so that encoding them never holds up the loop for long."""
MAX_ADDED = 100
"""Analyses that may be added while the agent runs."""
DRAIN_SECONDS = 10.0
"""How long sinks may take to send what is left when the agent ends."""


_AS_IT_COMES = Delivery(batch_rows=1, max_wait=0, spool=0)
"""For sinks that are never out of reach."""


def _delivery(kind: Kind) -> Delivery:
    return kind.settings if isinstance(kind.settings, Delivery) else _AS_IT_COMES


def build(kind: Kind, ctx: Context) -> Any:
    """The component of a kind, not started."""
    importlib.import_module(f"{PACKAGES[kind.section]}.{kind.type}")
    settings: Any = kind.settings
    return settings.build(ctx.named(kind.name))


class Pipeline:
    """Built from a checked configuration; runs inside `async with`."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self.config = config
        self.outcomes = Outcomes()
        self._progress = Progress()
        self._ctx = ctx
        self._stages = Stages(config, self.outcomes, ctx)
        self.sources: dict[Kind, Source] = {}
        self.enrichers: dict[Kind, Enricher] = {}
        self.outlets: dict[Kind, Outlet] = {}
        self._analysis: dict[Kind, Any] = {}
        self._added: tuple[Kind, ...] = ()
        self._running: dict[Kind, tuple[AsyncExitStack, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._changing = asyncio.Lock()  # a reload and the end must not meet
        self._build(config)

    def _build(self, config: Config) -> None:
        """Make what is not there yet; raises ConfigError before anything is changed."""
        sources = {k: self.sources.get(k) or cast("Source", build(k, self._ctx)) for k in config.ingest}
        enrichers = {k: self.enrichers.get(k) or cast("Enricher", build(k, self._ctx)) for k in config.enrich}
        taken = {k.name for k in config.analyse}
        added = tuple(k for k in self._added if k.name not in taken)  # the file's word counts
        analysis = {k: self._analysis.get(k) or build(k, self._ctx) for k in (*config.analyse, *added)}
        outlets = {
            k: self.outlets.get(k)
            or Outlet(cast("Sink", build(k, self._ctx)), self._ctx.named(k.name), self.outcomes, _delivery(k))
            for k in config.export
        }
        self.sources, self._analysis, self.outlets = sources, analysis, outlets
        self.enrichers = enrichers
        self.config = config
        self._connect()

    def _connect(self) -> None:
        """Tell the stages who analyses, and the sources what is wanted of them."""
        self._stages.connect(list(self.enrichers.values()), list(self._analysis.values()))
        wanted = self._wanted()
        for source in self.sources.values():
            source.want(wanted)

    def _wanted(self) -> frozenset[str] | None:
        """The columns that anything downstream uses; decoding others would be waste."""
        forwarded = self._stages.window_columns
        if forwarded is None and self.outlets:
            parts = [outlet.sink.columns() for outlet in self.outlets.values()]
            if any(p is None for p in parts):
                return None
            forwarded = frozenset().union(*(p for p in parts if p is not None))
        return (forwarded or frozenset()) | self._stages.analysed_columns

    async def run(self, stop: asyncio.Event, *, started: asyncio.Event | None = None) -> None:
        """Start everything (then set `started`), run until `stop` is set or every source ended, drain, end."""
        self._ctx.metrics.add(self._families)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    async with self._changing:
                        await self._start()
                    if started is not None:
                        started.set()
                    await self._until(stop)
                finally:
                    async with self._changing:
                        await self._finish()
                        self._group = None
        except BaseExceptionGroup as group_error:
            if len(group_error.exceptions) == 1:
                raise group_error.exceptions[0] from None
            raise
        finally:
            self._ctx.metrics.remove(self._families)

    async def _start(self) -> None:
        for kind, outlet in self.outlets.items():
            await self._begin(kind, outlet, outlet.run)
        for kind, enricher in self.enrichers.items():
            await self._begin(kind, enricher, enricher.run)
        for kind, source in self.sources.items():
            await self._begin(kind, source, lambda source=source: source.run(self.deliver))

    async def _begin(self, kind: Kind, component: Any, run: Any) -> None:
        """Enter a component and give it its task."""
        if kind in self._running:
            return
        assert self._group is not None
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(component)
            task = self._group.create_task(run(), name=f"{kind.section} {kind.name}")
            self._running[kind] = (stack.pop_all(), task)

    async def _stop(self, kind: Kind) -> None:
        """End a component's task."""
        if kind in self._running:
            _, task = self._running[kind]
            task.cancel()
            await asyncio.wait([task])

    async def _end(self, kind: Kind) -> None:
        """End a component."""
        await self._stop(kind)
        if kind in self._running:
            stack, _ = self._running.pop(kind)
            await stack.aclose()

    async def _until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if all(k in self._running and self._running[k][1].done() for k in self.sources):
                return
            try:
                async with asyncio.timeout(_TICK):
                    await stop.wait()
            except TimeoutError:
                self.tick()

    async def _finish(self) -> None:
        """Drain from the sources down."""
        for kind, source in self.sources.items():
            await (self._stop if isinstance(source, Resumable) else self._end)(kind)
        self.tick(final=True)
        for kind in list(self.enrichers):
            await self._end(kind)
        await self._drain(self.outlets, "shutdown")
        for kind in list(self.sources):
            await self._end(kind)

    async def _drain(self, outlets: Mapping[Kind, Outlet], reason: str) -> None:
        """Let sinks send what is left, all at the same time, and end them."""
        for outlet in outlets.values():
            outlet.close(reason)
        tasks = [self._running[kind][1] for kind in outlets if kind in self._running]
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
        self._tell_sources()  # before the rest is given up: it may be read again
        for kind, outlet in outlets.items():
            if kind in self._running and not self._running[kind][1].done():
                self._ctx.log.warning("%s %s did not finish within %g s", kind.section, kind.name, DRAIN_SECONDS)
            await self._end(kind)
            outlet.channel.abandon(reason)  # of one that never ran

    def deliver(self, batch: Batch) -> int:
        """Take decoded records; sync and quick, whatever the sinks do."""
        mark = self._progress.next()
        self.outcomes.decoded += batch.record_count
        self._forward(self._stages.process(batch, self._ctx.clock.now_ns(), self._backlog()))
        return mark

    def tick(self, *, final: bool = False) -> None:
        """Forward what is due by now; all that is left when `final`."""
        final = final or any(isinstance(source, Resumable) and source.hurry for source in self.sources.values())
        self._forward(self._stages.tick(self._ctx.clock.now_ns(), self._backlog(), final=final))
        self._tell_sources()

    def _tell_sources(self) -> None:
        filled = max((outlet.filled for outlet in self.outlets.values()), default=0.0)
        for source in self.sources.values():
            if isinstance(source, Resumable):
                source.settled(self._progress.settled, filled)

    def _backlog(self) -> float:
        return max((source.backlog() for source in self.sources.values()), default=0.0)

    def _forward(self, batch: Batch) -> None:
        for start in range(0, len(batch), _SLICE):
            part = batch.rows(start, start + _SLICE) if len(batch) > _SLICE else batch
            ticket = Ticket(self.outcomes, part.record_count, len(self.outlets), self._progress.span)
            for outlet in self.outlets.values():
                outlet.channel.put(Item(part, ticket))
        if self._stages.is_empty:
            self._progress.end_span()

    async def reload(self, config: Config) -> None:
        """Change to another configuration: what is the same goes on, what is gone drains and ends, what is new starts.

        Raises ConfigError or OSError where the new one cannot be built or
        started; the old one then goes on.
        """
        async with self._changing:
            if self._group is not None:
                await self._reload(config)

    async def _reload(self, config: Config) -> None:
        old_enrichers = self.enrichers
        old_sources, old_outlets, old_analysis, old_config = self.sources, self.outlets, self._analysis, self.config
        stages = ("dedup", "window", "sampling", "history")
        changed = any(getattr(config, name) != getattr(old_config, name) for name in stages)
        changed = changed or brought(config) != brought(old_config)
        if changed:
            self.tick(final=True)
            self._stages.configure(config)
        try:
            self._build(config)
            gone_first = [*(k for k in old_sources if k not in self.sources),
                          *(k for k in old_enrichers if k not in self.enrichers)]  # fmt: skip
            for kind in gone_first:
                await self._end(kind)
            # A sink that only changed takes over the spool of its name.
            names = {k.name for k in self.outlets if k not in old_outlets}
            changed_outlets = {k: o for k, o in old_outlets.items() if k not in self.outlets and k.name in names}
            await self._drain(changed_outlets, "reload")
            await self._start()
        except (ConfigError, OSError):
            old = {*old_sources, *old_enrichers, *old_outlets}
            started = [k for k in (*self.sources, *self.enrichers, *self.outlets) if k not in old]
            for kind in started:
                await self._end(kind)
                if kind in self.outlets:
                    self.outlets[kind].channel.abandon("reload")
            self.sources, self.outlets, self.config = old_sources, old_outlets, old_config
            self.enrichers = old_enrichers
            # Analyses may have been added over HTTP meanwhile.
            known = {**old_analysis, **self._analysis}
            self._analysis = {k: a for k, a in known.items() if k in old_config.analyse or k in self._added}
            if changed:
                self.tick(final=True)
                self._stages.configure(old_config)
            self._connect()
            for outlet in self.outlets.values():
                outlet.channel.reopen()
            await self._start()
            raise
        gone = {k: outlet for k, outlet in old_outlets.items() if k not in self.outlets}
        await self._drain(gone, "reload")
        for outlet in gone.values():
            self._ctx.metrics.keep(outlet.families())

    def sampling(self) -> dict[str, Any] | None:
        """How rows are sampled; None where all go on."""
        return self._stages.sampling()

    @property
    def history(self) -> History:
        """Recent windows."""
        return self._stages.history

    @property
    def analyses(self) -> dict[str, Any]:
        """The analyses that run, by name."""
        return {k.name: analysis for k, analysis in self._analysis.items()}

    def add_analysis(self, kind: Kind) -> None:
        """Run one more analysis until the agent ends; raises ConfigError where it cannot be built."""
        if kind.name in self.analyses:
            raise ConfigError("name", f"{kind.name!r} is taken")
        if len(self._added) >= MAX_ADDED:
            raise ConfigError("", f"{MAX_ADDED} were added already; remove one first")
        self._analysis[kind] = build(kind, self._ctx)
        self._added += (kind,)
        self._connect()

    def remove_analysis(self, name: str) -> bool:
        """End an analysis, from the configuration (until a reload) or added; False where there is none of that name."""
        found = [k for k in self._analysis if k.name == name]
        for k in found:
            del self._analysis[k]
        self._added = tuple(k for k in self._added if k.name != name)
        self._connect()
        return bool(found)

    def not_ready(self) -> list[str]:
        """What keeps the agent from being ready; empty when it is."""
        problems = [problem for source in self.sources.values() if (problem := source.ready())]
        problems += [f"{k.name}: {p}" for k, enricher in self.enrichers.items() if (p := enricher.ready())]
        problems += [f"{k.name}: {o.failing}" for k, o in self.outlets.items() if o.failing]
        return problems

    def _families(self) -> Iterable[Family]:
        yield from self.outcomes.families()
        yield from self._stages.families()
        for enricher in self.enrichers.values():
            yield from enricher.families()
        for outlet in self.outlets.values():
            yield from outlet.families()
