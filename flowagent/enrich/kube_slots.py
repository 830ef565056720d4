"""Rows of columns that are taken and given back: what lives in a store, ready to be copied whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from flowagent.batch import Array


class Slots:
    """`columns[name]` is an array with a place for each row that is or was taken; only `size` of them mean something.

    A row given back is taken again before the arrays grow.
    """

    def __init__(self, columns: Mapping[str, npt.DTypeLike]) -> None:
        self.columns: dict[str, Array] = {name: np.zeros(16, dtype) for name, dtype in columns.items()}
        self.size = 0
        """All rows from this one on were never taken."""
        self._free: list[int] = []

    def __len__(self) -> int:
        """How many rows are taken."""
        return self.size - len(self._free)

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def take(self) -> int:
        """A row; what stands in it is undefined."""
        if self._free:
            return self._free.pop()
        if self.size == len(next(iter(self.columns.values()))):
            self.columns = {name: np.concatenate([a, np.zeros_like(a)]) for name, a in self.columns.items()}
        self.size += 1
        return self.size - 1

    def give(self, row: int) -> None:
        """Give a row back."""
        self._free.append(row)
