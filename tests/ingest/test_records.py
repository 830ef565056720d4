"""Cutting sets into records: fixed and variable length, padding, sets that lie."""

import numpy as np
import pytest
from build import template, variable
from hypothesis import given
from hypothesis import strategies as st

from flowagent.elements import VARIABLE
from flowagent.ingest.records import cut_records, gather
from flowagent.ingest.templates import parse_template_set


def cut(fields, *bodies, before=b""):
    """What is found in sets with these bodies, which follow `before` and each other in one buffer."""
    (found,) = parse_template_set(template(256, *fields), 10, options=False)
    length = np.array([len(b) for b in bodies], np.int64)
    offset = np.cumsum(length) - length + len(before)
    return cut_records(np.frombuffer(before + b"".join(bodies), np.uint8), offset, length, found)


def records(found):
    """(set, bytes) of every record, by set and place."""
    out = []
    for part in found.records:
        places = part.offset[:, None] + np.arange(part.bytes.shape[1]) * part.bytes.shape[2]
        for i, number in enumerate(part.sets):
            out += [(int(places[i, j]), int(number), part.bytes[i, j].tobytes()) for j in range(part.bytes.shape[1])]
    return [(number, content) for _, number, content in sorted(out)]


def test_fixed_records_of_many_sets():
    found = cut([(1, 2), (2, 1)], b"aab" * 2, b"ccd", b"eef" * 2, before=b"xx")
    assert records(found) == [(0, b"aab"), (0, b"aab"), (1, b"ccd"), (2, b"eef"), (2, b"eef")]
    assert found.counts.tolist() == [2, 1, 2]
    assert not found.misfit.any()
    assert sum(part.total for part in found.records) == 5


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_padding_is_no_misfit(padding):
    found = cut([(1, 4)], b"abcd" + bytes(padding))
    assert records(found) == [(0, b"abcd")]
    assert (found.left.tolist(), found.misfit.tolist()) == ([padding], [False])


def test_more_than_padding_is_a_misfit():
    found = cut([(1, 8)], bytes(8 + 4))
    assert (found.left.tolist(), found.overrun.tolist(), found.misfit.tolist()) == ([4], [False], [True])


def test_a_set_too_short_for_one_record():
    found = cut([(1, 8)], bytes(7))
    assert records(found) == []
    assert (found.counts.tolist(), found.overrun.tolist()) == ([0], [True])


def test_a_template_of_nothing_finds_nothing():
    found = cut([(8, 0)], bytes(8))
    assert records(found) == []
    assert found.overrun.tolist() == [True]


def test_variable_lengths_of_both_forms():
    body = variable(b"ab") + b"1" + variable(b"c", long=True) + b"2" + variable(b"") + b"3"
    found = cut([(82, VARIABLE), (1, 1)], body, variable(b"x" * 300, long=True) + b"4")
    assert records(found) == [
        (0, b"\2ab1"), (0, b"\xff\0\1c2"), (0, b"\x003"), (1, b"\xff\1\x2c" + b"x" * 300 + b"4"),
    ]  # fmt: skip
    assert found.counts.tolist() == [3, 1]
    assert not found.misfit.any()


def test_a_variable_field_past_the_end_costs_its_record():
    found = cut([(82, VARIABLE), (1, 1)], variable(b"ab") + b"1" + b"\x50abc", variable(b"c") + b"2")
    assert records(found) == [(0, b"\2ab1"), (1, b"\1c2")]
    assert found.overrun.tolist() == [True, False]


@pytest.mark.parametrize("claim", [b"\xff\xff\xff", b"\xff\xff", b"\xff", b"\xfe"])
def test_a_claim_of_65535_bytes_at_the_end_of_the_buffer(claim):
    found = cut([(82, VARIABLE)], claim)
    assert records(found) == []
    assert found.overrun.tolist() == [True]


def test_padding_after_variable_records():
    found = cut([(1, 4), (82, VARIABLE)], b"abcd" + variable(b"ef") + bytes(3))
    assert records(found) == [(0, b"abcd\2ef")]
    assert not found.misfit.any()


def test_empty_sets():
    assert cut([(1, 4)], b"").counts.tolist() == [0]
    assert cut([(82, VARIABLE)], b"").counts.tolist() == [0]


@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    st.lists(st.sampled_from([1, 2, 0, VARIABLE, VARIABLE]), min_size=1, max_size=5),
)
def test_many_sets_are_cut_as_few_are(bodies, lengths):
    fields = [(100 + i, n) for i, n in enumerate([*lengths, VARIABLE])]
    one_by_one = [cut(fields, body) for body in bodies]
    together = cut(fields, *bodies * 40)
    assert [r for i, r in records(together) if i < len(bodies)] == [r for one in one_by_one for _, r in records(one)]
    for name in ("counts", "overrun", "left", "misfit"):
        assert getattr(together, name).tolist() == [getattr(one, name)[0] for one in one_by_one] * 40


CONTENTS = st.lists(st.tuples(st.binary(max_size=6), st.booleans(), st.binary(max_size=3)), max_size=6)


@given(st.lists(CONTENTS, min_size=1, max_size=6), st.integers(0, 3))
def test_variable_records_come_out_as_they_went_in(sets, padding):
    bodies = [[variable(a, long=wide) + b"!" + variable(b) for a, wide, b in one] for one in sets]
    found = cut(
        [(82, VARIABLE), (1, 1), (83, VARIABLE)],
        *(b"".join(one) + (b"\xff" * min(padding, 2) if one else b"") for one in bodies),
        before=b"head",
    )
    assert records(found) == [(i, record) for i, one in enumerate(bodies) for record in one]
    assert found.counts.tolist() == [len(one) for one in bodies]


@given(st.lists(st.integers(0, 90), min_size=1, max_size=8), st.integers(1, 9))
def test_gather_takes_any_places(offsets, size):
    data = np.arange(100, dtype=np.uint8)
    assert gather(data, np.array(offsets, np.int64), size).tolist() == [data[o : o + size].tolist() for o in offsets]


@given(st.binary(max_size=80), st.lists(st.sampled_from([1, 2, 5, 0, VARIABLE]), min_size=1, max_size=5))
def test_any_bytes_are_cut_within_their_set(body, lengths):
    found = cut([(100 + i, n) for i, n in enumerate(lengths)], body, body, before=b"??")
    for part in found.records:
        begin = 2 + part.sets * len(body)
        assert (part.offset >= begin).all()
        assert (part.offset + part.bytes.shape[1] * part.bytes.shape[2] <= begin + len(body)).all()
    assert (found.left >= 0).all()
    assert found.counts[0] == found.counts[1]
