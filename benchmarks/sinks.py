"""Rows as the sinks `otlp`, `ipfix` and `parquet` write them: what it costs to make the bytes, without any network."""

import gzip
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.encode import default_rows, kubernetes, sampled, widened
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export import otlp_logs
from flowagent.export.ipfix import Config as Ipfix
from flowagent.export.parquet import Config as Parquet

ROWS = 10_000
"""As many as are written at once by default."""
_RESOURCE = otlp_logs.resource({"service.name": "flowagent"})
Encode = Callable[[Batch], int]
"""Makes the bytes of some rows; returns how many."""


def run(options: Options) -> Table:
    table = Table("Bytes of sinks", calibration_ms=[calibrate()])
    rows = default_rows().rows(0, ROWS)
    kinds = {"default window": rows, "wide": widened(rows), "Kubernetes": kubernetes(rows), "sampled": sampled(rows)}
    with tempfile.TemporaryDirectory() as directory:
        sinks: dict[str, Encode] = {"otlp": _otlp, "otlp, gzip": _otlp_gzip, "ipfix": _ipfix()}
        for name, batch in kinds.items():
            # A new one each, as a file has all columns that any rows had before.
            parquet = {"parquet": _parquet(Path(directory) / name)}
            for sink, encode in (sinks | parquet).items():
                if name in ("wide", "sampled") and options.quick:
                    continue
                ns = measure(partial(_encode, encode, batch), options.enough)
                table.rows.append({
                    "sink": sink, "rows": name, "columns": len(batch.columns),
                    "bytes/row": encode(batch) / len(batch), "ns/row": ns, "rows/s": 1e9 / ns,
                })  # fmt: skip
    table.notes.append("Parquet: the rows as a stream, and then as a file.")
    return table


def _otlp(batch: Batch) -> int:
    return len(otlp_logs.encode(batch, 0).request(_RESOURCE, 0, len(batch)))


def _otlp_gzip(batch: Batch) -> int:
    return len(gzip.compress(otlp_logs.encode(batch, 0).request(_RESOURCE, 0, len(batch)), 1, mtime=0))


def _ipfix() -> Encode:
    sink = Ipfix(collector="127.0.0.1:4739").build(Context("ipfix"))
    return lambda batch: sum(len(message.data) for message in sink.messages(batch))


def _parquet(directory: Path) -> Encode:
    sink = Parquet(path=str(directory / "%Y.parquet"), rotate_rows=1).build(Context("parquet"))
    directory.mkdir()
    return sink.write_now


def _encode(encode: Encode, batch: Batch, watch: Stopwatch) -> int:
    fresh = Batch(batch.columns, len(batch), batch.valid)
    with watch:
        encode(fresh)
    return len(batch)
