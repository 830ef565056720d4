"""Values before they are text or bytes."""

import msgspec
import numpy as np
import pytest

from flowagent.batch import constant
from flowagent.export.value import Value, json_text, label_table, plain

V4 = 0xFFFF_0000_0000
NAMES = {0: "zero", 1: ["one"], 7: None}
ONE_OF_EACH = [
    (Value("number", np.array([3, 2**64 - 1], "u8")), [3, 2**64 - 1]),
    (Value("number", np.array([0.5, -1.0])), [0.5, -1.0]),
    (Value("number", np.array([True, False])), [True, False]),
    (Value("text", np.array([b"a", b'"\xff'])), ["a", '"\ufffd']),
    (Value("addr", np.array([[0, V4 | 1], [1, 2]], "u8").T), ["0.0.0.1", "::1:0:0:0:2"]),
    (Value("prefix", np.array([[0, V4 | 257, 24], [1, 2, 64]], "u8").T), ["0.0.1.0/24", "0:0:0:1::/64"]),
    (Value("mac", np.array([0xAB, 0], "u8")), ["00:00:00:00:00:ab", "00:00:00:00:00:00"]),
    (Value("MAC", np.array([0xAB, 0], "u8")), ["00:00:00:00:00:AB", "00:00:00:00:00:00"]),
    (Value("code", np.array([1, 0], "u1"), label=NAMES.get), [["one"], "zero"]),
    (Value("opaque", np.array([b"\0\xff", b""], object)), ["00ff", ""]),
]
every_kind = pytest.mark.parametrize(("value", "objects"), ONE_OF_EACH, ids=[v.kind for v, _ in ONE_OF_EACH])


def parsed(value, text):
    """What the JSON of one value means."""
    bare = text.replace(b"\0", b"")
    return msgspec.json.decode(b'"' + bare + b'"' if value.is_text else bare)


@every_kind
def test_as_objects(value, objects):
    assert plain(value) == objects


@every_kind
def test_as_json(value, objects):
    assert [parsed(value, text) for text in json_text(value).tolist()] == objects


@every_kind
def test_many_rows_as_objects(value, objects):
    # Beyond some number of rows the ways differ.
    many = Value(value.kind, np.tile(value.data, 1000), label=value.label)
    assert plain(many) == objects * 1000


@every_kind
def test_what_all_rows_have_is_written_once(value, objects):
    same = Value(value.kind, np.broadcast_to(value.data[..., :1], (*value.data.shape[:-1], 5)), label=value.label)
    assert plain(same) == objects[:1] * 5
    (text,) = json_text(same).tolist()
    assert parsed(value, text) == objects[0]


def test_unknown_is_unset():
    value = Value("number", np.array([1, 2, 3]), np.array([True, False, True]))
    assert plain(value) == [1, msgspec.UNSET, 3]
    assert plain(Value("number", constant(1, 3, "u1"), value.known)) == [1, msgspec.UNSET, 1]


def test_lists_of_one():
    assert plain(Value("number", np.array([1, 2]), is_list=True)) == [[1], [2]]


def test_what_is_known_can_only_become_less():
    value = Value("number", np.array([1, 2, 3]))
    assert value.where(np.ones(3, "?")).known is None
    some = value.where(np.array([True, True, False]))
    assert some.where(np.array([False, True, True])).known.tolist() == [False, True, False]


def test_the_gaps_are_filled_by_another():
    known = np.array([True, False, False])
    first = Value("number", np.array([1, 0, 0]), known)
    assert plain(first.or_else(Value("number", np.array([7, 8, 9])))) == [1, 8, 9]
    assert plain(first.or_else(Value("number", np.array([7, 8, 9]), ~known & np.array([True, True, False])))) == [
        1,
        8,
        msgspec.UNSET,
    ]
    assert first.or_else(None) is first
    whole = Value("number", np.array([1, 2, 3]))
    assert whole.or_else(first) is whole


def test_mapping_looks_at_one_value_where_all_rows_have_the_same():
    seen = []

    def double(data):
        seen.append(len(data))
        return data * 2

    assert plain(Value("number", constant(4, 1000, "u8")).map(double)) == [8] * 1000
    assert plain(Value("number", np.array([1, 2])).map(double)) == [2, 4]
    assert seen == [1, 2]


def test_labels_that_do_not_occur_are_never_asked_for():
    asked = []

    def label(code):
        asked.append(code)
        return "x" * code

    codes = np.array([3, 500, 3], "u2")
    table, lengths = label_table(Value("code", codes, label=label), codes, msgspec.json.encode)
    assert asked == [3, 500]
    assert table.take(codes).tolist() == [b'"xxx"', b'"' + b"x" * 500 + b'"', b'"xxx"']
    assert lengths.take(codes).tolist() == [5, 502, 5]
