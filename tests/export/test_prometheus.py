"""The exposition: what Prometheus reads of the agent's metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowagent.export.prometheus import Exposition
from flowagent.metrics import Family, Metrics


def exposition(*families):
    metrics = Metrics()
    metrics.add(lambda: families)
    return Exposition(metrics)


def render(*families, accept=""):
    body, _ = exposition(*families).render(accept)
    return body.decode()


COUNTER = Family("flowagent_flow_bytes", "counter", "Octets.", ("proto",), {("6",): 300, ("17",): 1})
GAUGE = Family("flowagent_window_rows", "gauge", "Rows.", (), {(): 2.5})


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
