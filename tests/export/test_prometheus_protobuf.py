"""The exposition in protobuf, parsed back. That the field numbers are right, the live test shows."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.export import prometheus_protobuf
from flowagent.export.prometheus_protobuf import encode
from flowagent.metrics import Distribution, Family

EXPONENTS = range(0, 8, 2)


def messages(*families):
    """The messages of a body."""
    body, found = encode(families, EXPONENTS), []
    while body:
        length = shift = 0
        while True:
            byte, body = body[0], body[1:]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        found.append(prometheus_protobuf._MetricFamily.FromString(body[:length]))
        body = body[length:]
    return found


def histogram(value):
    """A distribution as a message."""
    (family,) = messages(Family("flowagent_x", "histogram", "X.", (), {(): value}))
    return family.metric[0].histogram


def native(message):
    """The buckets that the spans tell of."""
    counts, buckets, index = iter(message.positive_count), [], 0
    for span in message.positive_span:
        index += span.offset
        buckets += [(index + i, next(counts)) for i in range(span.length)]
        index += span.length
    assert next(counts, None) is None
    return tuple(buckets)


VALUE = Distribution(7.5, 1234.5, 1, 5, ((-7, 0.5), (-6, 1), (0, 2), (1, 2), (200, 1)))


def test_the_content_type():
    expected = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
    assert expected == prometheus_protobuf.CONTENT_TYPE


def test_the_bytes_of_a_counter():
    name, text, label = b"x_total", b"Help.", b"\x0a\x01a\x12\x02\xc3\xa9"
    metric = b"\x0a" + bytes([len(label)]) + label + b"\x1a\x09\x09" + struct.pack("<d", 3.0)
    message = b"\x0a\x07" + name + b"\x12\x05" + text + b"\x18\x00\x22" + bytes([len(metric)]) + metric
    body = encode([Family("x", "counter", "Help.", ("a",), {("é",): 3})], EXPONENTS)
    assert body == bytes([len(message)]) + message


def test_a_counter_and_a_gauge():
    counter, gauge = messages(
        Family("flowagent_x", "counter", "X.", ("a", "b"), {("1", "2"): 3, ("", "4"): 2**64 - 1}),
        Family("flowagent_y", "gauge", "Y.", (), {(): -2.5}),
    )
    assert (counter.name, counter.help, counter.type) == ("flowagent_x_total", "X.", 0)
    assert [{pair.name: pair.value for pair in metric.label} for metric in counter.metric] == [
        {"a": "1", "b": "2"},
        {"a": "", "b": "4"},
    ]
    assert [metric.counter.value for metric in counter.metric] == [3, 2.0**64]
    assert (gauge.name, gauge.help, gauge.type) == ("flowagent_y", "Y.", 1)
    assert gauge.metric[0].gauge.value == -2.5
    assert not gauge.metric[0].label
    assert not gauge.metric[0].HasField("counter")


def test_text_needs_no_escaping():
    text = 'a"b\\c\nd é'
    (family,) = messages(Family("flowagent_x", "gauge", text, ("name",), {(text,): 1}))
    assert family.help == family.metric[0].label[0].value == text


def test_every_label_needs_a_value():
    with pytest.raises(ValueError, match="shorter"):
        encode([Family("flowagent_x", "gauge", "X.", ("a", "b"), {("1",): 1})], EXPONENTS)


def test_a_family_without_samples():
    (family,) = messages(Family("flowagent_x", "histogram", "X.", ("a",)))
    assert (family.name, family.type, len(family.metric)) == ("flowagent_x", 4, 0)


def test_a_long_message_has_its_whole_length():
    samples = {(str(i),): i for i in range(3000)}
    (family,) = messages(Family("flowagent_x", "gauge", "X.", ("a",), samples))
    assert [metric.gauge.value for metric in family.metric] == list(range(3000))


def test_a_native_histogram():
    message = histogram(VALUE)
    assert (message.sample_count_float, message.sample_sum) == (7.5, 1234.5)
    assert (message.schema, message.zero_count_float) == (5, 1)
    assert 0 < message.zero_threshold < 2 ** (-8 / 32)
    assert [(span.offset, span.length) for span in message.positive_span] == [(-7, 2), (5, 2), (198, 1)]
    assert list(message.positive_count) == [0.5, 1, 2, 2, 1]


def test_classic_buckets_are_in_the_same_message():
    message = histogram(VALUE)
    assert [bucket.upper_bound for bucket in message.bucket] == [1, 4, 16, 64]
    assert [bucket.cumulative_count_float for bucket in message.bucket] == [4.5, 6.5, 6.5, 6.5]


def test_who_reads_integers_finds_them_rounded():
    message = histogram(Distribution(7.75, 1, 3.75, 5, ((1, 4),)))
    assert message.sample_count == 8
    assert [bucket.cumulative_count for bucket in message.bucket] == [4, 8, 8, 8]


def test_an_empty_histogram_is_native_too():
    message = histogram(Distribution())
    assert message.zero_threshold > 0
    assert message.sample_count == message.sample_count_float == message.sample_sum == message.zero_count_float == 0
    assert native(message) == ()
    assert [bucket.cumulative_count_float for bucket in message.bucket] == [0] * 4


def test_two_distributions_joined():
    other = Distribution(2, 10, 0, 5, ((-6, 1), (2, 1)))
    assert native(histogram(VALUE + other)) == ((-7, 0.5), (-6, 2), (0, 2), (1, 2), (2, 1), (200, 1))


buckets = st.dictionaries(st.integers(-400, 1400), st.floats(0, 1e15)).map(lambda d: tuple(sorted(d.items())))


@given(buckets)
def test_spans_tell_every_bucket(given_buckets):
    message = histogram(Distribution(1, 1, 0, 5, given_buckets))
    assert native(message) == given_buckets
    # No span could be part of the one before.
    assert all(span.offset > 0 for span in message.positive_span[1:])


@given(buckets, buckets)
def test_counts_never_fall(before, more):
    values = [Distribution(sum(n for _, n in b), 0, 0, 5, b) for b in (before, more)]
    then, now = histogram(values[0]), histogram(values[0] + values[1])
    after = dict(native(now))
    assert all(count <= after[index] for index, count in native(then))
    for name in ("cumulative_count", "cumulative_count_float"):
        pairs = zip(then.bucket, now.bucket, strict=True)
        assert all(getattr(a, name) <= getattr(b, name) for a, b in pairs)
    assert then.sample_count_float <= now.sample_count_float
    assert then.sample_count <= now.sample_count
