"""Policies: what a record costs them on top of the window, which merges records of equal keys for both."""

import gc
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.flows import KEYS, Records
from benchmarks.options import Options
from benchmarks.receivers import SamplingAgent
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.aggregate.window import Window
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.config import DEFAULTS, kind
from flowagent.sections import Window as WindowConfig

AT_ONCE = {100_000: 1_000_000, 10_000: 100_000}
"""Records that come at once, and how many a second that stands for."""
GROUPED = [{
    "type": "policy", "name": "grouped", "group_by": ["in_if"], "top": [{"of": "src_addr"}],
    "distinct": ["src_addr"], "quantiles": ["bytes"],
}]  # fmt: skip
SETS: dict[str, Sequence[Mapping[str, Any]]] = {
    "default policy": DEFAULTS["analyse"],
    "six policies": SamplingAgent.sections["analyse"],
    "one policy with groups": GROUPED,
}


def run(options: Options) -> Table:
    table = Table("Policies", calibration_ms=[calibrate()])
    table.notes.append(f"Keys drawn from {KEYS:,}. Window: its `condense`, whose rows the policies use.")
    for count, rate in AT_ONCE.items():
        batches = [Records().draw(count) for _ in range(1 if options.quick else 4)]
        window = _window(batches, options.enough)
        for name, entries in SETS.items():
            added = _policies(entries, batches, rate, options.enough)
            table.rows.append({
                "policies": name, "records at once": count, "ns/record, window": window, "ns/record, policies": added,
            })  # fmt: skip
    return table


def _new_window() -> Window:
    config = WindowConfig()
    return Window(10 * SECOND, config.key, config.measures, config.max_keys)


def _window(batches: Sequence[Batch], seconds: float) -> float:
    """Nanoseconds that merging the records takes."""
    window, number = _new_window(), 0

    def step(watch: Stopwatch) -> int:
        nonlocal number
        number += 1
        batch = _fresh(batches[number % len(batches)])
        with watch:
            window.condense(batch)
        return len(batch)

    return measure(step, seconds)


def _policies(entries: Sequence[Mapping[str, Any]], batches: Sequence[Batch], rate: int, seconds: float) -> float:
    """Nanoseconds that all of them take together, of records that were merged before."""
    kinds = [kind("analyse", dict(entry), "") for entry in entries if entry["type"] == "policy"]
    policies: list[Any] = [k.settings.build(Context(k.name)) for k in kinds]  # type: ignore[attr-defined]
    window, number = _new_window(), 0

    def step(watch: Stopwatch) -> int:
        nonlocal number
        number += 1
        batch = _fresh(batches[number % len(batches)])
        flows = window.condense(batch)
        now_ns = number * len(batch) * SECOND // rate
        with watch:
            for policy in policies:
                policy.process(batch, flows, now_ns)
                policy.tick(now_ns)
        return len(batch)

    gc.collect()
    return measure(step, seconds)


def _fresh(batch: Batch) -> Batch:
    """The same records, of which nothing is known yet."""
    return Batch(batch.columns, batch.length, batch.valid)
