"""The agent's metrics as OpenTelemetry's in protobuf.

    ExportMetricsServiceRequest    resource_metrics = 1
    ResourceMetrics                resource = 1, scope_metrics = 2
    ScopeMetrics                   scope = 1, metrics = 2
    Metric                         name = 1, description = 2, gauge = 5, sum = 7, exponential_histogram = 10
    Gauge                          data_points = 1
    Sum                            data_points = 1, aggregation_temporality = 2, is_monotonic = 3
    NumberDataPoint                start_time_unix_nano = 2, time_unix_nano = 3, as_double = 4, attributes = 7
    ExponentialHistogram           data_points = 1, aggregation_temporality = 2
    ExponentialHistogramDataPoint  attributes = 1, start_time_unix_nano = 2, time_unix_nano = 3, count = 4, sum = 5,
                                   scale = 6, zero_count = 7, positive = 8
    Buckets                        offset = 1, bucket_counts = 2

Names are those of /metrics. Counters are cumulative sums since the agent began; labels are attributes, and a label
that says nothing is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from flowagent.export.otlp_logs import SCOPE, field, tag
from flowagent.export.protobuf import varint
from flowagent.metrics import Distribution, Family, Value

POINTS = 2000
"""Numbers in a request."""
_VARINT, _FIXED64 = 0, 1
_CUMULATIVE = tag(2, _VARINT) + varint(2)
_MONOTONIC = tag(3, _VARINT) + varint(1)


class Span(NamedTuple):
    """When counting began, and the time now: nanoseconds since 1970."""

    since_ns: int
    now_ns: int


def requests(families: Iterable[Family], resource: bytes, span: Span) -> Iterator[bytes]:
    """Bodies with all these metrics, each of at most POINTS numbers; `resource` is as for logs."""
    metrics = (metric for family in families for metric in _metrics(family, span))
    body, points = b"", 0
    for count, metric in metrics:
        if points and points + count > POINTS:
            yield _request(resource, body)
            body, points = b"", 0
        body, points = body + field(2, metric), points + count
    if points:
        yield _request(resource, body)


def _request(resource: bytes, metrics: bytes) -> bytes:
    return field(1, resource + field(2, SCOPE + metrics))


def _metrics(family: Family, span: Span) -> Iterator[tuple[int, bytes]]:
    """The family, in parts where it has many samples: how many, and the message of a Metric."""
    name = family.name + "_total" * (family.kind == "counter")
    head = field(1, name.encode()) + field(2, family.help.encode())
    samples = iter(family.samples.items())
    while part := list(islice(samples, POINTS)):
        points = b"".join(field(1, _point(family, labels, value, span)) for labels, value in part)
        match family.kind:
            case "gauge":
                yield len(part), head + field(5, points)
            case "counter":
                yield len(part), head + field(7, points + _CUMULATIVE + _MONOTONIC)
            case "histogram":
                yield len(part), head + field(10, points + _CUMULATIVE)


def _point(family: Family, labels: tuple[str, ...], value: Value, span: Span) -> bytes:
    pairs = [field(1, name.encode()) + field(2, field(1, text.encode("utf-8", "replace")))
             for name, text in zip(family.labels, labels, strict=True) if text]  # fmt: skip
    times = _fixed(3, "<Q", span.now_ns)
    if family.kind != "gauge":
        times = _fixed(2, "<Q", span.since_ns) + times
    if isinstance(value, Distribution):
        return b"".join(field(1, pair) for pair in pairs) + times + _histogram(value)
    return times + _fixed(4, "<d", value) + b"".join(field(7, pair) for pair in pairs)


def _histogram(value: Distribution) -> bytes:
    """Bucket i there is (base^i, base^(i + 1)], so that each is one lower; counts are whole."""
    counts = {index - 1: round(count) for index, count in value.buckets}
    zero = round(value.zero)
    head = _fixed(4, "<Q", zero + sum(counts.values())) + _fixed(5, "<d", value.sum)
    head += tag(6, _VARINT) + varint(_zigzag(value.schema)) + _fixed(7, "<Q", zero)
    if not counts:
        return head
    first, last = min(counts), max(counts)
    dense = b"".join(varint(counts.get(index, 0)) for index in range(first, last + 1))
    return head + field(8, tag(1, _VARINT) + varint(_zigzag(first)) + field(2, dense))


def _fixed(number: int, form: str, value: float) -> bytes:
    return tag(number, _FIXED64) + struct.pack(form, value)


def _zigzag(number: int) -> int:
    """As protobuf's sint32 has it."""
    return number * 2 if number >= 0 else -2 * number - 1
