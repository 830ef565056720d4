"""Hashes that are the same on every machine, whatever batch a row is in."""

import numpy as np
import pytest

from flowagent.batch import Batch, constant
from flowagent.hashing import finish, hash_rows, seed_of, unit_interval
from flowagent.schema import FLOW_KEY

NAMES = (*FLOW_KEY, "exporter", "in_if", "sampling_rate")


def rows(n=1000, seed=1):
    rng = np.random.default_rng(seed)
    return Batch({
        "src_addr": rng.integers(0, 2**63, (2, n), np.uint64),
        "dst_addr": rng.integers(0, 2**63, (2, n), np.uint64),
        "src_port": rng.integers(0, 2**16, n, np.uint16),
        "dst_port": rng.integers(0, 2**16, n, np.uint16),
        "proto": rng.integers(0, 256, n, np.uint8),
        "in_if": rng.integers(0, 2**32, n, np.uint32),
        "sampling_rate": rng.random(n),
    })  # fmt: skip


def test_known_values():
    # Fixed for good: agents of different versions must select alike, and their sketches must merge.
    batch = Batch({"src_addr": np.array([[0], [0xFFFF_0A000001]], np.uint64), "dst_port": np.array([443], np.uint16)})
    assert hash_rows(batch, ("src_addr", "dst_port"), 7).tolist() == [0x6BF7F4A5A033BF30]
    assert seed_of("a", 1) == seed_of("a", 1) != seed_of("a", 2)


def test_a_row_hashes_alike_in_every_batch():
    batch = rows()
    whole = hash_rows(batch, NAMES, 5)
    for i in (0, 1, 999):
        assert hash_rows(batch.rows(i, i + 1), NAMES, 5)[0] == whole[i]
    masked = Batch(batch.columns, valid={"in_if": np.arange(1000) != 7, "src_addr": np.arange(1000) != 8})
    differs = np.flatnonzero(hash_rows(masked, NAMES, 5) != whole)
    assert differs.tolist() == [7, 8]


def test_constants_hash_as_the_same_value_repeated():
    n = 10
    repeated = Batch({"proto": np.full(n, 6, np.uint8), "src_addr": np.full((2, n), 3, np.uint64)})
    broadcast = Batch({"proto": constant(6, n, np.uint8), "src_addr": constant((3, 3), n, np.uint64)})
    for names in (("proto",), ("src_addr",), ("src_addr", "proto")):
        assert hash_rows(repeated, names).tolist() == hash_rows(broadcast, names).tolist()


def test_a_missing_column_is_an_unknown_one():
    batch = rows(5)
    without = Batch({name: values for name, values in batch.columns.items() if name not in ("in_if", "src_addr")})
    unknown = Batch(batch.columns, valid={"in_if": np.zeros(5, bool), "src_addr": np.zeros(5, bool)})
    assert hash_rows(without, NAMES).tolist() == hash_rows(unknown, NAMES).tolist()
    assert not set(hash_rows(without, NAMES).tolist()) & set(hash_rows(batch, NAMES).tolist())


def test_unknown_differs_from_every_value_of_a_narrow_column():
    values = np.arange(256, dtype=np.uint8)
    hashes = hash_rows(Batch({"proto": values}), ("proto",))
    unknown = hash_rows(Batch({"proto": values[:1]}, valid={"proto": np.array([False])}), ("proto",))
    assert len(np.unique(hashes)) == 256
    assert unknown[0] not in hashes


@pytest.mark.parametrize("names", [("src_addr", "dst_addr"), ("src_port", "dst_port"), ("proto", "src_port")])
def test_the_order_of_columns_matters(names):
    batch = rows()
    assert not (hash_rows(batch, names) == hash_rows(batch, names[::-1])).any()


def test_every_bit_is_as_good_as_a_coin():
    # Consecutive addresses are what scans and pools look like.
    n = 1 << 14
    low = np.arange(n, dtype=np.uint64) + np.uint64(0xFFFF_0A000000)
    batch = Batch({"src_addr": np.stack([np.zeros(n, np.uint64), low])})
    hashes = hash_rows(batch, ("src_addr",), 3)
    assert len(np.unique(hashes)) == n
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    z = (bits.mean(0) - 0.5) / np.sqrt(0.25 / n)
    assert np.abs(z).max() < 4.5
    u = unit_interval(hashes)
    assert u.min() > 0
    assert u.max() <= 1
    counts = np.histogram(u, 64, (0, 1))[0]
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 120  # chi-square, 63 degrees of freedom


def test_the_ends_of_the_unit_interval():
    assert unit_interval(np.array([0, 2**64 - 1], np.uint64)).tolist() == [2.0**-53, 1.0]


def test_finish_is_a_bijection_that_spreads_bits():
    x = np.arange(1 << 12, dtype=np.uint64)
    assert len(np.unique(finish(x))) == len(x)
    flips = finish(x) ^ finish(x ^ np.uint64(1))
    assert 28 < np.mean([int(f).bit_count() for f in flips]) < 36


def test_no_rows():
    assert len(hash_rows(rows(3).rows(0, 0), NAMES)) == 0
