"""Batches as bytes and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent import frames
from flowagent.batch import Batch, constant, is_constant
from flowagent.frames import pack, unpack


def plain(batch):
    return {
        name: (values.dtype.str, values.tolist(), batch.is_known(name).tolist())
        for name, values in batch.columns.items()
    }


def example(n=3):
    return Batch(
        {
            "src_addr": np.arange(2 * n, dtype="u8").reshape(2, n),
            "bytes": np.full(n, 2**64 - 1, "u8"),
            "proto": constant(6, n, "u1"),
            "exporter": constant((1, 2), n, "u8"),
            "weight": np.linspace(0, 1, n),
            "interfaceName": np.array([b"eth0", b"", b"a" * 40], "S40")[:n],
            "ipHeaderPacketSection": np.array([b"\x00\xff", None, b""], object)[:n],
        },
        valid={"bytes": np.arange(n) != 1},
    )


def test_all_kinds_of_columns_come_back():
    found = unpack(pack(example()))
    assert plain(found) == plain(example())
    assert is_constant(found["proto"])
    assert is_constant(found["exporter"])
    assert len(found) == 3


def test_views_and_empty_batches():
    assert plain(unpack(pack(example().rows(1, 3)))) == plain(example().rows(1, 3))
    assert len(unpack(pack(Batch({})))) == 0
    assert len(unpack(pack(Batch({}, 5)))) == 5


def test_repeated_columns_take_little_room():
    assert len(pack(Batch({"exporter": constant((1, 2), 100_000, "u8")}))) < 200


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_numbers_come_back(values):
    batch = Batch({"bytes": np.array(values, "u8")})
    assert unpack(pack(batch)).columns["bytes"].tolist() == values


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="not a frame"):
        unpack(data)


@given(st.integers(0, 400), st.integers(1, 255))
def test_damaged_frames_are_refused_or_harmless(place, change):
    data = bytearray(pack(example()))
    data[place % len(data)] ^= change
    try:
        found = unpack(bytes(data))
    except ValueError:
        return
    assert len(found) >= 0


def test_a_type_that_numpy_warns_of_is_refused():
    # "a8" was another name of "S8"; a flipped bit makes it of "i8".
    with pytest.raises(ValueError, match="no type of a column"):
        unpack(frames._compressor.compress(frames._encoder.encode(frames._Frame(1, [
            frames._Column("bytes", "|a8", (1,), is_constant=False, data=bytes(8), known=None)]))))  # fmt: skip
