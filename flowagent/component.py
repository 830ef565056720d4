"""The contracts: what a source, a stage and a sink are, and what they may touch.

A *kind* is a module; its name is the `type` in the configuration. It offers a
`Config` (a `Settings` subclass) whose `build(ctx)` makes the component. Building is inert: no
socket, file, thread or task exists before `__aenter__`. Data flows one way,

    Source -> (prepare, enrich, analyse, window, sample) -> Sink

and a Batch that was handed on is no longer the giver's to change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import msgspec
import numpy as np

from flowagent.batch import Batch
from flowagent.clock import Clock, SystemClock
from flowagent.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Context:
    """What a component may touch of the world."""

    name: str
    clock: Clock = field(default_factory=SystemClock)
    metrics: Metrics = field(default_factory=Metrics)
    state_dir: Path | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("flowagent"))
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def named(self, name: str) -> Context:
        """The same world under a component's own name and logger."""
        log = self.log.getChild(name)
        return Context(name, self.clock, self.metrics, self.state_dir, log, self.rng)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration: immutable, strict about names and types, equal by value."""

    def __hash__(self) -> int:
        return hash(msgspec.json.encode(self))


Deliver = Callable[[Batch], None]
"""Takes the rows a source decoded; never blocks."""


class Source(Protocol):
    """Where records come from."""

    async def __aenter__(self) -> Self:
        """Open what is needed; raises ConfigError or OSError, and then nothing is open."""

    async def __aexit__(self, *exc: object) -> None:
        """Close everything; called once, after `run` ended."""

    async def run(self, deliver: Deliver) -> None:
        """Deliver batches until the input ends or the task is cancelled."""

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""

    def ready(self) -> str | None:
        """None when records can come in, else what is missing."""


class Stage(Protocol):
    """A step on the way of the data: sync, no I/O."""

    def process(self, batch: Batch) -> Batch:
        """What goes on from these rows; may be empty."""

    def flush(self, now_ns: int, *, final: bool = False) -> Batch:
        """What is due by now; all that is left when `final`."""


class Sink(Protocol):
    """Where rows go."""

    async def __aenter__(self) -> Self:
        """Open what must be there from the start."""

    async def __aexit__(self, *exc: object) -> None:
        """Flush and close."""

    async def write(self, batch: Batch) -> int:
        """Send the rows; returns the bytes sent.

        Raises Retry or Rejected. At least once: a retried batch is sent whole.
        """

    def columns(self) -> frozenset[str] | None:
        """The columns this sink uses; None for all there are."""
