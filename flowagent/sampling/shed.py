"""Stage `shed`: when records come faster than they can be processed, a sample of them goes on and stands for all.

The alternative is that the kernel drops whole datagrams, and nobody knows what
was in them. Records are chosen as the sampler chooses rows, by size, so that
few large ones carry most bytes and keep their exact counts. Probabilities are
powers of two: records of equal ones can still be added up by the window, and
the sums stay integers that `inclusion_prob` scales exactly.

How many go on follows the backlog, the part of the sources' buffers that is
filled: it doubles its steps while the backlog is large and takes small ones
back, as congestion control does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.metrics import Family
from flowagent.outcome import Outcomes
from flowagent.sampling.pool import threshold
from flowagent.sampling.sizes import Sizes
from flowagent.scale import probabilities
from flowagent.sections import Objective

HIGH, LOW = 0.4, 0.1
"""Backlog above which more is shed while it does not fall, and below which less. Sources let a quarter gather."""
MAX_FACTOR = 1024.0
_UP, _DOWN = 2.0, 0.8


class Shed:
    """Lets one in `factor` records through, the large ones first; all of them while there is no backlog."""

    def __init__(self, outcomes: Outcomes, rng: np.random.Generator) -> None:
        self._objectives: Mapping[Objective, float] | None = None
        self._outcomes = outcomes
        self._rng = rng
        self._is_used = False
        self._backlog = 0.0
        self.factor = 1.0

    def configure(self, objectives: Mapping[Objective, float] | None) -> None:
        """What totals should be exact of (see `sizes`); None never sheds."""
        self._objectives = objectives
        if objectives is None:
            self.factor = 1.0

    def follow(self, backlog: float) -> None:
        """Adapt to the part (0 to 1) of the input buffers that is filled."""
        if self._objectives is None:
            return
        if backlog > HIGH and backlog >= self._backlog:
            self.factor = min(self.factor * _UP, MAX_FACTOR)
        elif backlog < LOW and self.factor > 1:
            self.factor = max(1.0, self.factor * _DOWN)
        self._backlog = backlog

    def process(self, batch: Batch) -> Batch:
        """The records that go on, with their `inclusion_prob` from the first time on that any was shed."""
        if self._objectives is None or self.factor == 1:
            return self._marked(batch, constant(1.0, len(batch), np.float64)) if self._is_used else batch
        self._is_used = True
        sizes = Sizes(self._objectives)
        sizes.fit(batch, len(batch) / self.factor)
        size = sizes.of(batch)
        z = threshold(size, len(batch) / self.factor)
        # Rounded up, so that whoever goes with certainty still does.
        fraction, exponent = np.frexp(np.minimum(1.0, size / z) if z else np.ones(len(batch)))
        prob = np.ldexp(1.0, exponent - (fraction == 0.5))
        kept = np.flatnonzero(self._rng.random(len(batch)) < prob)
        out = self._marked(batch.take(kept), prob[kept])
        self._outcomes.sampled_out("overload", batch.record_count - out.record_count)
        return out

    @staticmethod
    def _marked(batch: Batch, prob: Array) -> Batch:
        known = probabilities(batch)  # that of rows which another agent sampled
        return batch.with_columns({"inclusion_prob": prob if isinstance(known, float) and known == 1 else prob * known})

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        text = "One in this many records goes on for want of time; 1 while all do."
        yield Family("flowagent_overload_factor", "gauge", text, (), {(): self.factor})
