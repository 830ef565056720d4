"""A server that shares no code with flowagent takes OTLP from the agent, and has the same sums: VictoriaLogs."""

import json
import urllib.parse
import urllib.request
import uuid

import pytest
from live.agent import Sums
from live.generate import generate
from live.loki import VictoriaLogs
from live.polling import until

pytestmark = pytest.mark.service("go")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = VictoriaLogs(tmp_path_factory.mktemp("victorialogs")).start()
    yield server
    server.stop()


def place(server):
    return urllib.parse.urlsplit(server.push_url).netloc


def stored(server, node):
    """The rows of an agent, as attributes."""
    for path, query in (("internal/force_flush", ""), ("select/logsql/query", f'{{host.name="{node}"}}')):
        url = f"http://{place(server)}/{path}?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    return [json.loads(line) for line in lines]


def total(rows):
    return Sums(sum(int(row["flow.io.packets"]) for row in rows), sum(int(row["flow.io.bytes"]) for row in rows))


@pytest.mark.parametrize("gzip", [True, False])
def test_what_the_agent_saw_is_what_is_stored(server, make_agent, gzip):
    node = uuid.uuid4().hex
    url = f"http://{place(server)}/insert/opentelemetry"
    export = [{"type": "otlp", "url": url, "resource": {"host.name": node}, "gzip": gzip}]
    agent = make_agent(export=export, window={"every": "1s"}, analyse=[])
    sent = generate(agent.port, protocol="ipfix", records=20_000, rate=20_000, keys=500)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    agent.stop()
    until(lambda: total(stored(server, node)) == sent.sums, "all is stored")
    row = stored(server, node)[0]
    assert row["service.name"] == "flowagent"
    assert row["network.type"] in ("ipv4", "ipv6")
    assert {"source.address", "destination.port", "network.transport", "flow.start", "flow.end"} <= row.keys()
