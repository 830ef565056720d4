"""Prometheus, the real programs, read what a running agent shows."""

import socket
import subprocess

import pytest
from live.generate import generate
from live.polling import until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def agent(make_agent):
    """An agent that has seen good and bad input, so that every family has samples."""
    agent = make_agent(analyse=[{"type": "counters", "labels": ["exporter"]}])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.sendto(b"\0\x0a\0\0", ("127.0.0.1", agent.port))
    return agent


def send_one(agent):
    """One datagram; how many records it brought."""
    records = generate(agent.port, records=1).records
    until(lambda: agent.metrics().total("flowagent_flow_records_total") == records, "the first records are counted")
    return records


@pytest.mark.service("promtool")
def test_promtool_finds_nothing_to_complain_of(agent):
    send_one(agent)
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=agent.get("/metrics"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_openmetrics_says_the_same(agent):
    """The parser is strict; promtool knows the older format only."""
    send_one(agent)
    families = list(parse_text(agent.get("/metrics")))
    open_families = list(parse_openmetrics(agent.get("/metrics", OPENMETRICS)))
    assert all(family.documentation for family in families)
    assert _samples(families) == _samples(open_families)


def _samples(families):
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


@pytest.mark.service("prometheus")
def test_prometheus_sees_the_same_increase(agent, make_prometheus):
    """A counter's series begins with its first value, so it must be there before what is to be measured.

    Last minus first sample is exact. `increase()` adds up to half a scrape interval at each end of the series where
    its range reaches beyond them: n samples make that at most n/(n-1) of the truth.
    """
    warm_up = send_one(agent)
    prometheus = make_prometheus(f"127.0.0.1:{agent.http_port}")
    until(lambda: prometheus.value("flowagent_flow_records_total") == warm_up, "Prometheus has the first value")

    sent = [generate(agent.port, protocol=p, records=40_000, rate=20_000) for p in ("netflow5", "netflow9", "ipfix")]
    truth = {
        "records": sum(s.records for s in sent),
        "packets": sum(s.sums.packets for s in sent),
        "bytes": sum(s.sums.bytes for s in sent),
    }
    last = warm_up + truth["records"]
    until(lambda: prometheus.value("flowagent_flow_records_total") == last, "Prometheus has the last value")

    for name, expected in truth.items():
        series = f"flowagent_flow_{name}_total[1h]"
        assert prometheus.value(f"max_over_time({series}) - min_over_time({series})") == expected
        samples = prometheus.value(f"count_over_time({series})")
        assert expected <= prometheus.value(f"increase({series})") <= expected * samples / (samples - 1) * (1 + 1e-9)
    assert prometheus.value("scrape_samples_scraped") > 30
    assert prometheus.value("count(flowagent_build_info)") == 1
