"""Rows produced to a broker of Apache Kafka: keys, encoding, compression, and waiting until the broker has them."""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.encode import default_rows, kubernetes
from benchmarks.options import Options
from benchmarks.process import RECEIVER_CPU, ROOT, SENDER_CPU
from benchmarks.table import Table, calibrate
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export.kafka import Config

ROWS = 3000
"""Rows of a write: about as many as make the 1 MB that are sent at once by default."""
_SECONDS, _QUICK_SECONDS = 5.0, 0.5
_WARM_UP = 2.0
"""Seconds in which the broker's code is compiled, part of what is measured otherwise."""


def run(options: Options) -> Table:
    table = Table("Produce to Kafka", calibration_ms=[calibrate()])
    missing = [program for program in ("java", "mvn", "openssl") if shutil.which(program) is None]
    if missing:
        table.rows.append({"rows": "skipped", "settings": "", "bytes/row": None, "ns/row": None, "rows/s": None})
        table.notes.append(f"Needs {', '.join(missing)}.")
        return table
    rows = default_rows()
    pods = kubernetes(rows)
    cases: list[tuple[str, Batch, dict[str, Any]]] = [
        ("default window", rows, {}),
        ("default window", rows, {"records_per_message": 1000}),
    ]
    if not options.quick:
        cases += [
            ("default window", rows, {"compression": "none"}),
            ("default window", rows, {"compression": "snappy", "records_per_message": 1000}),
            ("default window", rows, {"schema": "goflow2", "format": "protobuf"}),
            ("default window", rows, {"topic": "flows-{proto}"}),
            ("Kubernetes", pods, {"schema": "netobserv"}),
            ("Kubernetes", pods, {"schema": "netobserv", "records_per_message": 1000}),
        ]
    with broker() as address:
        for name, batch, settings in cases:
            seconds = _QUICK_SECONDS if options.quick else _SECONDS
            size, ns, rate = asyncio.run(_measured(Config(brokers=(address,), **settings), batch, seconds))
            table.rows.append({
                "rows": name, "settings": ", ".join(f"{k}: {v}" for k, v in settings.items()) or "default",
                "bytes/row": size, "ns/row": ns, "rows/s": rate,
            })  # fmt: skip
    table.notes.append("ns/row is processor time; rows/s is with waiting for a broker that has a core of its own.")
    return table


async def _measured(config: Config, batch: Batch, seconds: float) -> tuple[float, float, float]:
    """Bytes a row before compression, nanoseconds of processor time a row, rows a second."""
    async with config.build(Context("kafka")) as sink:
        await _write(sink, batch, min(_WARM_UP, seconds))
        used, began = time.process_time_ns(), time.perf_counter()
        rows, size = await _write(sink, batch, seconds)
        used, took = time.process_time_ns() - used, time.perf_counter() - began
    return size / rows, used / rows, rows / took


async def _write(sink: Any, batch: Batch, seconds: float) -> tuple[int, int]:
    """Rows and bytes that were written in so much time."""
    rows = size = 0
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for start in range(0, len(batch), ROWS):
            part = batch.rows(start, min(start + ROWS, len(batch)))
            size += await sink.write(part)
            rows += len(part)
    return rows, size


@contextmanager
def broker() -> Iterator[str]:
    """The address of one that runs on another core than this process, where there are two."""
    sys.path.append(str(ROOT / "tests"))  # it is the tests' broker
    from live.kafka import Kafka

    mine = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="flowagent-benchmark-") as directory:
        os.sched_setaffinity(0, {SENDER_CPU})
        running = Kafka(Path(directory)).start()
        try:
            os.sched_setaffinity(0, {RECEIVER_CPU})
            yield running.address
        finally:
            os.sched_setaffinity(0, mine)
            running.kill()
