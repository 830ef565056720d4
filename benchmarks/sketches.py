"""Sketches: what an item costs each of them, beside what the same methods took when they were first tried."""

from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np

from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.aggregate.histogram import Histogram
from flowagent.aggregate.hll import HyperLogLog
from flowagent.aggregate.kmv import KMinValues
from flowagent.aggregate.table import Table as Sums
from flowagent.batch import Array, Batch

SMALL, LARGE, HUGE = 10_000, 100_000, 1_000_000
CAPACITY = 8192
GROUPS = 500

Case = tuple[str, int, str | None, Callable[[Stopwatch], int]]
"""Name, items at once, the figure of the trial, and what is measured."""


def run(options: Options) -> Table:
    table = Table("Sketches", calibration_ms=[calibrate()])
    table.notes.append(
        f"Tables of {CAPACITY:,} keys take IPv4 addresses drawn by Zipf's law, exponent 1.1, that are not grouped yet."
        " Tried: NumPy on plain arrays, tables of hashes instead of addresses."
    )
    rng = np.random.default_rng(1)
    huge = LARGE if options.quick else HUGE
    for cases in (_tables(rng), _hyperloglogs(rng, huge), _smallest(rng, huge), _histograms(rng)):
        for name, items, tried, step in cases:
            figure = measure(step, options.enough)
            table.rows.append({"sketch": name, "items at once": items, "ns/item": figure, "tried": tried or "-"})
    return table


def _tables(rng: np.random.Generator) -> Iterator[Case]:
    for items, bounds, unbiased in ((SMALL, "38..59", "27..51"), (LARGE, "21..32", None)):
        batches = cycle([_addresses(rng, items) for _ in range(20)])
        weights = rng.pareto(1.1, items) + 1
        # Enough of them for the table to be merged in every step.
        times = 2 * CAPACITY // items + 1
        for name, tried, sums in (
            ("table, Misra-Gries", bounds, Sums(CAPACITY)),
            ("table, unbiased", unbiased, Sums(CAPACITY, unbiased=True, rng=rng)),
        ):
            yield name, items, tried, _step(sums.update, lambda b=batches, w=weights: (next(b), w), items, times)


def _hyperloglogs(rng: np.random.Generator, huge: int) -> Iterator[Case]:
    for items, tried in ((SMALL, "5.0"), (huge, "12.7")):
        args = (_hashes(rng, items),)
        yield "HyperLogLog, p=12", items, tried, _step(HyperLogLog().update, lambda a=args: a, items)
    grouped = _hashes(rng, SMALL), rng.integers(0, GROUPS, SMALL)
    yield f"{GROUPS} HyperLogLogs, p=12", SMALL, None, _step(HyperLogLog(GROUPS).update, lambda: grouped, SMALL)


def _smallest(rng: np.random.Generator, huge: int) -> Iterator[Case]:
    args = (_hashes(rng, huge),)
    yield "KMV, k=4096, first", huge, "2.9", _step(lambda h: KMinValues().update(h), lambda: args, huge)
    full = KMinValues()
    for _ in range(100):
        full.update(_hashes(rng, huge))
    batches = cycle([(_hashes(rng, SMALL),) for _ in range(20)])
    yield "KMV, k=4096, steady", SMALL, "1.0", _step(full.update, lambda: next(batches), SMALL)


def _histograms(rng: np.random.Generator) -> Iterator[Case]:
    for items, tried in ((SMALL, None), (LARGE, "3.8")):
        args = np.ceil(100 * (rng.pareto(1.1, items) + 1)), rng.random(items)
        yield "histogram, weighted", items, tried, _step(Histogram().update, lambda a=args: a, items)
    grouped = args[0][:SMALL], args[1][:SMALL], rng.integers(0, GROUPS, SMALL)
    yield f"{GROUPS} histograms, weighted", SMALL, None, _step(Histogram(GROUPS).update, lambda: grouped, SMALL)


def _step(
    update: Callable[..., None], arguments: Callable[[], tuple], items: int, times: int = 1
) -> Callable[[Stopwatch], int]:
    """Update so many times with arguments that hold so many items."""

    def step(watch: Stopwatch) -> int:
        for _ in range(times):
            given = arguments()
            with watch:
                update(*given)
        return items * times

    return step


def _addresses(rng: np.random.Generator, rows: int) -> Batch:
    words = np.zeros((2, rows), np.uint64)
    words[1] = (rng.zipf(1.1, rows) & 0xFFFFFFFF) | 0xFFFF00000000
    return Batch({"src_addr": words})


def _hashes(rng: np.random.Generator, rows: int) -> Array:
    return rng.integers(0, 2**64 - 1, rows, np.uint64)
