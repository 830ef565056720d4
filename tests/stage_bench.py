"""What the tests of the stages share: records, analyses that look on, and a bench to feed."""

import logging

import numpy as np

from flowagent.batch import Batch, constant
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.config import parse
from flowagent.metrics import Family, Metrics
from flowagent.outcome import Outcomes
from flowagent.stages import Stages

BUSY = 1.0
"""A backlog that calls for shedding."""


def records(count, first=0, **columns):
    """Records that all differ in their source, of 100 bytes and 1 packet each."""
    source = np.arange(first, first + count, dtype=np.uint64)
    values = {"src_addr": np.stack([np.zeros(count, np.uint64), source])}
    same = {
        "bytes": (100, "u8"),
        "packets": (1, "u8"),
        "records": (1, "u8"),
        "proto": (6, "u1"),
        "direction": (0, "u1"),
    }
    values |= {name: constant(value, count, dtype) for name, (value, dtype) in same.items()}
    return Batch(values | columns, count)


class Looker:
    """An analysis that remembers what it was shown; raises where told to."""

    columns = frozenset({"proto"})

    def __init__(self, name="a", every_record=False, journal=None, fails=()):
        self.name, self.every_record, self.fails = name, every_record, fails
        self.journal = [] if journal is None else journal
        self.seen, self.ticks = [], []

    def __repr__(self):
        return self.name

    def process(self, batch, flows, now_ns):
        self.journal.append(self.name)
        if "process" in self.fails:
            raise ZeroDivisionError
        self.seen.append((batch, flows, now_ns / SECOND))

    def tick(self, now_ns):
        if "tick" in self.fails:
            raise ZeroDivisionError
        self.ticks.append(now_ns / SECOND)

    def families(self):
        yield Family("flowagent_looks", "counter", "Times it looked.", ("name",), {(self.name,): len(self.seen)})
        if "families" in self.fails:
            raise ZeroDivisionError

    @property
    def records(self):
        return sum(batch.record_count for batch, _, _ in self.seen)


class Bench:
    """Stages by hand; times are seconds."""

    def __init__(self, window="10s", sampling=None, analyses=(), seed=0, dedup=None):
        self.outcomes, self.metrics, self.out = Outcomes(), Metrics(), []
        self.stages = Stages(
            config(window, sampling, dedup), self.outcomes,
            Context("test", metrics=self.metrics, rng=np.random.default_rng(seed), log=logging.getLogger("stages")),
        )  # fmt: skip
        self.stages.analyses = list(analyses)
        self.decoded = 0

    def feed(self, batch, now=0.0, backlog=0.0):
        self.decoded += len(batch)
        return self._took(self.stages.process(batch, round(now * SECOND), backlog))

    def tick(self, now, *, final=False):
        return self._took(self.stages.tick(round(now * SECOND), final=final))

    def _took(self, rows):
        self.out.append(rows)
        assert self.inside >= 0
        assert self.inside == self.gathered + self.stages._inside
        return rows

    @property
    def exported(self):
        return sum(rows.record_count for rows in self.out)

    @property
    def gathered(self):
        return sum(batch.record_count for batch in self.stages._gathered)

    @property
    def inside(self):
        return self.decoded - self.exported - self.outcomes.counts.total()

    def lost(self):
        return {key: n for key, n in self.outcomes.counts.items() if n}

    def metric(self, name):
        families = {f.name: f for f in (*self.stages.families(), *self.metrics.collect())}
        return families[f"flowagent_{name}"].samples


def config(window="10s", sampling=None, dedup=None):
    key = ["src_addr", "proto"]
    section = window if window == 0 else {"every": window, "key": key, "max_keys": 1024}
    return parse({"window": section, "sampling": sampling or {}, "dedup": dedup or {}, "http": {"listen": None}})
