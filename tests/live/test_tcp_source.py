"""An agent that exports IPFIX over TCP and TLS to another agent: every record arrives, whatever breaks on the way."""

import socket

import pytest
from live.generate import generate
from live.outages import make_certificate
from live.polling import free_port, until


def receiver(make_agent, *, start=True, **settings):
    port = free_port(socket.SOCK_STREAM)
    source = {"type": "tcp", "listen": f"127.0.0.1:{port}", **settings}
    return make_agent(ingest=[source], window=0, start=start), port


def sender(make_agent, port, **settings):
    to = {"type": "ipfix", "collector": f"127.0.0.1:{port}", "protocol": "tcp", **settings}
    return make_agent(export=[to], analyse=[], window=0)


def exported(agent):
    return agent.metrics().total("flowagent_records_total", outcome="exported")


@pytest.mark.parametrize("protocol", ["netflow5", "ipfix"])
def test_over_tcp_the_same_sums_come(make_agent, protocol):
    collector, port = receiver(make_agent)
    agent = sender(make_agent, port)
    sent = generate(agent.port, protocol=protocol, records=30_000, rate=20_000, keys=5000)
    until(lambda: collector.metrics().decoded == sent.records, "all records came")
    metrics = collector.metrics()
    assert metrics.flows == sent.sums
    assert (metrics.errors, metrics.total("flowagent_ingest_lost_records_total")) == (0, 0)
    assert metrics.total("flowagent_ingest_connections") == 1
    agent.stop()
    until(lambda: collector.metrics().total("flowagent_ingest_connections") == 0, "the connection ended")
    collector.stop()


def test_a_collector_that_was_away_gets_everything(make_agent):
    collector, port = receiver(make_agent, start=False)
    agent = sender(make_agent, port)
    sent = generate(agent.port, protocol="ipfix", records=5000, rate=20_000, keys=500)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    collector.start()
    until(lambda: collector.metrics().decoded == sent.records, "all records came from the spool")
    assert collector.metrics().flows == sent.sums


@pytest.mark.service("openssl")
def test_over_mutual_tls_the_same_sums_come(tmp_path, make_agent):
    files = {}
    for name in ("collector", "exporter", "stranger"):
        files[name] = {"cert": str(tmp_path / f"{name}.pem"), "key": str(tmp_path / f"{name}.key")}
        make_certificate(files[name]["key"], files[name]["cert"])
    collector, port = receiver(make_agent, tls={**files["collector"], "client_ca": files["exporter"]["cert"]})
    stranger = sender(make_agent, port, tls={"ca": files["collector"]["cert"], **files["stranger"]})
    refused = generate(stranger.port, protocol="ipfix", records=500, rate=20_000, keys=500)
    until(lambda: stranger.metrics().decoded == refused.records, "the stranger has something to send")
    until(
        lambda: collector.metrics().total("flowagent_ingest_connections_refused_total", reason="certificate"), "refused"
    )
    assert "closed a connection from 127.0.0.1: certificate" in collector.log

    agent = sender(make_agent, port, tls={"ca": files["collector"]["cert"], **files["exporter"]})
    sent = generate(agent.port, protocol="ipfix", records=30_000, rate=20_000, keys=5000)
    until(lambda: collector.metrics().decoded == sent.records, "all records came")
    assert collector.metrics().flows == sent.sums
    assert collector.metrics().errors == 0
