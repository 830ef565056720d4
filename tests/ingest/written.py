"""Rows of every kind of column, to be written by the sinks' encoders and read again."""

import numpy as np

from flowagent import names
from flowagent.batch import Batch
from flowagent.schema import COLUMNS

V4 = 0xFFFF_0000_0000


def rows(n=300, seed=1, **more):
    """Addresses of both versions; values up to what each column holds; some are unknown."""
    rng = np.random.default_rng(seed)
    is_v6 = rng.random(n) < 0.2

    def address():
        low = rng.integers(1, 2**32, n, np.uint64)
        return np.stack(
            [np.where(is_v6, low << np.uint64(29), np.uint64(0)), np.where(is_v6, low, low | np.uint64(V4))]
        )

    def number(name, least=1):
        info = np.iinfo(COLUMNS[name].dtype)
        return rng.integers(least, int(info.max), n, info.dtype, endpoint=True) >> info.dtype.type(
            int(rng.integers(0, info.bits // 2))
        )

    wide = ("bytes", "packets", "src_port", "dst_port", "proto", "in_if", "out_if", "tcp_flags", "src_as", "dst_as")
    columns = {name: np.maximum(number(name), 1).astype(COLUMNS[name].dtype) for name in wide}
    columns |= {
        "src_addr": address(), "dst_addr": address(), "exporter": address(),
        "start_ns": rng.integers(1, 2**62, n), "end_ns": rng.integers(1, 2**62, n),
        "received_ns": rng.integers(1, 2**62, n), "src_mac": rng.integers(1, 2**48, n, np.uint64),
        "sampling_rate": rng.integers(1, 1000, n).astype(float), "sampling_source": np.full(n, 1, np.uint8),
        "observation_domain": rng.integers(1, 1000, n).astype(np.uint32),
        "export_protocol": rng.choice(np.array([2, 4, 5], np.uint8), n), "vlan": rng.integers(1, 4095, n, np.uint16),
    }  # fmt: skip
    valid = {name: rng.random(n) < 0.7 for name in ("in_if", "src_as", "src_mac", "vlan", "bytes")}
    return Batch({**columns, **more}, n, valid)


def named(batch):
    """With names of pods, as texts."""
    pods = [f"pod-{i % 7}" for i in range(len(batch))]
    return batch.with_columns(
        {"src_k8s_name": names.codes(pods), "dst_k8s_namespace": names.codes(["shop"] * len(pods))}
    )


def differences(batch, read, columns):
    """Those of these columns that are not in both alike."""
    found = []
    for name in columns:
        known = batch.is_known(name)
        same = np.array_equal(read.is_known(name), known)
        if known.any() and same:
            same = np.array_equal(np.where(known, read[name], 0), np.where(known, batch[name], 0))
        found += [] if same else [name]
    return found
