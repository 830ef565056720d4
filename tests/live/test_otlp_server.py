"""A server that shares no code with flowagent takes OTLP from the agent, and has the same sums: VictoriaLogs."""

import json
import threading
import urllib.parse
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from live.agent import Sums
from live.generate import generate
from live.loki import VictoriaLogs
from live.polling import until
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

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


def test_the_metrics_of_an_agent_are_what_it_shows(make_agent):
    came = {}

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/metrics":
                request = ExportMetricsServiceRequest.FromString(body)
                came.update((metric.name, metric) for metric in request.resource_metrics[0].scope_metrics[0].metrics)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Nothing to say."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Taking) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_port}"
        export = [{"type": "otlp", "url": url, "metrics_every": "1s", "gzip": False}]
        agent = make_agent(export=export, window={"every": "3600s"}, analyse=[{"type": "counters"}])
        sent = generate(agent.port, protocol="ipfix", records=5_000, rate=20_000, keys=500)
        until(lambda: agent.metrics().decoded == sent.records, "all records came")

        def octets():
            family = came.get("flowagent_flow_bytes_total")
            return sum(point.as_double for point in family.sum.data_points) if family else 0

        until(lambda: octets() == sent.sums.bytes, "the counters came")
        collector.shutdown()
