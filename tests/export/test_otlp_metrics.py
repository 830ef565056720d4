"""Metrics as the official library reads them."""

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from flowagent.export import otlp_logs, otlp_metrics
from flowagent.export.otlp_metrics import Span
from flowagent.metrics import Distribution, Family

SPAN = Span(10**18, 10**18 + 5)
CUMULATIVE = 2


def read(*families):
    """Every metric of every request."""
    resource = otlp_logs.resource({"service.name": "flowagent"})
    for body in otlp_metrics.requests(families, resource, SPAN):
        of_resource = ExportMetricsServiceRequest.FromString(body).resource_metrics[0]
        assert of_resource.resource.attributes[0].value.string_value == "flowagent"
        assert of_resource.scope_metrics[0].scope.name == "flowagent"
        yield from of_resource.scope_metrics[0].metrics


def attributes(point):
    return {pair.key: pair.value.string_value for pair in point.attributes}


def test_a_counter_is_a_cumulative_sum():
    family = Family("flow_bytes", "counter", "Octets.", ("proto", "vlan"), {("6", ""): 7, ("17", "é"): 2.5})
    (metric,) = read(family)
    assert (metric.name, metric.description) == ("flow_bytes_total", "Octets.")
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == CUMULATIVE
    points = metric.sum.data_points
    assert [(attributes(p), p.as_double) for p in points] == [
        ({"proto": "6"}, 7.0),
        ({"proto": "17", "vlan": "é"}, 2.5),
    ]
    assert {(p.start_time_unix_nano, p.time_unix_nano) for p in points} == {SPAN}


def test_a_gauge():
    (metric,) = read(Family("rows", "gauge", "Rows.", (), {(): -3}))
    assert metric.name == "rows"
    assert metric.gauge.data_points[0].as_double == -3
    assert metric.gauge.data_points[0].start_time_unix_nano == 0


def test_a_histogram_keeps_its_buckets():
    value = Distribution(6, 70.5, 1, 5, ((-3, 2), (0, 1), (40, 2)))
    (metric,) = read(Family("size", "histogram", "Sizes.", (), {(): value}))
    assert metric.exponential_histogram.aggregation_temporality == CUMULATIVE
    point = metric.exponential_histogram.data_points[0]
    assert (point.count, point.sum, point.scale, point.zero_count) == (6, 70.5, 5, 1)
    counts = {point.positive.offset + i: n for i, n in enumerate(point.positive.bucket_counts) if n}
    # Prometheus counts (base^(i-1), base^i] as i, OpenTelemetry (base^i, base^(i+1)].
    assert counts == {-4: 2, -1: 1, 39: 2}


@pytest.mark.parametrize("value", [Distribution(), Distribution(2, 0, 2)])
def test_a_histogram_without_buckets(value):
    (metric,) = read(Family("size", "histogram", "", (), {(): value}))
    point = metric.exponential_histogram.data_points[0]
    assert (point.count, point.zero_count, list(point.positive.bucket_counts)) == (value.count, value.zero, [])


def test_counts_of_weighted_values_are_whole_and_add_up():
    value = Distribution(3.2, 9, 0.4, 5, ((1, 1.4), (2, 1.4)))
    point = next(read(Family("size", "histogram", "", (), {(): value}))).exponential_histogram.data_points[0]
    assert point.count == point.zero_count + sum(point.positive.bucket_counts) == 2


def test_many_numbers_go_in_several_requests():
    families = [Family(f"m{i}", "gauge", "", ("n",), {(str(n),): n for n in range(1500)}) for i in range(3)]
    families.append(Family("large", "gauge", "", ("n",), {(str(n),): n for n in range(5000)}))
    bodies = list(otlp_metrics.requests(families, b"", SPAN))
    assert len(bodies) == 6
    found = [p.as_double for metric in read(*families) for p in metric.gauge.data_points]
    assert sum(found) == 3 * sum(range(1500)) + sum(range(5000))


def test_nothing_to_say_needs_no_request():
    assert list(otlp_metrics.requests([Family("empty", "gauge", "")], b"", SPAN)) == []
