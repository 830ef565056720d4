"""Rows as plain dicts: batches of them, and what policies must say of them, computed without NumPy."""

import math
from collections import defaultdict

import msgspec
import numpy as np
from hypothesis import strategies as st

from flowagent.addresses import address_words
from flowagent.aggregate.labels import readable
from flowagent.aggregate.policy import Config
from flowagent.batch import Batch, constant
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.schema import COLUMNS

HOSTS = [address_words(text) for text in ("10.0.0.1", "10.0.0.2", "192.0.2.7", "2001:db8::1", "2001:db8::2", "::1")]
KEY_VALUES = {
    "src_addr": HOSTS,
    "dst_addr": HOSTS[:3],
    "dst_port": [0, 53, 443, 65535],
    "proto": [6, 17],
    "vlan": [0, 7, 8],
    "sampling_rate": [1.0, 2.0, 1000.0, 1.5],
    # Powers of two, as overload makes them: sums of floats are then exact.
    "inclusion_prob": [1.0, 0.5, 0.125],
}
AMOUNTS = ("bytes", "packets", "records")


def policy_of(**settings):
    """A policy `p` as a configuration would have it, with periods of 10 s."""
    return msgspec.convert({"every": "10s", **settings}, Config).build(Context("p"))


def feed(policy, rows, now_s=0):
    batch = batch_of(rows)
    policy.process(batch, batch, round(now_s * SECOND))


def batch_of(rows, constants=True):
    """A batch of dicts; None or missing is unknown, and so is a column that is in no row."""
    columns, valid = {}, {}
    for name in {name for row in rows for name in row}:
        values = [row.get(name) for row in rows]
        known = [value is not None for value in values]
        if not any(known):
            continue
        column = COLUMNS[name]
        garbage = (7, 7) if column.kind == "addr" else 7
        if constants and all(known) and len(set(values)) == 1:
            columns[name] = constant(values[0], len(rows), column.dtype)
            continue
        # What is unknown has some value that nobody must look at.
        filled = np.array([value if value is not None else garbage for value in values], column.dtype)
        columns[name] = np.ascontiguousarray(filled.T) if column.kind == "addr" else filled
        if not all(known):
            valid[name] = np.array(known)
    columns.setdefault("records", constant(1, len(rows), "u8"))
    return Batch(columns, len(rows), valid)


def flow_rows(min_size=1, max_size=40):
    """Random rows with unknown values, of few keys."""
    keys = {name: st.none() | st.sampled_from(values) for name, values in KEY_VALUES.items()}
    amounts = {name: st.none() | st.integers(0, 2**32) for name in ("bytes", "packets")}
    row = st.fixed_dictionaries({**keys, **amounts})
    # Some columns are the same in all rows, or nowhere.
    same = st.dictionaries(st.sampled_from(sorted(KEY_VALUES)), st.integers(-1, 1), max_size=4)
    return st.builds(_with_same, st.lists(row, min_size=min_size, max_size=max_size), same)


def _with_same(rows, same):
    fixed = {name: None if i < 0 else KEY_VALUES[name][i] for name, i in same.items()}
    return [{**row, **fixed} for row in rows]


def estimate(row, amount):
    """What a row adds to the total of an amount."""
    value = 1 if amount == "records" else row.get(amount) or 0
    rate = (row.get("sampling_rate") or 1) if amount != "records" else 1
    return value * rate / (row.get("inclusion_prob") or 1)


def total(rows, amount):
    return math.fsum(estimate(row, amount) for row in rows)


def sums(rows, of, amount):
    """{key: sum}, a key being a tuple of plain values as `readable` gives them."""
    found = defaultdict(float)
    for row in rows:
        found[key(row, of)] += estimate(row, amount)
    return dict(found)


def key(row, of):
    return tuple(readable(name, row.get(name)) for name in of)


def entropy(rows, of, amount):
    parts = [value for value in sums(rows, of, amount).values() if value]
    whole = math.fsum(parts)
    return -math.fsum(part / whole * math.log2(part / whole) for part in parts)


def shown(ranking):
    """{key: sum} of a ranking as in results."""
    return {tuple(row[name] for name in ranking["of"]): row[ranking["by"]] for row in ranking["rows"]}


def numbers(policy, newest=0, oldest=None):
    """{group: (bytes, packets, records)}."""
    found = policy.result(newest, newest if oldest is None else oldest)
    return {
        tuple((group["group"] or {}).values()): (group["bytes"], group["packets"], group["records"])
        for group in found["groups"]
    }
