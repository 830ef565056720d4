"""How much a row counts: one size for several objectives.

A sample drawn for bytes tells little about how many flows there were. So each
objective (bytes, packets, flows) gets a share of the budget and, from it, the
threshold z of its own; a row's size is the largest of its values over these
thresholds. Kept with probability min(1, size / z), a row is kept about as
likely as the objective that wants it most would keep it (Cohen, "Multi-objective
weighted sampling", 2015). Totals of all columns stay unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.sampling.pool import threshold
from flowagent.scale import scaled

_SCALE = ("sampling_rate", "inclusion_prob")
_ENOUGH = 8192
"""Rows that thresholds of objectives are taken from; they need not be exact."""


class Sizes:
    """Sizes relative to the traffic that `fit` saw; until then every row has size 1."""

    def __init__(self, objectives: Mapping[Any, float]) -> None:
        """Shares of the budget by measure: an `Objective`, or any column that `scale.measure` knows."""
        total = sum(objectives.values())
        self._shares = {name: share / total for name, share in objectives.items() if share > 0}
        self._units: dict[str, float] = {}

    @property
    def bytes_unit(self) -> float:
        """Bytes of a row whose size is 1 by its bytes; 0 where they do not count."""
        return self._units.get("bytes", 0.0)

    @property
    def is_fitted(self) -> bool:
        """Whether sizes tell rows apart yet."""
        return bool(self._units)

    def fit(self, batch: Batch, budget: float) -> None:
        """Take each objective's threshold from these rows, with `budget` of them to be kept."""
        step = max(1, -(-len(batch) // _ENOUGH))
        some = batch.select((*self._shares, *_SCALE)).every(step)
        for name, share in self._shares.items():
            self._units[name] = threshold(scaled(some, name), share * budget / step) or 1.0

    def of(self, batch: Batch) -> Array:
        """(n,) float64 > 0."""
        sizes: Array | None = None
        for name, unit in self._units.items():
            part = scaled(batch, name)
            part /= unit
            sizes = part if sizes is None else np.maximum(sizes, part, out=sizes)
        return constant(1.0, len(batch), np.float64) if sizes is None else sizes
