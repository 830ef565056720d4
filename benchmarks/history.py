"""The history: what a window costs it, what it takes, and how long questions about a full hour last."""

import statistics
import time

import msgspec
import numpy as np

from benchmarks.flows import Records
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate
from flowagent import names
from flowagent.aggregate.group import aggregate
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.history.query import Query
from flowagent.history.result import query
from flowagent.history.store import History
from flowagent.sections import History as Settings
from flowagent.sections import Window

ROWS = (1_000, 5_000, 50_000, 200_000)
STEPS = 360
"""An hour of them."""
_PARTS = 100
"""In which records of a step come where there is no window."""
QUESTIONS = {
    "2 names": {"dimensions": "src_k8s_namespace,dst_k8s_namespace"},
    "4 columns": {"dimensions": "src_addr,dst_addr,src_port,dst_port", "top": "2000", "fold": "row"},
    "series": {"dimensions": "src_k8s_owner_name", "step": "1m", "fold": "row"},
}
_NAMES = {"k8s_name": 1, "k8s_owner_name": 4, "k8s_namespace": 50, "k8s_type": 1000, "k8s_owner_type": 700,
          "k8s_host_name": 100, "k8s_zone": 700}  # fmt: skip
"""Names of both sides, and how many pods have the same one."""


def run(options: Options) -> Table:
    table = Table("History", calibration_ms=[calibrate()])
    table.notes.append(
        f"{STEPS} steps of 10 s, {2 * len(_NAMES)} columns of names. Processor time: of what comes in with folds, "
        "of questions over the whole hour."
    )
    for rows in ROWS[1:2] if options.quick else ROWS:
        table.rows.append(_filled(rows, Window(), 1))
    table.rows.append(_filled(20_000 if options.quick else 200_000, Window(every=0), _PARTS))
    return table


def _filled(rows: int, window: Window, parts: int) -> dict[str, object]:
    history = History(Settings(), window, np.random.default_rng(1))
    history.name, history.names = _named, frozenset(f"{side}_{part}" for side in ("src", "dst") for part in _NAMES)
    records = Records()
    batches = [_batch(records, window, rows // parts) for _ in range(3)]
    watch, steps, longest = Stopwatch(), STEPS if parts == 1 else STEPS // 10, 0
    for i in range(steps):
        before = watch.ns
        with watch:
            for part in range(parts):
                history.add(batches[(i + part) % 3], i * 10 * SECOND)
            history.seal((i + 1) * 10 * SECOND)
        longest = max(longest, watch.ns - before)
    return {
        "rows a step": rows,
        "window": f"{window.every}",
        "ns/row in": watch.ns / steps / rows,
        "ms/step in": watch.ns / steps / 1e6,
        "ms, longest": longest / 1e6,
        "MB": history.describe()["memory"] / 1e6,
        "bytes/row": history.describe()["memory"] / history.describe()["rows"],
        **{f"ms, {name}": _milliseconds(history, asked) for name, asked in QUESTIONS.items()},
    }


def _batch(records: Records, window: Window, rows: int) -> Batch:
    drawn = records.draw(2 * rows if window.seconds else rows)
    return aggregate(drawn, window.key, window.measures).rows(0, rows) if window.seconds else drawn


def _named(batch: Batch) -> Batch:
    added = {}
    for side in ("src", "dst"):
        pod = (batch[f"{side}_addr"][1] % np.uint64(2000)).astype(np.intp)
        for part, pods in _NAMES.items():
            texts = names.codes(f"{part}-{i}" for i in range(2000 // pods + 1))
            added[f"{side}_{part}"] = texts[pod // pods]
    return batch.with_columns(added)


def _milliseconds(history: History, asked: dict[str, str]) -> float:
    parsed = Query.parse({"from": "-1h", **asked})
    figures = []
    for _ in range(5):
        began = time.process_time()
        msgspec.json.encode(query(history, parsed))
        figures.append(time.process_time() - began)
    return statistics.median(figures) * 1e3
