"""softflowd, the real program, exports known packets to a running agent."""

import socket

import pytest
from live.agent import sum_rows, total
from live.packets import flows_in, write_traffic
from live.polling import until
from live.softflowd import datagrams_of, export

pytestmark = pytest.mark.service("softflowd")


@pytest.mark.parametrize("options", ["-v 5", "-v 9 -6", "-v 10 -6", "-v 10 -6 -b"])
def test_counts_what_softflowd_saw(make_agent, tmp_path, options):
    agent = make_agent()
    capture = tmp_path / "traffic.pcap"
    write_traffic(capture, seed=5, conversations=300, ipv6="-6" in options)
    truth = flows_in(capture)

    export(capture, agent.port, options)
    metrics = until(lambda: (m := agent.metrics()).decoded >= len(truth) and m, "all records came")

    assert metrics.flows == total(truth)
    assert metrics.total("flowagent_flow_records_total") == metrics.decoded == len(truth)
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0
    agent.stop()
    assert sum_rows(agent.rows()) == truth


@pytest.mark.parametrize("options", ["-v 9 -6", "-v 10 -6 -b"])
def test_a_restart_loses_nothing(make_agent, tmp_path, options):
    """The agent is killed in the middle of an export; what comes after that has no templates."""
    agent = make_agent()
    capture = tmp_path / "traffic.pcap"
    write_traffic(capture, seed=6, conversations=150, ipv6=True)
    truth = flows_in(capture)
    datagrams = datagrams_of(capture, options)
    middle = len(datagrams) // 2

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.connect(("127.0.0.1", agent.port))
        for datagram in datagrams[:middle]:
            exporter.send(datagram)
        until(lambda: agent.has_saved(datagrams=middle), "rows and templates are on disk")
        before = agent.metrics().decoded
        agent.kill()
        agent.start()
        for datagram in datagrams[middle:]:
            exporter.send(datagram)
    metrics = until(lambda: (m := agent.metrics()).decoded >= len(truth) - before and m, "the other records came")

    assert metrics.total("flowagent_ingest_templates_total") == 0, "templates came again: this run shows nothing"
    assert metrics.errors == metrics.total("flowagent_ingest_held_sets_total") == 0
    agent.stop()
    assert sum_rows(agent.rows()) == truth
