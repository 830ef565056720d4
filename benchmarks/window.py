"""The window: ten seconds of records at 1,000,000 a second, and writing it out."""

from benchmarks.flows import KEYS, Records
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate
from flowagent.aggregate.window import Window
from flowagent.clock import SECOND
from flowagent.schema import FLOW_KEY
from flowagent.sections import Window as WindowConfig

RATE = 1_000_000
SECONDS = 10
BATCH = 80_000
"""Records that come at once at this rate: 4096 datagrams of about 20."""


def run(options: Options) -> Table:
    table = Table("Window", calibration_ms=[calibrate()])
    seconds = 1 if options.quick else SECONDS
    table.notes.append(f"{seconds} s of {RATE:,} records/s, drawn from {KEYS:,} keys, in batches of {BATCH:,}.")
    for name, key in (("default", WindowConfig().key), ("5-tuple", FLOW_KEY)):
        table.rows.append({"key": name, **_figures(key, seconds)})
    return table


def _figures(key: tuple[str, ...], seconds: int) -> dict[str, float]:
    config = WindowConfig()
    window = Window(SECONDS * SECOND, key, config.measures, config.max_keys)
    records = Records()
    count = seconds * RATE
    process, flush = Stopwatch(), Stopwatch()
    for _ in range(count // BATCH):
        batch = records.draw(BATCH)  # drawn anew, so that rare keys come, too
        with process:
            window.process(batch, 0)
    with flush:
        rows = window.flush(0, final=True)
    return {
        "rows out": len(rows),
        "ns/record, process": process.ns / count,
        "flush ms": flush.ns / 1e6,
        "ns/record, together": (process.ns + flush.ns) / count,
    }
