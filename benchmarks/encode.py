"""Rows into lines of JSON."""

from functools import partial

import numpy as np

from benchmarks.flows import Records
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.aggregate.group import aggregate
from flowagent.batch import Batch
from flowagent.export.encode import json_lines
from flowagent.schema import COLUMNS
from flowagent.sections import Window

ROWS = 20_000
WIDE = 30
"""Columns of the wider rows."""
_MORE = (
    "tos", "ttl", "src_mac", "dst_mac", "ether_type", "vlan", "src_as", "dst_as", "src_mask", "dst_mask",
    "next_hop", "flow_end_reason", "tunnel_type", "tunnel_key", "mpls_label", "icmp_type", "icmp_code",
)  # fmt: skip


def run(options: Options) -> Table:
    table = Table("Encode", calibration_ms=[calibrate()])
    rows = _rows()
    for name, batch in (("default window", rows), ("wide", _widened(rows))):
        ns = measure(partial(_encode, batch), options.enough)
        size = len(json_lines(batch)) / len(batch)
        table.rows.append({
            "rows": name, "columns": len(batch.columns), "bytes/row": size, "ns/row": ns, "rows/s": 1e9 / ns,
        })  # fmt: skip
    return table


def _rows() -> Batch:
    """As the default window gives them."""
    config = Window()
    wanted = (*config.key, "sampling_source"), config.measures
    rows = aggregate(Records().draw(4 * ROWS), *wanted)
    return rows.rows(0, ROWS)


def _widened(rows: Batch) -> Batch:
    """With more canonical columns, of random values."""
    rng = np.random.default_rng(1)
    shapes = {"addr": (2, len(rows))}
    more = {}
    for name in _MORE[: WIDE - len(rows.columns)]:
        column = COLUMNS[name]
        few = rng.integers(0, 250, shapes.get(column.kind, len(rows)))
        more[name] = few.astype(column.dtype)
    return rows.with_columns(more)


def _encode(batch: Batch, watch: Stopwatch) -> int:
    with watch:
        json_lines(batch)
    return len(batch)
