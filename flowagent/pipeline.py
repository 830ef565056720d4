"""The way of the data: sources, then prepare, analyse and window, then sinks.

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

from flowagent.aggregate.window import Window
from flowagent.batch import Batch
from flowagent.channel import Item
from flowagent.clock import SECOND
from flowagent.component import Context, Sink, Source
from flowagent.config import PACKAGES, Config, Kind
from flowagent.errors import ConfigError
from flowagent.metrics import Family
from flowagent.outcome import Outcomes, Ticket
from flowagent.outlet import Outlet
from flowagent.prepare import COLUMNS as PREPARE_COLUMNS
from flowagent.prepare import Prepare

_TICK = 0.25
"""Seconds between looks at the window's end."""
_SLICE = 4096
"""Rows handed to the sinks at a time, so that encoding them never holds up the loop for long."""
DRAIN_SECONDS = 10.0
"""How long sinks may take to send what is left when the agent ends."""


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
        self._ctx = ctx
        self._prepare = Prepare(self.outcomes)
        self.sources: dict[Kind, Source] = {}
        self.outlets: dict[Kind, Outlet] = {}
        self._analysis: dict[Kind, Any] = {}
        self._running: dict[Kind, tuple[AsyncExitStack, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._changing = asyncio.Lock()  # a reload and the end must not meet
        self._window = self._make_window(config)
        self._build(config)

    def _make_window(self, config: Config) -> Window:
        w = config.window
        return Window(round(w.seconds * SECOND), w.key, w.measures, w.max_keys)

    def _build(self, config: Config) -> None:
        """Make what is not there yet; raises ConfigError before anything is changed."""
        sources = {k: self.sources.get(k) or cast("Source", build(k, self._ctx)) for k in config.ingest}
        analysis = {k: self._analysis.get(k) or build(k, self._ctx) for k in config.analyse}
        outlets = {
            k: self.outlets.get(k) or Outlet(cast("Sink", build(k, self._ctx)), self._ctx.named(k.name))
            for k in config.export
        }
        self.sources, self._analysis, self.outlets = sources, analysis, outlets
        self.config = config
        wanted = self._wanted()
        for source in self.sources.values():
            source.want(wanted)

    def _wanted(self) -> frozenset[str] | None:
        """The columns that anything downstream uses; decoding others would be waste."""
        window = self._window.columns
        if window is None and self.outlets:
            parts = [outlet.sink.columns() for outlet in self.outlets.values()]
            if any(p is None for p in parts):
                return None
            window = frozenset().union(*(p for p in parts if p is not None))
        used = (window or frozenset()) | PREPARE_COLUMNS
        return used.union(*(a.columns for a in self._analysis.values()))

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
            await self._begin(kind, outlet.sink, outlet.run)
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

    async def _end(self, kind: Kind) -> None:
        """End a component."""
        running = self._running.pop(kind, None)
        if running is None:
            return
        stack, task = running
        task.cancel()
        await asyncio.wait([task])
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
        for kind in list(self.sources):
            await self._end(kind)
        self._forward(self._window.flush(self._ctx.clock.now_ns(), final=True))
        await self._drain(self.outlets, "shutdown")

    async def _drain(self, outlets: Mapping[Kind, Outlet], reason: str) -> None:
        """Let sinks send what is left, all at the same time, and end them."""
        for outlet in outlets.values():
            outlet.channel.close()
        tasks = [self._running[kind][1] for kind in outlets if kind in self._running]
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
        for kind, outlet in outlets.items():
            if kind in self._running and not self._running[kind][1].done():
                self._ctx.log.warning("%s %s did not finish within %g s", kind.section, kind.name, DRAIN_SECONDS)
            await self._end(kind)
            outlet.channel.abandon(reason)

    def deliver(self, batch: Batch) -> None:
        """Take decoded records; sync and quick, whatever the sinks do."""
        now_ns = self._ctx.clock.now_ns()
        self.outcomes.decoded += len(batch)
        try:
            batch = self._prepare.process(batch, now_ns)
            for analysis in self._analysis.values():
                analysis.process(batch)
            rows = self._window.process(batch, now_ns)
        except Exception:
            # No input may stop the agent: what a fault of a stage costs is counted and shown.
            self.outcomes.dropped("internal", len(batch))
            self._ctx.log.exception("lost %d records to an unexpected error", len(batch))
            return
        self._forward(rows)

    def tick(self) -> None:
        """Write the window out if it is over."""
        self._forward(self._window.flush(self._ctx.clock.now_ns()))

    def _forward(self, batch: Batch) -> None:
        for start in range(0, len(batch), _SLICE):
            part = batch.rows(start, start + _SLICE) if len(batch) > _SLICE else batch
            ticket = Ticket(self.outcomes, part.record_count, len(self.outlets))
            for outlet in self.outlets.values():
                outlet.channel.put(Item(part, ticket))

    async def reload(self, config: Config) -> None:
        """Change to another configuration: what is the same goes on, what is gone drains and ends, what is new starts.

        Raises ConfigError or OSError where the new one cannot be built or
        started; the old one then goes on.
        """
        async with self._changing:
            if self._group is not None:
                await self._reload(config)

    async def _reload(self, config: Config) -> None:
        old_window = self._window
        old_sources, old_outlets, old_analysis, old_config = self.sources, self.outlets, self._analysis, self.config
        if config.window != old_config.window:
            self._forward(self._window.flush(self._ctx.clock.now_ns(), final=True))
            self._window = self._make_window(config)
        try:
            self._build(config)
            for kind in [k for k in old_sources if k not in self.sources]:
                await self._end(kind)
            await self._start()
        except (ConfigError, OSError):
            started = [k for k in (*self.sources, *self.outlets) if k not in old_sources and k not in old_outlets]
            for kind in started:
                await self._end(kind)
                if kind in self.outlets:
                    self.outlets[kind].channel.abandon("reload")
            self.sources, self.outlets, self._analysis, self.config = old_sources, old_outlets, old_analysis, old_config
            if self._window is not old_window:
                self._forward(self._window.flush(self._ctx.clock.now_ns(), final=True))
                self._window = old_window
            for source in self.sources.values():
                source.want(self._wanted())
            await self._start()
            raise
        self._window.count_on(old_window)
        gone = {k: outlet for k, outlet in old_outlets.items() if k not in self.outlets}
        await self._drain(gone, "reload")
        for outlet in gone.values():
            self._ctx.metrics.keep(outlet.families())

    def not_ready(self) -> list[str]:
        """What keeps the agent from being ready; empty when it is."""
        problems = [problem for source in self.sources.values() if (problem := source.ready())]
        problems += [f"{k.name}: {o.failing}" for k, o in self.outlets.items() if o.failing]
        return problems

    def _families(self) -> Iterable[Family]:
        yield from self.outcomes.families()
        yield from self._prepare.families()
        yield from self._window.families()
        for analysis in self._analysis.values():
            yield from analysis.families()
        for outlet in self.outlets.values():
            yield from outlet.families()
