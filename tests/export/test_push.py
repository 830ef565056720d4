"""Push requests, byte for byte as the official library writes them, and JSON of the same."""

import gzip

import numpy as np
import pushed
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.export.push import FORMATS

TYPES = {"protobuf": "application/x-protobuf", "json": "application/json"}
SECOND = 10**9
TIMES = st.one_of(st.sampled_from([0, 1, SECOND - 1, SECOND, 127 * SECOND, 128 * SECOND]), st.integers(0, 2**63 - 1))
TEXT = st.text(max_size=20) | st.integers(0, 20_000).map(lambda n: "x" * n)
PAIRS = st.lists(st.tuples(st.from_regex(r"[a-z_]{1,3}", fullmatch=True), st.text(min_size=1, max_size=9)), max_size=3)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True), st.text(), min_size=1, max_size=3
)


@st.composite
def requests(draw):
    """Streams: labels, and entries of time, line and pairs; either all of them have metadata or none."""
    with_pairs = draw(st.booleans())
    entry = st.tuples(TIMES, TEXT.filter(bool), PAIRS if with_pairs else st.just([]))
    return with_pairs, draw(st.lists(st.tuples(LABELS, st.lists(entry, min_size=1, max_size=4)), max_size=3))


def written(format_, with_pairs, streams):
    """The body of a request, by the code that is tested."""
    rows = [row for _, rows in streams for row in rows]
    times = np.array([row[0] for row in rows], np.int64)
    pairs = [[format_.pair(*pair) for pair in row[2]] for row in rows] if with_pairs else []
    entries = iter(format_.entries(times, [row[1].encode() for row in rows], pairs))
    return format_.body([(format_.stream(labels), [next(entries) for _ in rows]) for labels, rows in streams])


@given(requests())
def test_protobuf_is_what_the_official_library_writes(made):
    with_pairs, streams = made
    body = written(FORMATS["protobuf"], with_pairs, streams)
    request = pushed.PushRequest.FromString(body)
    assert request.SerializeToString() == body
    assert [(pushed.parsed(stream.labels), list(map(_entry, stream.entries))) for stream in request.streams] == streams


def _entry(entry):
    time_ns = entry.timestamp.seconds * SECOND + entry.timestamp.nanos
    return time_ns, entry.line, [(pair.name, pair.value) for pair in entry.structuredMetadata]


@pytest.mark.parametrize("name", FORMATS)
@given(requests())
def test_what_is_read_is_what_was_meant(name, made):
    with_pairs, streams = made
    format_ = FORMATS[name]
    body = format_.compress(written(format_, with_pairs, streams))
    if name == "json":
        body = gzip.decompress(body)
    assert pushed.lines(TYPES[name], body) == [
        (labels, time_ns, line, dict(pairs)) for labels, rows in streams for time_ns, line, pairs in rows
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_no_rows(name):
    assert FORMATS[name].entries(np.zeros(0, np.int64), [], []) == []


def test_times_before_1970_are_1970():
    (entry,) = FORMATS["protobuf"].entries(np.array([-5], np.int64), [b"x"], [])
    body = FORMATS["protobuf"].body([(FORMATS["protobuf"].stream({"a": "b"}), [entry])])
    assert pushed.PushRequest.FromString(body).streams[0].entries[0].timestamp.seconds == 0


def test_many_rows():
    n = 30_000
    times = np.random.default_rng(1).integers(0, 2**62, n)
    texts = [b"x" * (i % 300 + 1) for i in range(n)]
    format_ = FORMATS["protobuf"]
    body = format_.body([(format_.stream({"a": "b"}), format_.entries(times, texts, []))])
    found = pushed.lines(TYPES["protobuf"], format_.compress(body))
    assert [line.time_ns for line in found] == times.tolist()
    assert [line.text.encode() for line in found] == texts
