"""Random windows of flows, and what a plain loop says of them."""

from collections import Counter

import numpy as np

from flowagent.batch import Batch
from flowagent.history.store import History
from flowagent.sections import History as Settings
from flowagent.sections import Window

SECOND = 10**9
KEY = ("src_port", "dst_port", "proto", "in_if")


def window(rows, **more):
    """Rows of (src_port, dst_port, proto, bytes, packets, records); a proto of None is unknown."""
    columns = list(zip(*rows, strict=True)) or [()] * 6
    protos = np.array([0 if p is None else p for p in columns[2]], np.uint8)
    known = np.array([p is not None for p in columns[2]], np.bool_)
    n = len(rows)
    values = {
        "src_port": np.array(columns[0], np.uint16),
        "dst_port": np.array(columns[1], np.uint16),
        "proto": protos,
        "bytes": np.array(columns[3], np.uint64),
        "packets": np.array(columns[4], np.uint64),
        "records": np.array(columns[5], np.uint64),
        "sampling_rate": np.ones(n),
        "sampling_source": np.ones(n, np.uint8),
    }
    return Batch({**values, **more}, n, {} if known.all() else {"proto": known})


def history(every="10s", seed=1, key=KEY, **settings):
    """A history of windows whose key is short."""
    made = Window(every=every, key=key)
    return History(Settings(**settings), made, np.random.default_rng(seed))


def filled(windows, seconds=10, **settings):
    """A history of these windows, one after the other from 0."""
    made = history(**settings)
    for i, rows in enumerate(windows):
        made.add(rows if isinstance(rows, Batch) else window(rows), i * seconds * SECOND)
        made.seal((i + 1) * seconds * SECOND)
    return made


def heavy(rng, n, ports=8):
    """A window of heavy-tailed flows, all with keys of their own."""
    packets = np.ceil(rng.pareto(1.2, n) + 1).astype(np.uint64)
    bytes_ = packets * rng.integers(40, 1500, n).astype(np.uint64)
    sources = np.arange(n) % 60000
    rows = zip(sources, rng.integers(0, ports, n), [6] * n, bytes_, packets, [1] * n, strict=True)
    return window([tuple(map(int, row)) for row in rows])


def sums(windows, by, measure):
    """The naive answer: the sum of each value of some of the six fields."""
    fields = ("src_port", "dst_port", "proto", "bytes", "packets", "flows")
    found = Counter()
    for rows in windows:
        for row in rows:
            one = dict(zip(fields, row, strict=True))
            found[tuple(one[name] for name in by)] += one[measure]
    return {key: value for key, value in found.items() if value}
