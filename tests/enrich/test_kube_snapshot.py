"""Snapshots tell all there is, and bytes that are none tell nothing."""

import contextlib
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent import names
from flowagent.enrich import kube_snapshot
from flowagent.enrich.kube_snapshot import SnapshotError, decode, encode
from flowagent.enrich.kube_table import PARTS, Holdings
from flowagent.enrich.table import FOREVER


def holdings(count, entities, texts=("", "a", "é" * 20)):
    rng = np.random.default_rng(count)
    return Holdings(
        rng.integers(0, 1 << 63, (2, count), np.uint64), rng.integers(0, 9, count), rng.integers(9, 20, count),
        rng.integers(0, max(entities, 1), count).astype(np.int32), rng.integers(0, 5, count).astype(np.uint8),
        {part: names.codes(texts[i] for i in rng.integers(0, len(texts), entities)) for part in PARTS},
    )  # fmt: skip


def same(one, other):
    assert (one.addresses == other.addresses).all()
    assert (one.since_ns == other.since_ns).all()
    assert (one.until_ns == other.until_ns).all()
    assert (one.rank == other.rank).all()
    assert [a.dtype for a in one[1:5]] == [a.dtype for a in other[1:5]]
    for part in PARTS:
        assert (one.parts[part][one.entity] == other.parts[part][other.entity]).all()


@pytest.mark.parametrize(("count", "entities"), [(0, 0), (1, 1), (50, 7), (3, 500)])
def test_a_snapshot_says_what_was_put_in(count, entities):
    given_ = holdings(count, entities)
    data, _ = encode(given_)
    found, left_out = decode(data, 10**6)
    same(found, given_)
    assert left_out == 0
    assert len(found.parts["name"]) <= count


def test_the_etag_is_that_of_the_content():
    assert encode(holdings(5, 3)) == encode(holdings(5, 3))
    assert encode(holdings(5, 3))[1] != encode(holdings(6, 3))[1]
    assert encode(holdings(5, 3))[1][0] == '"'


def test_texts_that_this_process_forgot_come_back(monkeypatch):
    data, _ = encode(holdings(5, 3))
    monkeypatch.setattr(names, "_codes", {})
    names._texts.pop(names.code("a"))
    names._codes.clear()
    found, _ = decode(data, 10)
    assert {names.text(code) for code in found.parts["name"].tolist()} <= {"", "a", "é" * 20}
    assert "a" in {names.text(code) for part in PARTS for code in found.parts[part].tolist()}


def test_past_holders_are_left_out_first_when_there_are_too_many():
    given_ = holdings(20, 5)
    given_.until_ns[::4] = FOREVER
    found, left_out = decode(encode(given_)[0], 5)
    assert left_out == 15
    assert (found.until_ns == FOREVER).all()


def packed(data):
    """The MessagePack in a snapshot."""
    return msgspec.msgpack.decode(zlib.decompress(data.partition(b"\n")[2]))


def made(fields, line=b"flowagent kubernetes 1\n"):
    return line + zlib.compress(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"high": b"1234567"}, "high has not"),
        ({"entity": np.full(6, 99, "<i4").tobytes()}, "entity goes beyond"),
        ({"entity": np.full(6, -1, "<i4").tobytes()}, "entity goes beyond"),
        ({"rank": b"\x05" * 6}, "rank goes beyond"),
        ({"parts": {}}, "the parts"),
        ({"texts": []}, "goes beyond"),
        ({"texts": ["x" * 300]}, "damaged"),
        ({"texts": 5}, "damaged"),
        ({"more": 5}, "damaged"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes, problem):
    fields = packed(encode(holdings(6, 3))[0])
    with pytest.raises(SnapshotError, match=problem):
        decode(made(fields | changes), 100)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no snapshot"),
        (b"<html>", "no snapshot"),
        (b"flowagent kubernetes 2\n", "version 2"),
        (b"flowagent kubernetes 1\nxx", "damaged"),
        (encode(holdings(6, 3))[0][:-3], "cut off"),
        (b"flowagent kubernetes 1\n" + zlib.compress(b"\x91" * 100_000), "damaged"),
    ],
)
def test_what_is_no_snapshot_says_so(data, problem):
    with pytest.raises(SnapshotError, match=problem):
        decode(data, 100)


def test_a_small_answer_cannot_take_all_memory(monkeypatch):
    monkeypatch.setattr(kube_snapshot, "_MAX_BYTES", 1 << 20)
    with pytest.raises(SnapshotError, match="too large"):
        decode(made({"texts": [""] * (2 << 20)}), 100)


@given(place=st.integers(0, 1 << 20), bits=st.integers(1, 255), packed_too=st.booleans())
def test_a_wrong_byte_anywhere_is_an_error_or_another_snapshot(place, bits, packed_too):
    data = encode(holdings(6, 3))[0]
    head, _, rest = data.partition(b"\n")
    changed = bytearray(zlib.decompress(rest) if packed_too else data)
    changed[place % len(changed)] ^= bits
    with contextlib.suppress(SnapshotError):
        decode(head + b"\n" + zlib.compress(changed) if packed_too else bytes(changed), 100)
