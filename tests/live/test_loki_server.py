"""A server that speaks Loki's push API stores what the agent and its sink send: VictoriaLogs, or a Loki that is given.

FLOWAGENT_TEST_LOKI_URL names one (http://127.0.0.1:3100, without credentials) to run these against.
"""

import asyncio
import re
import time
import uuid
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from live.agent import Sums
from live.generate import generate
from live.loki import LOKI_URL, MOST, Loki, VictoriaLogs
from live.polling import until

from flowagent import config
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export.loki import Config

pytestmark = pytest.mark.service(*([] if LOKI_URL else ["go"]))
DOCS = Path(__file__).parents[2] / "docs" / "sinks" / "loki.md"
only_victoria = pytest.mark.skipif(LOKI_URL is not None, reason="a given server is not restarted")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if LOKI_URL:
        yield Loki(LOKI_URL)
        return
    server = VictoriaLogs(tmp_path_factory.mktemp("victorialogs")).start()
    yield server
    server.stop()


@pytest.fixture
def run():
    """The value of a label that no other test has."""
    return uuid.uuid4().hex


def now_ns():
    return time.time_ns()  # noqa: TID251


def rows(n, **columns):
    numbers = np.arange(n)
    addresses = np.stack([np.zeros(n, np.uint64), (0xFFFF0A000000 + numbers).astype(np.uint64)])
    return Batch({
        "src_addr": addresses,
        "bytes": (numbers + 1).astype(np.uint64),
        "end_ns": now_ns() // 1000 * 1000 + numbers * 1_000_003 - 60 * 10**9,
        "direction": (numbers % 2).astype(np.uint8),
        **columns,
    })  # fmt: skip


def push(server, run, batch, **settings):
    """Send rows by the sink alone."""
    settings = {"url": server.push_url, "static_labels": {"app": "flows", "run": run}, **settings}

    async def write():
        async with msgspec.convert(settings, Config).build(Context("loki")) as sink:
            return await sink.write(batch)

    return asyncio.run(write())


def stored(server, run, count):
    """The lines of a test, by time, as soon as there are so many."""
    assert count <= MOST
    return until(lambda: len(found := sorted(server.lines(run=run))) >= count and found, f"{count} lines are stored")


def total(lines):
    return Sums(sum(line.fields["Packets"] for line in lines), sum(line.fields["Bytes"] for line in lines))


def export(server, run, **settings):
    return [{"type": "loki", "url": server.push_url, "static_labels": {"app": "flows", "run": run}, **settings}]


@pytest.mark.parametrize("format_", ["protobuf", "json"])
def test_lines_labels_and_times(server, run, format_):
    batch = rows(1000)
    push(server, run, batch, format=format_)
    found = stored(server, run, 1000)
    assert [line.time_ns for line in found] == batch["end_ns"].tolist()
    assert [line.labels["FlowDirection"] for line in found] == [str(i % 2) for i in range(1000)]
    assert all(line.labels["app"] == "flows" for line in found)
    assert [line.fields for line in found] == [
        {"SrcAddr": f"10.0.{i >> 8}.{i & 255}", "Bytes": i + 1, "TimeFlowEndMs": line.time_ns // 10**6, "Etype": 2048}
        for i, line in enumerate(found)
    ]


@pytest.mark.parametrize("format_", ["protobuf", "json"])
def test_labels_of_any_text(server, run, format_):
    names = ["plain", 'quo"te', "back\\slash", "new\nline", "ümläut €", '{a="b"}', "tab\t\x01\x7f", "'`"]
    batch = rows(len(names), src_k8s_namespace=np.array([name.encode() for name in names]))
    push(server, run, batch, format=format_)
    assert [line.labels["SrcK8S_Namespace"] for line in stored(server, run, len(names))] == names


@pytest.mark.parametrize("format_", ["protobuf", "json"])
def test_structured_metadata(server, run, format_):
    push(server, run, rows(10), format=format_, structured_metadata=["SrcAddr"])
    found = stored(server, run, 10)
    assert [line.labels["SrcAddr"] for line in found] == [f"10.0.0.{i}" for i in range(10)]
    assert not any("SrcAddr" in line.fields for line in found)


def test_many_streams_are_folded_and_no_line_is_lost(server, run):
    push(server, run, rows(3000), labels=["SrcAddr"], max_streams=50)
    found = stored(server, run, 3000)
    assert sorted(line.fields["Bytes"] for line in found) == list(range(1, 3001))
    assert len({line.labels.get("SrcAddr") for line in found}) == 51
    assert all(("SrcAddr" in line.labels) != ("SrcAddr" in line.fields) for line in found)


def test_pushes_in_parts(server, run):
    push(server, run, rows(5000), max_push_bytes="50kB")
    assert sorted(line.fields["Bytes"] for line in stored(server, run, 5000)) == list(range(1, 5001))


def test_old_rows_do_not_hold_up_new_ones(server, run):
    batch = rows(200)
    times = batch["end_ns"].copy()
    times[:100] -= 3000 * 86400 * 10**9
    push(server, run, batch.with_columns({"end_ns": times}))
    found = until(
        lambda: [line for line in server.lines(run=run) if line.fields["Bytes"] > 100], "the new rows are there"
    )
    assert sorted(line.fields["Bytes"] for line in found) == list(range(101, 201))


@pytest.mark.parametrize("format_", ["protobuf", "json"])
def test_what_the_agent_saw_is_what_is_stored(server, run, make_agent, format_):
    agent = make_agent(export=export(server, run, format=format_), window={"every": "1s"}, analyse=[])
    sent = generate(agent.port, protocol="ipfix", records=40_000, rate=20_000, keys=500)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    agent.stop()
    until(lambda: total(server.lines(run=run)) == sent.sums, "all is stored")
    assert len(server.lines(run=run)) < MOST


@only_victoria
def test_rows_of_an_outage_come_when_it_is_over(tmp_path, run, make_agent):
    server = VictoriaLogs(tmp_path).start()
    try:
        agent = make_agent(export=export(server, run, timeout="2s"), window={"every": "1s"}, analyse=[])
        sent = [generate(agent.port, records=5000, rate=10_000, keys=300)]
        until(lambda: server.lines(run=run), "rows come")
        server.stop()
        sent.append(generate(agent.port, records=5000, rate=10_000, keys=300))
        until(lambda: agent.metrics().total("flowagent_spool_rows"), "rows go to the spool")
        with pytest.raises(OSError, match="503"):
            agent.get("/readyz")
        server.start()
        expected = sent[0].sums + sent[1].sums
        until(lambda: total(server.lines(run=run)) == expected, "all is stored", timeout=60)
        metrics = until(lambda: (m := agent.metrics()).total("flowagent_spool_rows") == 0 and m, "the spool is empty")
        assert metrics.total("flowagent_sink_retries_total") > 0
        agent.stop()
        assert total(server.lines(run=run)) == expected
    finally:
        server.stop()


def examples():
    """The entries of `export` in the documentation."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [entry for block in blocks for entry in yaml.safe_load(block)]


def test_the_first_example_of_the_documentation_works(server, run, make_agent):
    (example, _) = examples()
    place = server.push_url.removeprefix("http://")
    parsed = config.parse({"export": [example]}, {"LOKI": place, "NODE_NAME": run})
    entry = {"type": "loki", **msgspec.to_builtins(parsed.export[0].settings)}
    agent = make_agent(export=[entry], window={"every": "1s"}, analyse=[])
    sent = generate(agent.port, records=2000, rate=10_000, keys=300)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    agent.stop()
    until(lambda: total(server.lines(node=run)) == sent.sums, "all is stored")
    assert {line.labels["app"] for line in server.lines(node=run)} == {"netobserv-flowcollector"}


def test_the_example_with_credentials_is_right(tmp_path):
    (tmp_path / "password").write_text("secret")
    (_, example) = examples()
    parsed = config.parse({"export": [example]}, {"SECRETS": str(tmp_path)})
    settings = msgspec.structs.replace(parsed.export[0].settings, tls=None)
    settings.build(Context("loki"))
