"""Rows into messages: every schema in every format."""

from functools import partial

import numpy as np

from benchmarks.flows import Records
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.aggregate.group import aggregate
from flowagent.batch import Batch, constant
from flowagent.export.encoder import Encoder
from flowagent.export.schemas import FORMATS, encoder
from flowagent.schema import COLUMNS
from flowagent.sections import Window

ROWS = 20_000
WIDE = 30
"""Columns of the wider rows, and fields of those of Kubernetes."""
PODS, SERVICES = 2000, 200
"""That talk to each other."""
_MORE = (
    "tos", "ttl", "src_mac", "dst_mac", "ether_type", "vlan", "src_as", "dst_as", "src_mask", "dst_mask",
    "next_hop", "flow_end_reason", "tunnel_type", "tunnel_key", "mpls_label", "icmp_type", "icmp_code",
)  # fmt: skip


def run(options: Options) -> Table:
    table = Table("Encode", calibration_ms=[calibrate()])
    rows = default_rows()
    kinds = {"default window": rows, "wide": widened(rows), "Kubernetes": kubernetes(rows), "sampled": sampled(rows)}
    for schema, formats in FORMATS.items():
        for format_ in formats:
            for name, batch in kinds.items():
                if name == "sampled" and options.quick:
                    continue
                made = encoder(schema, format_)
                ns = measure(partial(_encode, made, batch), options.enough)
                table.rows.append({
                    "schema": schema, "format": format_, "rows": name, "columns": len(batch.columns),
                    "bytes/row": len(made.joined(batch)) / len(batch), "ns/row": ns, "rows/s": 1e9 / ns,
                })  # fmt: skip
    return table


def default_rows() -> Batch:
    """As the default window gives them."""
    config = Window()
    wanted = (*config.key, "sampling_source"), config.measures
    rows = aggregate(Records().draw(4 * ROWS), *wanted)
    return rows.rows(0, ROWS)


def widened(rows: Batch) -> Batch:
    """With more canonical columns, of random values."""
    rng = np.random.default_rng(1)
    shapes = {"addr": (2, len(rows))}
    more = {}
    for name in _MORE[: WIDE - len(rows.columns)]:
        column = COLUMNS[name]
        few = rng.integers(0, 250, shapes.get(column.kind, len(rows)))
        more[name] = few.astype(column.dtype)
    return rows.with_columns(more)


def kubernetes(rows: Batch) -> Batch:
    """Rows that give NetObserv's flows 30 fields, 15 of them names: each end is a pod, of a workload, on a node."""
    rng = np.random.default_rng(2)
    digits = np.array([b"%05x" % i for i in rng.integers(0, 16**5, PODS)])
    owners = np.array([b"workload-%d-of-team-%d" % (i, i % 20) for i in range(SERVICES)]).repeat(PODS // SERVICES)
    namespaces = np.array([b"team-%d-production" % (i % 20) for i in range(SERVICES)]).repeat(PODS // SERVICES)
    pods = {
        "name": np.strings.add(np.strings.add(owners, b"-"), digits),
        "namespace": namespaces,
        "owner_name": owners,
        "owner_type": np.where(np.arange(PODS) % 9, b"Deployment", b"StatefulSet"),
        "host_name": np.array([b"worker-%d.cluster.example.net" % (i % 50) for i in range(PODS)]),
        "host_ip": np.array([b"10.0.%d.%d" % (i % 3, i % 50) for i in range(PODS)]),
    }
    columns = {}
    for end in ("src", "dst"):
        chosen = rng.integers(0, PODS, len(rows))
        columns |= {f"{end}_k8s_{name}": texts[chosen] for name, texts in pods.items()}
        columns[f"{end}_k8s_type"] = constant(b"Pod", len(rows), "S3")
    columns["k8s_flow_layer"] = np.where(rng.random(len(rows)) < 0.8, b"app", b"infra")
    columns["tos"] = rng.choice(np.array([0, 0, 0, 184], "u1"), len(rows))
    columns["in_if"], columns["out_if"] = (rng.integers(1, 40, len(rows)).astype("u4") for _ in range(2))
    kept = rows.select(name for name in rows.columns if name not in ("sampling_source", "exporter"))
    return kept.with_columns(columns)


def sampled(rows: Batch) -> Batch:
    """With a weight each."""
    probs = np.random.default_rng(3).uniform(0.01, 1, len(rows))
    return rows.with_columns({"inclusion_prob": probs, "weight": 1 / probs})


def _encode(made: Encoder, batch: Batch, watch: Stopwatch) -> int:
    with watch:
        made.joined(Batch(batch.columns, len(batch), batch.valid))
    return len(batch)
