"""The contracts: what a source, a stage and a sink are, and what they may touch.

A *kind* is a module; its name is the `type` in the configuration. It offers a
`Config` (a `Settings` subclass) whose `build(ctx)` makes the component. Building is inert: no
socket, file, thread or task exists before `__aenter__`. Data flows one way,

    Source -> stages (prepare, analyse, window, sample) -> Sink

and a Batch that was handed on is no longer the giver's to change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self, runtime_checkable

import msgspec
import numpy as np

from flowagent.batch import Batch
from flowagent.clock import Clock, SystemClock
from flowagent.metrics import Family, Metrics


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

    brings: ClassVar[tuple[str, ...]] = ()
    """Of a source: columns of names that its rows may have already, which the window keeps apart."""

    def __hash__(self) -> int:
        return hash(msgspec.json.encode(self))


Deliver = Callable[[Batch], int]
"""Takes the rows a source decoded; never blocks. Returns the mark of this delivery: the next number."""


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

    def backlog(self) -> float:
        """The part of its input buffers (0 to 1) that is filled; 0 where nothing waits."""


@runtime_checkable
class Resumable(Protocol):
    """A source that can wait, and that reads again what was not settled when it ended."""

    hurry: bool
    """Whether it waits for all that it delivered to be settled; a window is then cut short."""

    def settled(self, mark: int, filled: float) -> None:
        """All deliveries up to this mark are settled (see `progress`); called a few times a second.

        `filled` is the part (0 to 1) of the room in front of the slowest sink that is in use. The source is closed
        only after the sinks have sent what they could, and is told of that before.
        """


class Analysis(Protocol):
    """Looks at records and remembers what they add up to; sync, no I/O, changes nothing."""

    every_record: bool
    """Whether it must see all of them, or under overload makes do with a weighted sample (`inclusion_prob`)."""

    @property
    def columns(self) -> frozenset[str]:
        """What it needs of each record."""

    def process(self, records: Batch, flows: Batch, now_ns: int) -> None:
        """Take records in, at this time.

        `flows` are the same records with those of equal window keys merged:
        fewer rows, which do where only sums by columns that they have are
        wanted. It may be the same batch.
        """

    def tick(self, now_ns: int) -> None:
        """The time is this; called a few times a second."""

    def families(self) -> Iterable[Family]:
        """What it shows as metrics."""


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


@runtime_checkable
class Periodic(Protocol):
    """A sink that sends more than the rows it is given, such as metrics."""

    every: float
    """Seconds between; 0 for never."""

    async def push(self) -> None:
        """Called so often while rows are written, too; what cannot be sent is its own affair."""


class Enricher(Protocol):
    """Says what values mean: adds columns of names, places and sides to rows."""

    needs: frozenset[str]
    """Columns that it looks at."""
    adds: frozenset[str]
    """Columns that it can add."""

    async def __aenter__(self) -> Self:
        """Open what must be there from the start; must not fail because a server is out of reach."""

    async def __aexit__(self, *exc: object) -> None:
        """Close everything; called once, after `run` ended."""

    async def run(self) -> None:
        """Keep the tables up to date until the task is cancelled; returns at once where nothing changes."""

    def ready(self) -> str | None:
        """None when it knows what it can know for now, else what is missing."""

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        """The rows with those of the wanted columns added that it can add and they lack; sync, no I/O.

        Names are columns of codes (see `names`), 0 where nothing is known. A name that is there stays as it is;
        an enricher may correct other columns, where it knows better, in a way that does no harm twice.
        """

    def families(self) -> Iterable[Family]:
        """Self metrics."""
