"""Names joined to records by a table of 50,000 pods and 5,000 services, and repeated reports found."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent import names
from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, Batch
from flowagent.component import Context
from flowagent.dedup import Deduplicate
from flowagent.enrich import kubernetes, services, subnets
from flowagent.enrich.kube_table import PARTS, Holdings, KubeTable
from flowagent.enrich.table import FOREVER
from flowagent.outcome import Outcomes
from flowagent.sections import Dedup

PODS, SERVICES = 50_000, 5_000
PREFIXES = 10_000
ROWS = (1_000, 32_768, 100_000)
TWO = frozenset({"src_k8s_namespace", "dst_k8s_namespace"})
Step = Callable[[Batch], Batch]


def run(options: Options) -> Table:
    table = Table("Names, ns a row for both sides", calibration_ms=[calibrate()])
    held = _holdings()
    build = partial(KubeTable.build, held, ("kube-*",))
    began = time.process_time()
    steps = _steps(build())
    table.notes.append(f"The table of {len(held.entity):,} addresses took {time.process_time() - began:.2f} s to make.")
    for count in ROWS[:2] if options.quick else ROWS:
        batch = _flows(held, count)
        figures = {name: _ns_per_row(step, batch, options.enough) for name, step in steps.items()}
        table.rows.append({"rows": count, **figures})
    return table


def _steps(known: KubeTable) -> dict[str, Step]:
    named = kubernetes.Config(snapshot_url="http://127.0.0.1:8077").build(Context("kubernetes"))
    named.learn(known)
    labels = {f"net-{i % 100}": (f"10.{i >> 8 & 255}.{i & 255}.0/24",) for i in range(PREFIXES)}
    by_subnet = subnets.Config(labels=labels).build(Context("subnets"))
    by_port = services.Config(file=None).build(Context("services"))
    once = Deduplicate(Dedup(points=("exporter",)), Outcomes(), 1)
    return {
        "two names": lambda batch: named.enrich(batch, TWO),
        f"all {len(named.adds)} columns": lambda batch: named.enrich(batch, named.adds),
        "subnets": lambda batch: by_subnet.enrich(batch, by_subnet.adds),
        "services": lambda batch: by_port.enrich(batch, by_port.adds),
        "dedup by point": lambda batch: once.process(batch, 0),
    }


def _holdings() -> Holdings:
    rng = np.random.default_rng(1)
    count = PODS + SERVICES
    low = V4_MAPPED | (10 << 24) | rng.choice(1 << 24, count, replace=False)
    texts = [f"name-{i}" for i in range(count)]
    some = {part: names.codes(texts[:200])[rng.integers(0, 200, count)] for part in PARTS}
    return Holdings(
        np.stack([np.zeros(count), low]).astype(np.uint64),
        np.zeros(count, np.int64),
        np.full(count, FOREVER),
        np.arange(count, dtype=np.int32),
        np.zeros(count, np.uint8),
        {**some, "name": names.codes(texts)},
    )


def _flows(held: Holdings, count: int) -> Batch:
    """One end of each is in the cluster, and the other in nine of ten."""
    rng = np.random.default_rng(2)
    now = np.full(count, time.clock_gettime_ns(time.CLOCK_REALTIME))
    inside, outside = _ends(held, rng, count, 1.0), _ends(held, rng, count, 0.9)
    return Batch({
        "src_addr": inside, "dst_addr": outside, "exporter": inside[:, rng.integers(0, 4, count)],
        "src_port": rng.integers(32768, 60999, count).astype(np.uint16),
        "dst_port": rng.choice(np.array([53, 80, 443, 5432, 9092], np.uint16), count),
        "proto": np.full(count, 6, np.uint8), "end_ns": now, "received_ns": now,
    })  # fmt: skip


def _ends(held: Holdings, rng: np.random.Generator, count: int, share: float) -> Array:
    addresses = held.addresses[:, rng.integers(0, len(held.entity), count)]
    addresses[1, rng.random(count) >= share] = V4_MAPPED | 8 << 24
    return addresses


def _ns_per_row(step: Step, batch: Batch, seconds: float) -> float:
    def once(watch: Stopwatch) -> int:
        fresh = Batch(batch.columns)
        with watch:
            step(fresh)
        return len(batch)

    return measure(once, seconds)
