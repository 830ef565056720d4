"""What several analyses of one batch need, computed once."""

import numpy as np
import pytest
from flow_rows import AMOUNTS, batch_of, estimate, flow_rows, key, sums
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.labels import keys_of, readable
from flowagent.aggregate.sums import distinct, estimates_of, groups_of, hashes_of, matching, sums_of
from flowagent.batch import Batch
from flowagent.filters import parse_filter

NAMES = st.sampled_from([("src_addr",), ("proto", "dst_port"), ("vlan", "src_addr", "dst_addr"), ("sampling_rate",)])


def texts(batch, names):
    """Keys of all rows as plain values."""
    return [tuple(map(readable, names, k)) for k in keys_of(batch, names, np.arange(len(batch)))]


@given(flow_rows(), NAMES, st.sampled_from(AMOUNTS))
def test_sums_by_key_are_those_of_single_rows(rows, names, amount):
    batch = batch_of(rows)
    keys = texts(distinct(batch, names), names)
    assert len(set(keys)) == len(keys)
    assert dict(zip(keys, sums_of(batch, names, amount).tolist(), strict=True)) == sums(rows, names, amount)


@given(flow_rows(), NAMES)
def test_a_group_has_the_rows_of_one_key(rows, names):
    batch = batch_of(rows)
    groups = groups_of(batch, names)
    parts = np.split(groups.order, groups.starts[1:])
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    found = [{key(rows[i], names) for i in part.tolist()} for part in parts]
    assert all(len(keys) == 1 for keys in found)
    assert len(found) == len({key(row, names) for row in rows})


@given(flow_rows(), st.sampled_from(AMOUNTS))
def test_estimates_of_single_rows(rows, amount):
    assert estimates_of(batch_of(rows), amount).tolist() == [estimate(row, amount) for row in rows]


@given(flow_rows())
def test_hashes_tell_keys_apart_and_do_not_depend_on_the_batch(rows):
    names, of = ("vlan", "src_addr"), ("src_addr",)
    batch = batch_of(rows)
    hashes = dict(zip(texts(distinct(batch, names), of), hashes_of(batch, names, of).tolist(), strict=True))
    assert len(set(hashes.values())) == len({key(row, of) for row in rows})
    for row in rows:
        alone = batch_of([row], constants=False)
        assert hashes_of(alone, of, of).tolist() == [hashes[key(row, of)]]


def test_hashes_never_change():
    """Sketches of agents of other versions must merge."""
    batch = batch_of([{"src_addr": (0, 0xFFFF0A000001), "dst_port": 443}])
    assert hashes_of(batch, ("src_addr",), ("src_addr",)).tolist() == [2231516270251419956]
    assert hashes_of(batch, ("src_addr", "dst_port"), ("src_addr", "dst_port")).tolist() == [1120683921780550525]


def test_what_matches():
    batch = batch_of([{"dst_port": port} for port in (53, 443, None)])
    assert matching(batch, None) is batch
    assert matching(batch, parse_filter("dst_port == 443", "f"))["dst_port"].tolist() == [443]
    assert matching(batch, parse_filter("dst_port is known", "f"))["dst_port"].tolist() == [53, 443]


def test_each_is_computed_once_for_a_batch(monkeypatch):
    calls = []

    def count(name):
        module = __import__("flowagent.aggregate.sums", fromlist=[name])
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a: calls.append(name) or inner(*a))

    for name in ("group_rows", "hash_rows", "scaled"):
        count(name)
    batch, names = batch_of([{"dst_port": 1}, {"dst_port": 2}]), ("dst_port",)
    condition = parse_filter("dst_port < 3", "f")
    for _ in range(2):
        sums_of(batch, names, "bytes")
        sums_of(batch, names, "packets")
        hashes_of(batch, names, names)
        assert matching(batch, condition) is matching(batch, parse_filter("dst_port < 3", "g"))
    assert sorted(calls) == ["group_rows", "hash_rows", "scaled", "scaled"]


def test_a_batch_of_which_nothing_is_known():
    batch = Batch({}, 3)
    assert len(distinct(batch, ("proto",))) == 1
    assert sums_of(batch, ("proto",), "records").tolist() == [3]
    assert sums_of(batch, ("proto",), "bytes").tolist() == [0]


@pytest.mark.parametrize("names", [("src_addr",), ("src_addr", "proto")])
def test_columns_that_are_missing_are_unknown(names):
    with_none = batch_of([{"src_addr": None, "proto": 6}, {"src_addr": (0, 1), "proto": 6}])
    without = batch_of([{"proto": 6}])
    assert (
        hashes_of(with_none, names, names)[texts(distinct(with_none, names), names).index((None, 6)[: len(names)])]
        == (hashes_of(without, names, names)[0])
    )
