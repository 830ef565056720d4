"""The exposition: what Prometheus reads of the agent's metrics."""

import subprocess
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from flowagent.export.prometheus import EXPONENTS, Exposition
from flowagent.metrics import Distribution, Family, Metrics


def exposition(*families):
    metrics = Metrics()
    metrics.add(lambda: families)
    return Exposition(metrics)


def render(*families, accept=""):
    body, _ = exposition(*families).render(accept)
    return body.decode()


COUNTER = Family("flowagent_flow_bytes", "counter", "Octets.", ("proto",), {("6",): 300, ("17",): 1})
GAUGE = Family("flowagent_window_rows", "gauge", "Rows.", (), {(): 2.5})
SIZES = Distribution(5.25, 2500.5, 1, 5, ((-5, 1), (65, 2), (640, 0.25), (1281, 1)))
HISTOGRAM = Family("flowagent_flow_size_bytes", "histogram", "Sizes.", ("proto",), {("6",): SIZES})
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
PROMETHEUS = (
    f"{PROTOBUF},{OPENMETRICS};q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


def test_a_counter_gets_its_total():
    assert render(COUNTER).splitlines() == [
        "# HELP flowagent_flow_bytes_total Octets.",
        "# TYPE flowagent_flow_bytes_total counter",
        'flowagent_flow_bytes_total{proto="6"} 300.0',
        'flowagent_flow_bytes_total{proto="17"} 1.0',
    ]


def test_a_gauge_stays_as_it_is():
    assert "# TYPE flowagent_window_rows gauge\nflowagent_window_rows 2.5\n" in render(GAUGE)


def test_no_time_of_creation_is_made_up():
    assert "_created" not in render(COUNTER)


def test_labels_are_escaped():
    text = render(Family("flowagent_x", "gauge", "X.", ("name",), {('a"b\\c\nd',): 1}))
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"name": 'a"b\\c\nd'}


def test_a_family_without_samples_is_announced():
    assert "# TYPE flowagent_x_total counter" in render(Family("flowagent_x", "counter", "X.", ("a",)))


def test_large_integers_keep_their_size():
    text = render(Family("flowagent_x", "counter", "X.", (), {(): 2**64 - 1}))
    assert "flowagent_x_total 1.8446744073709552e+019\n" in text or "flowagent_x_total 1.8446744073709552e+19\n" in text


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain", ""),
        ("text/plain", "text/plain", ""),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF\n"),
        ("nonsense", "text/plain", ""),
    ],
)
def test_the_format_the_scraper_asks_for(accept, content_type, end):
    body, found = exposition(COUNTER, GAUGE).render(accept)
    assert found.startswith(content_type)
    assert body.decode().endswith(end)
    assert 'flowagent_flow_bytes_total{proto="6"} 300.0' in body.decode()


def test_numbers_are_asked_for_at_each_scrape():
    metrics, values = Metrics(), iter([1, 2])
    metrics.add(lambda: [Family("flowagent_x", "counter", "X.", (), {(): next(values)})])
    page = Exposition(metrics)
    assert [page.render("")[0].decode().splitlines()[-1] for _ in range(2)] == [
        "flowagent_x_total 1.0",
        "flowagent_x_total 2.0",
    ]


def test_nothing_but_the_agents_own_metrics():
    names = {family.name for family in text_string_to_metric_families(render(COUNTER, GAUGE))}
    assert names == {"flowagent_flow_bytes", "flowagent_window_rows"}


def test_a_histogram_has_classic_buckets():
    lines = render(HISTOGRAM).splitlines()
    assert lines[:2] == ["# HELP flowagent_flow_size_bytes Sizes.", "# TYPE flowagent_flow_size_bytes histogram"]
    bounds = [line.split('le="')[1].split('"')[0] for line in lines if "_bucket" in line]
    assert [float(bound) for bound in bounds] == [*(4.0**i for i in range(21)), float("inf")]
    counts = [float(line.split()[1]) for line in lines if "_bucket" in line]
    assert counts == [2, 2, *[4] * 19, 5]
    assert lines[-2:] == [
        'flowagent_flow_size_bytes_count{proto="6"} 5.0',
        'flowagent_flow_size_bytes_sum{proto="6"} 2500.5',
    ]


def test_classic_counts_are_whole_as_openmetrics_wants_them():
    value = Distribution(3.75, 9, 0.75, 5, ((1, 1.25), (65, 1.75)))
    assert sorted(set(classic_counts(value))) == [1, 2, 4]
    more = value + Distribution(0.25, 1, 0.25)
    assert all(a <= b for a, b in zip(classic_counts(value), classic_counts(more), strict=True))


def classic_counts(value):
    (family,) = text_string_to_metric_families(render(Family("flowagent_x", "histogram", "X.", (), {(): value})))
    return [sample.value for sample in family.samples if sample.name == "flowagent_x_bucket"]


@pytest.mark.parametrize("bound", ["1.0", "262144.0", "1.048576e+06", "2.68435456e+08", "1.099511627776e+12", "+Inf"])
def test_bounds_are_written_as_prometheus_writes_them(bound):
    assert f'flowagent_flow_size_bytes_bucket{{le="{bound}",proto="6"}}' in render(HISTOGRAM)


def test_a_histogram_in_openmetrics():
    (family,) = parse_openmetrics(render(HISTOGRAM, accept=OPENMETRICS))
    (same,) = text_string_to_metric_families(render(HISTOGRAM))
    assert family.type == same.type == "histogram"
    assert {(s.name, *sorted(s.labels.items()), s.value) for s in family.samples} == {
        (s.name, *sorted(s.labels.items()), s.value) for s in same.samples
    }


def test_an_empty_histogram_has_all_its_series():
    (family,) = text_string_to_metric_families(
        render(Family("flowagent_x", "histogram", "X.", (), {(): Distribution()}))
    )
    assert [sample.value for sample in family.samples] == [0] * (len(EXPONENTS) + 3)


def test_a_histogram_without_samples_is_announced():
    assert "# TYPE flowagent_x histogram" in render(Family("flowagent_x", "histogram", "X.", ("a",)))


@pytest.mark.parametrize(
    "accept",
    [
        PROTOBUF,
        PROMETHEUS,
        'Application/vnd.Google.protobuf; Encoding="delimited"; proto="io.prometheus.client.MetricFamily"',
        f"{PROTOBUF};q=0.6,{OPENMETRICS};escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.3,*/*;q=0.2",
        f"{PROTOBUF};escaping=allow-utf-8",
        f"text/plain;q=0.4,{PROTOBUF};q=0.5",
        f"*/*;q=0.1, {PROTOBUF}; q=0.2",
        f"{PROTOBUF},text/plain",
        f"image/png,{PROTOBUF};q=0.5",
        f"text/plain;q=high,{PROTOBUF};q=0.5",
        f"text/plain;q=0,{PROTOBUF};q=0.001",
    ],
)
def test_protobuf_where_it_is_preferred(accept):
    body, content_type = exposition(COUNTER, HISTOGRAM).render(accept)
    assert (
        content_type == "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
    )
    assert b"flowagent_flow_size_bytes" in body
    assert b"# HELP" not in body


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (f"text/plain,{PROTOBUF}", "text/plain"),
        (f"{PROTOBUF};q=0.4,text/plain;q=0.5", "text/plain"),
        (f"{OPENMETRICS},{PROTOBUF};q=0.9", "application/openmetrics-text"),
        (f"{PROTOBUF};q=0.1,*/*;q=0.8", "text/plain"),
        (f"{PROTOBUF};q=0", "text/plain"),
        (f"{PROTOBUF};q=high", "text/plain"),
        ("application/vnd.google.protobuf", "text/plain"),
        (PROTOBUF.replace("delimited", "text"), "text/plain"),
        (PROTOBUF.replace("MetricFamily", "Other"), "text/plain"),
        ("*/*", "text/plain"),
        (";q=,,=;", "text/plain"),
    ],
)
def test_text_where_protobuf_is_not_preferred(accept, content_type):
    body, found = exposition(COUNTER).render(accept)
    assert found.startswith(content_type)
    assert b"# TYPE" in body


def test_text_does_without_protobuf():
    code = """
import sys
from flowagent.export.prometheus import Exposition
from flowagent.metrics import Metrics
Exposition(Metrics()).render("text/plain")
sys.exit("google.protobuf" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
