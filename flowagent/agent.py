"""The running agent: pipeline, HTTP server, signals."""

from __future__ import annotations

import asyncio
import gc
import platform
import re
import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from flowagent import __version__
from flowagent.aggregate.policy import Policy
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.config import Config, kind, load, state_directory
from flowagent.errors import ConfigError
from flowagent.export.prometheus import Exposition
from flowagent.history.desk import Desk
from flowagent.metrics import Family
from flowagent.pipeline import Pipeline
from flowagent.web.policies import Conflict
from flowagent.web.server import Server

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
Beside = Callable[["Agent", asyncio.Event], Awaitable[None]]


class Agent:
    """One process of flowagent; `run` returns when it was told to stop and has drained."""

    def __init__(self, config: Config, ctx: Context | None = None) -> None:
        self._config = config
        self.ctx = ctx or Context("flowagent", state_dir=state_directory(config.state))
        self.ctx.metrics.since_ns = self.ctx.clock.now_ns()
        self.pipeline = Pipeline(config, self.ctx)
        self.desk = Desk(self.pipeline.history)
        self.server = Server(config.http, self, self.ctx.named("http"))
        self.started = asyncio.Event()
        self._exposition = Exposition(self.ctx.metrics)
        self._reload_failed = 0

    async def run(self, stop: asyncio.Event, *, config_path: Path | None = None, beside: Beside | None = None) -> None:
        """Until `stop` is set, SIGTERM or SIGINT comes, or every source ended. `beside` runs along with the agent.

        Raises ConfigError where something cannot be started.
        """
        loop = asyncio.get_running_loop()
        reload_wanted = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload_wanted.set)
        self.ctx.metrics.add(self._families)
        gc.freeze()  # what is loaded by now stays; the collector need not look at it again
        try:
            async with self.server, asyncio.TaskGroup() as group:
                reloader = group.create_task(self._reloads(reload_wanted, config_path), name="reload")
                company = group.create_task(self._company(beside, stop), name="beside")
                await self.pipeline.run(stop, started=self.started)
                reloader.cancel()
                company.cancel()
        except BaseExceptionGroup as error:
            raise _single(error) from None
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            self.ctx.metrics.remove(self._families)
            self.desk.stop()

    async def _company(self, beside: Beside | None, stop: asyncio.Event) -> None:
        await self.started.wait()
        if beside is not None:
            await beside(self, stop)

    async def _reloads(self, wanted: asyncio.Event, path: Path | None) -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                config = load(path)
                await self.pipeline.reload(config)
            except (ConfigError, OSError) as error:
                self._reload_failed += 1
                self.ctx.log.error("reload failed, the old configuration goes on: %s", error)  # noqa: TRY400
            else:
                self.ctx.log.info("reloaded")
                if (config.http, config.state) != (self._config.http, self._config.state):
                    self.ctx.log.warning("http and state stay as they were: they change at a restart")

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        return self._exposition.render(accept)

    def not_ready(self) -> list[str]:
        return self.pipeline.not_ready() if self.started.is_set() else ["starting"]

    def exporters(self) -> list[dict[str, Any]]:
        """One entry for each observation domain of each exporter."""
        entries: list[dict[str, Any]] = []
        for source in self.pipeline.sources.values():
            describe = getattr(source, "exporters", None)
            if describe is not None:
                entries += describe()
        return entries

    def kubernetes_snapshot(self) -> tuple[bytes, str] | None:
        """What the first enricher that can tell knows of the cluster, and its ETag; None without one."""
        for enricher in self.pipeline.enrichers.values():
            snapshot = getattr(enricher, "snapshot", None)
            if snapshot is not None:
                found: tuple[bytes, str] = snapshot()
                return found
        return None

    async def status(self) -> dict[str, Any]:
        """How the agent is, as plain data."""
        outcomes = self.pipeline.outcomes.counts
        return {
            "version": __version__,
            "node": platform.node(),
            "uptime": (self.ctx.clock.now_ns() - self.ctx.metrics.since_ns) / SECOND,
            "ready": self.not_ready(),
            "outcomes": [{"outcome": o, "reason": r, "records": n} for (o, r), n in sorted(outcomes.items())],
            "rates": await self.desk.rates(),
            "history": self.pipeline.history.describe(),
            "sinks": [{"name": kind.name, **outlet.describe()} for kind, outlet in self.pipeline.outlets.items()],
            "sampling": self.pipeline.sampling(),
        }

    def policies(self) -> dict[str, Policy]:
        """The policies that run, by name."""
        return {name: a for name, a in self.pipeline.analyses.items() if isinstance(a, Policy)}

    def add_policy(self, entry: dict[str, Any]) -> Policy:
        """Start a policy given as it would stand in the configuration.

        Raises ConfigError; that is a Conflict where the name is taken, or too many were added.
        """
        if entry.get("type", "policy") != "policy":
            raise ConfigError("type", f"{entry['type']!r} is not 'policy'")
        name = entry.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                "name", f"{name!r} is no name; letters, digits and ._- up to 63, beginning with the first two"
            )
        new = kind("analyse", {"type": "policy", **entry}, "")
        try:
            self.pipeline.add_analysis(new)
        except ConfigError as error:
            if error.path in ("", "name"):
                raise Conflict(error.path, error.problem) from error
            raise
        self.ctx.log.info("policy %s was added", name)
        policy = self.policies()[name]
        policy.tick(self.ctx.clock.now_ns())  # its first period is under way at once
        return policy

    def remove_policy(self, name: str) -> bool:
        """End a policy; False where there is none of that name."""
        removed = name in self.policies() and self.pipeline.remove_analysis(name)
        if removed:
            self.ctx.log.info("policy %s was removed", name)
        return removed

    def _families(self) -> Iterable[Family]:
        yield from self.desk.families()
        labels = ("version", "python")
        yield Family("flowagent_build_info", "gauge", "1, with the version as a label.", labels,
                     {(__version__, platform.python_version()): 1})  # fmt: skip
        yield Family(
            "flowagent_reload_failures",
            "counter",
            "Reloads that kept the old configuration.",
            (),
            {(): self._reload_failed},
        )


def _single(error: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception inside, however deep."""
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner
