"""The sampler: what a row of a window costs until the sample is drawn."""

from itertools import count

from benchmarks.flows import Records
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.aggregate.group import aggregate
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.outcome import Outcomes
from flowagent.sampling.sampler import Sampler
from flowagent.sections import Sampling, Window

ROWS, QUICK_ROWS = 100_000, 20_000
BUDGET, SECONDS = 500, 10
CASES: dict[str, dict] = {
    "threshold": {},
    "threshold, bytes only": {"objectives": {"bytes": 1}},
    "threshold, in 10 parts": {},
    "threshold, by in_if": {"by": ("in_if",)},
    "threshold, a keep rule": {"keep": ("proto == tcp and dst_port == 22",)},
    "threshold, new peers": {"keep_new_peers": "1h"},
    "priority": {"method": "priority"},
    "systematic": {"method": "systematic"},
    "uniform": {"method": "uniform"},
    "hash": {"method": "hash", "fraction": 0.05},
}


def run(options: Options) -> Table:
    table = Table("Sampling", calibration_ms=[calibrate()])
    rows = window_rows(QUICK_ROWS if options.quick else ROWS)
    table.notes.append(f"{len(rows):,} rows of the default window, budget {BUDGET} rows/s over {SECONDS} s.")
    for name, settings in CASES.items():
        parts = 10 if "parts" in name else 1
        config = Sampling(budget=BUDGET, **settings)
        ns, kept = _ns_per_row(config, rows, parts, options.enough)
        table.rows.append({"method": name, "rows kept": kept, "ns/row": ns})
    return table


def window_rows(wanted: int) -> Batch:
    """Rows as the default window writes them out: distinct keys, in the order of their hashes."""
    records = Records()
    config = Window()
    parts: list[Batch] = []
    rows = Batch({})
    while len(rows) < wanted:
        parts.append(records.draw(wanted))
        rows = aggregate(Batch.concat(parts), config.key, config.measures)
        parts = [rows]
    return rows.rows(0, wanted)


def _ns_per_row(config: Sampling, rows: Batch, parts: int, seconds: float) -> tuple[float, int]:
    sampler = Sampler(config, SECONDS * SECOND, Outcomes())
    windows = count()
    size = -(-len(rows) // parts)
    pieces = [rows.rows(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    kept = 0

    def step(watch: Stopwatch) -> int:
        nonlocal kept
        starts_ns = next(windows) * SECONDS * SECOND
        with watch:
            for piece in pieces:
                sampler.add(piece, starts_ns)
            sample = sampler.take()
        kept = len(sample)
        return len(rows)

    return measure(step, seconds), kept
