"""Tables of figures, and what was needed to get them: a stopwatch, and how fast the core was."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

_WARM_UP = 2
"""Steps before any is measured."""
_LEAST = 5
"""Steps that a median needs."""


@dataclass
class Table:
    """Rows with equal keys, which are the column titles."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    calibration_ms: list[float] = field(default_factory=list)
    """One `calibrate` for each round."""
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Title, table and notes, to be pasted as they are."""
        names = list(self.rows[0])
        right = [not isinstance(value, str) for value in self.rows[0].values()]
        lines = [f"**{self.title}**", "", _line(names), _line(["---:" if r else "---" for r in right])]
        lines += [_line([_cell(value) for value in row.values()]) for row in self.rows]
        rounds = ", ".join(f"{ms:.1f}" for ms in self.calibration_ms)
        return "\n".join([*lines, "", " ".join([*self.notes, f"Calibration loop: {rounds} ms."])])

    def plain(self) -> dict[str, Any]:
        """For JSON: numbers as they were measured."""
        return {
            "title": self.title, "calibration_ms": self.calibration_ms, "notes": self.notes, "rows": self.rows,
        }  # fmt: skip


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - it looks better in a table
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> str:
    """On what the figures were measured."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} CPUs, Python {platform.python_version()}, NumPy {np.__version__}"


def calibrate() -> float:
    """Milliseconds that a fixed loop takes now: figures from times when this differs do not compare."""
    began, x = time.process_time_ns(), 0
    for i in range(300_000):
        x += i * i & 7
    return (time.process_time_ns() - began) / 1e6


class Stopwatch:
    """Adds up the processor time of this process inside `with`, in nanoseconds."""

    def __init__(self) -> None:
        self.ns = 0
        self._began = 0

    def __enter__(self) -> Self:
        self._began = time.process_time_ns()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ns += time.process_time_ns() - self._began


def measure(step: Callable[[Stopwatch], int], seconds: float) -> float:
    """Median nanoseconds an item, of steps that took so many seconds together.

    A step does something once, with the watch around what counts, and returns
    how many items that were.
    """
    for _ in range(_WARM_UP):
        step(Stopwatch())
    figures: list[float] = []
    total = 0
    while len(figures) < _LEAST or total < seconds * 1e9:
        watch = Stopwatch()
        figures.append(step(watch) / max(watch.ns, 1))
        total += watch.ns
    return 1 / statistics.median(figures)
