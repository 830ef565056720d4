"""Rows read from a broker of Apache Kafka: fetching, decoding, and committing what is settled at once."""

import asyncio
import shutil
import time
from typing import Any

from benchmarks.encode import default_rows, kubernetes
from benchmarks.kafka import broker
from benchmarks.options import Options
from benchmarks.table import Table, calibrate
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export.kafka import Config as SinkConfig
from flowagent.ingest.kafka import Config, KafkaSource

_ROWS, _QUICK_ROWS = 400_000, 100_000
_AT_ONCE = 5000


def run(options: Options) -> Table:
    table = Table("Read from Kafka", calibration_ms=[calibrate()])
    missing = [program for program in ("java", "mvn", "openssl") if shutil.which(program) is None]
    if missing:
        table.rows.append({"rows": "skipped", "messages": "", "ns/row": None, "rows/s": None})
        table.notes.append(f"Needs {', '.join(missing)}.")
        return table
    rows = default_rows()
    cases: list[tuple[str, Batch, str, str, int]] = [
        ("default window", rows, "goflow2", "protobuf", 1),
        ("default window", rows, "goflow2", "protobuf", 1000),
    ]
    if not options.quick:
        cases += [
            ("default window", rows, "canonical", "json", 1),
            ("default window", rows, "canonical", "msgpack", 1),
            ("default window", rows, "netobserv", "json", 1),
            ("Kubernetes", kubernetes(rows), "netobserv", "json", 1),
        ]
    wanted = _QUICK_ROWS if options.quick else _ROWS
    with broker() as address:
        for i, (name, batch, schema, form, many) in enumerate(cases):
            settings: dict[str, Any] = {"brokers": (address,), "topic": f"rows{i}", "schema": schema, "format": form}
            total = asyncio.run(_produce(SinkConfig(records_per_message=many, **settings), batch, wanted))
            ns, rate = asyncio.run(_consume(Config(**settings), total))
            messages = f"{schema} {form}, {many} rows each"
            table.rows.append({"rows": name, "messages": messages, "ns/row": ns, "rows/s": rate})
    table.notes.append("ns/row is processor time; rows/s is with waiting for a broker that has a core of its own.")
    return table


async def _produce(config: SinkConfig, batch: Batch, wanted: int) -> int:
    """How many rows are in the topic."""
    rows = 0
    async with config.build(Context("kafka")) as sink:
        while rows < wanted:
            for start in range(0, len(batch), _AT_ONCE):
                await sink.write(batch.rows(start, min(start + _AT_ONCE, len(batch))))
            rows += len(batch)
    return rows


async def _consume(config: Config, total: int) -> tuple[float, float]:
    """Nanoseconds of processor time a row, rows a second, from the first rows on."""
    source = config.build(Context("kafka"))
    async with source:
        counter = _Counter(source, total)
        task = asyncio.get_running_loop().create_task(source.run(counter.take))
        await counter.is_over.wait()
        task.cancel()
        await asyncio.wait([task])
    return counter.figures()


class _Counter:
    """Settles what it takes at once."""

    def __init__(self, source: KafkaSource, total: int) -> None:
        self._source, self._total = source, total
        self._rows = self._mark = self._first = 0
        self._began = self._used = self._ended = 0.0
        self.is_over = asyncio.Event()

    def take(self, batch: Batch) -> int:
        if not self._mark:
            self._first, self._began, self._used = len(batch), time.perf_counter(), time.process_time()
        self._rows += len(batch)
        self._mark += 1
        self._source.settled(self._mark, 0.0)
        if self._rows >= self._total:
            self._ended, self._used = time.perf_counter(), time.process_time() - self._used
            self.is_over.set()
        return self._mark

    def figures(self) -> tuple[float, float]:
        rows = self._rows - self._first
        return self._used / rows * 1e9, rows / (self._ended - self._began)
