"""Rows into streams by their labels, never into more than were allowed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowagent.clock import SECOND
from flowagent.export.streams import IDLE_NS, Streams, group_values, spread, taken, texts
from flowagent.export.value import Value

NOW = 1_800_000_000 * SECOND
NAMES = {"Namespace": "namespace", "Direction": "direction"}


def render(labels):
    return repr(sorted(labels.items())).encode()


def stream(**labels):
    return render({"app": "x", **labels})


def values(namespaces, directions=None):
    """Columns of text and of numbers; None is unknown."""
    known = np.array([name is not None for name in namespaces])
    fields = {"Namespace": Value("text", np.array([name or "" for name in namespaces], "S"), known)}
    if directions is not None:
        fields["Direction"] = Value("number", np.array(directions, np.uint8))
    return fields


class Table:
    """Streams, and who is in them."""

    def __init__(self, limit=100):
        self.streams = Streams(NAMES, {"app": "x"}, limit, render)

    def assign(self, fields, rows, now_ns=NOW):
        numbers = {}
        found = self.streams.assign(fields, rows, now_ns, numbers)
        names = list(numbers)
        return [names[number] for number in found.of_row.tolist()], found.folded.tolist()

    def metrics(self):
        return [family.samples["out",] for family in self.streams.families("out")]


def test_a_stream_for_each_label_set():
    found, folded = Table().assign(values(["a", "b", "a", "a"], [0, 0, 0, 1]), 4)
    a0 = stream(namespace="a", direction="0")
    assert found == [a0, stream(namespace="b", direction="0"), a0, stream(namespace="a", direction="1")]
    assert not any(folded)


def test_unknown_and_empty_make_no_label():
    found, _ = Table().assign(values([None, "", "a"]), 3)
    assert found == [stream(), stream(), stream(namespace="a")]


def test_without_the_fields_there_is_one_stream():
    assert Table().assign({}, 2) == ([stream(), stream()], [False, False])


def test_no_rows():
    assert Table().assign(values([]), 0) == ([], [])


def test_label_sets_beyond_the_limit_share_one_stream():
    table = Table(limit=2)
    found, folded = table.assign(values(["a", "b", "c", "d", "a"]), 5)
    assert [name == stream() for name in found] == folded
    assert 2 <= sum(folded) <= 3
    assert len({*found}) == 3
    assert table.metrics() == [2, 0, sum(folded)]


def test_who_was_there_first_stays():
    table = Table(limit=2)
    table.assign(values(["a", "b"]), 2)
    found, folded = table.assign(values(["c", "a", "b"]), 3, NOW + 60 * SECOND)
    assert found == [stream(), stream(namespace="a"), stream(namespace="b")]
    assert folded == [True, False, False]


def test_idle_streams_make_room():
    table = Table(limit=2)
    table.assign(values(["a", "b"]), 2)
    table.assign(values(["b"]), 1, NOW + IDLE_NS // 2)
    found, _ = table.assign(values(["c", "d"]), 2, NOW + IDLE_NS)
    assert sorted(name == stream() for name in found) == [False, True]
    assert table.metrics() == [2, 1, 1]
    assert table.assign(values(["b"]), 1, NOW + IDLE_NS)[1] == [False]


def test_a_flood_of_labels_takes_bounded_memory():
    table = Table(limit=50)
    for part in range(5):
        _, folded = table.assign(values([str(part * 10_000 + i) for i in range(10_000)]), 10_000)
        assert sum(folded) == (9950 if part == 0 else 10_000)
    assert table.metrics() == [50, 0, 49_950]


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "ab", "abcdefghi", None]), st.integers(0, 2)), max_size=30))
def test_every_row_is_in_the_stream_of_its_values(rows):
    found, _ = Table().assign(values([name for name, _ in rows], [number for _, number in rows]), len(rows))
    assert found == [stream(**({"namespace": name} if name else {}), direction=str(number)) for name, number in rows]


def test_groups_of_every_kind_of_value():
    addresses = Value("addr", np.array([[0, 0, 1], [5, 5, 5]], np.uint64))
    floats = Value("number", np.array([0.5, 0.5, 1.5]))
    octets = np.empty(3, object)
    octets[:] = [b"a", b"a", b"b"]
    for value in (addresses, floats, Value("opaque", octets), Value("code", np.array([7, 7, 8]), label=str)):
        groups = group_values([value], 3)
        numbers = spread(groups, np.arange(len(groups.starts)))
        assert numbers[0] == numbers[1] != numbers[2]


def test_values_as_text():
    known = np.array([True, False])
    cases = [
        (Value("text", np.array([b'a"\n', b"b"])), ['a"\n', "b"]),
        (Value("text", np.array([b"a", b"b"]), known), ["a", ""]),
        (Value("text", np.array([b"a", b"b"]), known, is_list=True), ["a", ""]),
        (Value("number", np.array([0, 1]), known), ["0", ""]),
        (Value("number", np.array([0.5, 2.0])), ["0.5", "2.0"]),
        (Value("code", np.array([0, 1]), label=["tcp", "udp"].__getitem__), ["tcp", "udp"]),
        (Value("code", np.array([0, 1]), label=[["SYN"], ["SYN", "ACK"]].__getitem__), ['["SYN"]', '["SYN","ACK"]']),
        (Value("addr", np.array([[0, 0], [0xFFFF0A000001, 1]], np.uint64)), ["10.0.0.1", "::1"]),
    ]
    for value, expected in cases:
        assert texts(value) == expected


def test_taken_rows():
    value = Value("number", np.array([5, 6, 7]), np.array([True, False, True]))
    found = taken(value, np.array([2, 1]))
    assert (found.data.tolist(), found.known.tolist()) == ([7, 6], [True, False])
    same = taken(Value("number", np.broadcast_to(np.array([5]), 3)), np.array([0, 1]))
    assert (same.data.tolist(), same.data.strides) == ([5, 5], (0,))
