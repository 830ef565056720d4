"""Stage `sample`: of each window's rows at most a budget goes on, with probabilities from which totals can be told.

All rows of a window meet in a pool. When more are there than four budgets, and
at the window's end, the pool is cut: the threshold is solved exactly on the
sizes of those present, everybody's probability falls to what it would have
been with that threshold from the start, and the coins that lie above it go.
So at no time does memory exceed some budgets and a batch, and at no window's
end are there more rows than the budget. A window with fewer rows than its
budget is passed on whole, with probability 1.

Rows that a `keep` rule matches are a stratum of their own with half of the
budget, or more if the others leave it: they are kept for certain while they
fit into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.hashing import finish, hash_rows, seed_of, unit_interval
from flowagent.metrics import Family
from flowagent.outcome import Outcomes
from flowagent.sampling.estimate import row_variances
from flowagent.sampling.methods import method_of
from flowagent.sampling.peers import Peers
from flowagent.sampling.pool import Pool, threshold
from flowagent.sampling.sizes import Sizes
from flowagent.sampling.strata import shares, strata_of
from flowagent.scale import probabilities, scaled
from flowagent.schema import COLUMNS
from flowagent.sections import Sampling

_MANY = 4
"""Budgets that the pool may hold before it is cut."""
_LEAST = 8192
"""Rows that are not worth a cut."""
_MASK = 2**64 - 1


class Sampler:
    """Add a window's rows in any number of parts, then take the sample."""

    def __init__(self, config: Sampling, every_ns: int, outcomes: Outcomes) -> None:
        assert config.budget is not None
        self._config = config
        self._budget = max(1, int(config.budget * every_ns / SECOND))
        self._method = method_of(config)
        self._sizes = Sizes(config.objectives)
        self._rules = config.rules()
        self._peers = Peers(round(config.new_peer_seconds * SECOND)) if config.new_peer_seconds else None
        self._secret = config.secret()
        self._outcomes = outcomes
        self._parts: list[Pool] = []
        self._held = 0
        self._part = self._salt = 0
        self._count = dict.fromkeys(("in", "out", "bytes", "variance"), 0.0)
        self._threshold = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing."""
        return not self._held

    def add(self, batch: Batch, starts_ns: int) -> None:
        """Rows of the window that began at `starts_ns`."""
        if not len(batch):
            return
        self._count["in"] += len(batch)
        pool = self._enter(batch, starts_ns)
        self._parts.append(pool)
        self._held += len(pool)
        if self._held > max(_MANY * self._budget, _LEAST):
            self._cut()

    def take(self) -> Batch:
        """The window's sample, with `inclusion_prob` and `weight`; what is added from now on is another window's."""
        self._cut()
        parts, self._parts, self._held = self._parts, [], 0
        self._part = 0
        units, self._sizes = self._sizes.bytes_unit, Sizes(self._config.objectives)
        self._threshold = 0.0
        if not parts or not len(parts[0]):
            return Batch({})
        prob = parts[0].prob * probabilities(parts[0].batch)
        self._threshold = units * _threshold(parts[0])
        sample = parts[0].batch.with_columns({"inclusion_prob": prob, "weight": 1 / prob})
        self._count["out"] += len(sample)
        self._count["bytes"] += float(scaled(sample, "bytes").sum())
        self._count["variance"] += float(row_variances(sample, "bytes").sum())
        return sample

    def _enter(self, batch: Batch, starts_ns: int) -> Pool:
        """Give the rows their coins and sizes."""
        n = len(batch)
        chosen_by_flow = self._config.method == "hash"
        # A flow that comes again in another part of the window is another row, with a coin of its own.
        self._part += 1
        begins = starts_ns if self._config.rotate else 0
        self._salt = seed_of(self._secret, begins, 0 if chosen_by_flow else self._part)
        hashes = hash_rows(batch, self._coin_columns(batch), self._salt)
        shed = probabilities(batch)
        if isinstance(shed, np.ndarray) and not chosen_by_flow:
            # Overload splits a flow into rows of different probabilities. With one coin, their errors would add up.
            hashes = np.where(shed < 1, finish(hashes ^ shed.view(np.uint64)), hashes)
        kept = np.zeros(n, np.bool_)
        for rule in self._rules:
            kept |= rule(batch)
        if self._peers is not None:
            kept |= self._peers.are_new(batch, starts_ns)
        size = self._sizes.of(batch) if self._method.by_size else np.ones(n)
        return self._packed(self._method.admit(Pool.of(batch, unit_interval(hashes), size, kept)))

    def _coin_columns(self, batch: Batch) -> Sequence[str]:
        """Whose hash decides; all of the key where some of `coin` is not there, lest too many rows share a coin."""
        if all(name in batch for name in self._config.coin):
            return self._config.coin
        return [name for name, column in COLUMNS.items() if column.merge == "key" and name in batch]

    def _packed(self, pool: Pool) -> Pool:
        """Account for the rows that did not make it, and let go of them."""
        if len(pool) == len(pool.batch):
            return pool
        before, pool = pool.batch.record_count, pool.packed()
        self._outcomes.sampled_out("budget", before - pool.batch.record_count)
        return pool

    def _cut(self) -> None:
        """Bring what is held down to the budget."""
        if not self._parts:
            return
        pool = Pool.concat(self._parts)
        if len(pool) > self._budget:
            if self._method.by_size and not self._sizes.is_fitted:
                self._sizes.fit(pool.batch, self._budget)
                pool = replace(pool, size=self._sizes.of(pool.batch))
            pool = self._packed(self._select(pool))
        self._parts, self._held = [pool], len(pool)

    def _select(self, pool: Pool) -> Pool:
        """As many rows as the budget allows, those that a rule keeps first."""
        # A budget of one row has no half; without any, rows that a rule keeps would be missing from all totals.
        by_rule, others = pool.split(pool.is_kept if self._budget > 1 else np.zeros(len(pool), np.bool_))
        most = max(self._budget // 2, self._budget - len(others))
        kept = self._method.cut(by_rule, most, self._chance()) if len(by_rule) else by_rule
        budget = self._budget - len(kept)
        codes, count = strata_of(others.columns(self._config.by), self._config.by, budget)
        if count == 1:
            return Pool.concat([kept, self._method.cut(others, budget, self._chance())])
        size = others.weighted_size()
        z = threshold(size, budget)
        wanted = np.bincount(codes, np.minimum(1.0, size / z) if z else None, count)
        rows = np.bincount(codes, minlength=count)
        budgets = shares(wanted, rows, budget, self._config.guarantee)
        strata = [others.take(s) for s in np.split(np.argsort(codes, kind="stable"), np.cumsum(rows)[:-1])]
        cut = [self._method.cut(s, int(b), self._chance()) for s, b in zip(strata, budgets, strict=True)]
        return Pool.concat([kept, *cut])

    def _chance(self) -> float:
        """A number on (0, 1] that depends on nothing but the window and how many were asked for."""
        self._salt = int(finish(np.array([self._salt + 1 & _MASK], np.uint64))[0])
        return float(unit_interval(np.array([self._salt], np.uint64))[0])

    def count_on(self, old: Sampler) -> None:
        """Go on with the counts of the sampler that this one replaces."""
        for name, count in old._count.items():
            self._count[name] += count

    def describe(self) -> dict[str, Any]:
        """Method, rows a second, and the bytes above which a row of the last window was kept for certain."""
        config = self._config
        return {"method": config.method, "budget": config.budget, "threshold_bytes": self._threshold}

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        rows = {("in",): self._count["in"], ("out",): self._count["out"]}
        yield Family("flowagent_sampling_rows", "counter", "Rows before and after sampling.", ("side",), rows)
        text = "Bytes above which a row of the last window was kept for certain; 0 where all rows were."
        yield Family("flowagent_sampling_threshold_bytes", "gauge", text, (), {(): self._threshold})
        text = "Bytes of all traffic as estimated from the rows that were kept."
        yield Family("flowagent_sampled_bytes", "counter", text, (), {(): self._count["bytes"]})
        text = "Estimated variance of flowagent_sampled_bytes, from upstream sampling and the agent's."
        yield Family("flowagent_sampled_bytes_variance", "counter", text, (), {(): self._count["variance"]})


def _threshold(pool: Pool) -> float:
    """The size that every row with a lower one stands for now; 0 where all were kept."""
    light = (pool.prob < 1) & ~pool.is_kept
    return float(pool.weighted_size()[light].max()) if light.any() else 0.0
