"""Packed steps: what went in comes out, in less memory."""

import numpy as np
import pytest
from history.flows import window
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent import names
from flowagent.batch import Batch, constant
from flowagent.history.packed import Step, pack
from flowagent.history.rows import Rows, estimated

KEYS = ("src_port", "dst_port", "proto")
ONE = st.just(1)
row = st.tuples(
    st.integers(0, 65535), st.integers(0, 3), st.sampled_from([None, 6, 17]), st.integers(0, 2**40), ONE, ONE
)


def step(batch, keys=KEYS):
    return Step.of(estimated(batch, keys, ("bytes", "records")), 0, 10, keys)


def plain(batch):
    return [
        [value if known else None for value, known in zip(batch[n].T.tolist(), batch.is_known(n).tolist(), strict=True)]
        for n in batch.columns
    ]


@settings(deadline=None)
@given(st.lists(row, min_size=1, max_size=300))
def test_keys_and_numbers_come_out_as_they_went_in(rows):
    batch = window(rows)
    back = step(batch).unpacked()
    assert plain(back.keys) == plain(batch.select(KEYS))
    assert back.value["bytes"].tolist() == batch["bytes"].tolist()
    assert not back.variance["bytes"].any()


def test_few_values_are_codes_and_many_are_not():
    n = 1000
    batch = Batch({
        "src_addr": np.stack([np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64)]),
        "dst_addr": np.stack([np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64) % 5]),
        "in_if": constant(7, n, np.uint32),
    })  # fmt: skip
    packed = {name: pack(batch, name) for name in batch.columns}
    assert packed["src_addr"].codes is None
    assert packed["dst_addr"].codes.dtype == np.uint8
    assert packed["in_if"].nbytes < 10
    made = Step.of(Rows(batch, {}, {}, {}), 0, 10, batch.columns)
    for name in batch.columns:
        assert (made.keys([name])[name] == batch[name]).all()


def test_a_name_that_is_none_is_unknown():
    batch = Batch({"src_k8s_name": np.array([names.code("a"), 0, names.code("a")])})
    assert pack(batch, "src_k8s_name").known.tolist().count(False) == 1


def test_deviations_come_out_nearly_as_they_went_in_and_never_infinite():
    keys = Batch({"proto": np.array([6, 17], np.uint8)})
    made = Step.of(
        Rows(keys, {"bytes": np.ones(2)}, {"bytes": np.array([2.0, 1e90])}, {"bytes": 1.0}), 0, 10, ["proto"]
    )
    first, second = made.unpacked().variance["bytes"]
    assert first == pytest.approx(2)
    assert np.isfinite(second)


def test_memory_is_what_the_arrays_take():
    made = step(window([(i, 1, 6, 5 + i, 1, 1) for i in range(1000)]))
    # A port of two bytes and an estimate of eight for each row; the others are the same in all rows.
    assert 10_000 <= made.nbytes < 10_200
