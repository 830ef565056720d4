"""Command line of the benchmarks."""

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path

from benchmarks.options import Options
from benchmarks.table import machine

PARTS = {
    "decode": "datagrams into columns",
    "group": "rows grouped and merged by 5-tuple",
    "window": "ten seconds of records through the window",
    "enrich": "names joined to records, and repeated reports dropped",
    "policies": "the default policies over records",
    "sampling": "a window's rows sampled",
    "history": "windows remembered, and questions about them",
    "accuracy": "how far off totals are, by budget and method",
    "sketches": "tables, HLL, KMV and histograms updated",
    "encode": "rows into messages of every schema and format",
    "filters": "filter expressions over columns",
    "loki": "rows pushed to Loki",
    "kafka": "rows produced to Kafka, where there is Java",
    "consume": "rows read from Kafka, where there is Java",
    "sinks": "rows into the bytes of other sinks",
    "packets": "packets in a file into flows",
    "capture": "live capture, beside softflowd",
    "loopback": "the agent beside other receivers, sent to over loopback",
}


def main() -> None:
    options, parts, file = _arguments()
    print(machine(), flush=True)
    tables = []
    for part in parts:
        table = importlib.import_module(f"benchmarks.{part}").run(options)
        tables.append(table)
        print(f"\n{table.markdown()}", flush=True)
    if file is not None:
        document = {"machine": machine(), "tables": [table.plain() for table in tables]}
        file.write_text(json.dumps(document, indent=1) + "\n")


def _arguments() -> tuple[Options, list[str], Path | None]:
    listing = "; ".join(f"{name}: {text}" for name, text in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Print how fast flowagent is: all of it takes 20 minutes, --quick one."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure, default all. {listing}")
    parser.add_argument("--quick", action="store_true", help="fewer cases, shorter; figures are rough")
    parser.add_argument("--max", action="store_true", help="loopback: the highest rate without loss instead")
    parser.add_argument("--rounds", type=int, help="loopback: rounds to take medians over (3; with --max 1)")
    parser.add_argument("--seconds", type=float, help="loopback: how long each trial sends (4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file, too")
    given = parser.parse_args()
    unknown = set(given.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; one of {', '.join(PARTS)}")
    if (given.rounds is not None and given.rounds < 1) or (given.seconds is not None and given.seconds <= 0):
        parser.error("--rounds and --seconds must be above 0")
    options = Options(
        quick=given.quick,
        maximum=given.max,
        rounds=given.rounds or (1 if given.quick or given.max else 3),
        seconds=given.seconds or (1 if given.quick else 4),
    )
    return options, given.parts or list(PARTS), given.json


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit that ends the processes under way
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
