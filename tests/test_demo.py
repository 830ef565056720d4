"""The demo: the agent it is for gets datagrams from its exporters, and names through its own enricher."""

import asyncio
import contextlib
import socket
from pathlib import Path

import numpy as np
import pytest

from flowagent import names
from flowagent.batch import Batch
from flowagent.clock import SystemClock
from flowagent.component import Context
from flowagent.config import parse
from flowagent.demo import Demo, clock_text, holdings, outlook
from flowagent.enrich import kube_snapshot
from flowagent.errors import ConfigError
from flowagent.generate.cluster import load
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.pipeline import build


@pytest.fixture
def demo():
    with Demo(SystemClock(), 1, 2000) as made:
        yield made


def test_the_outlook_says_what_happens_when():
    lines = outlook(load()).splitlines()
    assert lines[0].startswith("  0:40  a deploy of shop/checkout")
    assert lines[-1] == "  3:30  and from the beginning"
    assert len(lines) == len(load().story) + 1


def test_the_documentation_says_so_too():
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text("utf-8")
    plan = load()
    assert all(f"| {clock_text(event.at)} | a" in text for event in plan.story)
    assert all(f"{one.exporter}" in text for one in (*plan.nodes, plan.edge))
    assert f"every {clock_text(plan.seconds)}" in text


def test_clock_text():
    assert [clock_text(s) for s in (0, 9.5, 75, 3600)] == ["0:00", "0:09", "1:15", "60:00"]


@pytest.mark.parametrize("rate", [0, float("nan"), 1e9])
def test_a_rate_that_cannot_be(rate):
    with pytest.raises(ConfigError, match=r"--rate: .* out of range"):
        Demo(SystemClock(), 1, rate)


def test_its_names_are_a_snapshot(demo):
    held = holdings(demo.scenario.cluster.members)
    again, left_out = kube_snapshot.decode(kube_snapshot.encode(held)[0], 1000)
    assert left_out == 0
    assert np.array_equal(again.addresses, held.addresses)
    assert {names.text(code) for code in again.parts["type"].tolist()} == {"Pod", "Service", "Node"}


async def test_every_port_of_the_plan_has_a_name(demo):
    (kind,) = [kind for kind in demo.config(parse({})).enrich if kind.type == "services"]
    asked = [(17 if talk.port == 53 else 6, talk.port) for talk in demo.plan.talks.edges]
    protocols, ports = (np.array(column) for column in zip(*asked, strict=True))
    batch = Batch({
        "proto": protocols.astype(np.uint8),
        "src_port": np.full(len(ports), 40000, np.uint16),
        "dst_port": ports.astype(np.uint16),
    })  # fmt: skip
    async with build(kind, Context("demo")) as enricher:
        named = enricher.enrich(batch, enricher.adds)["service"]
    assert (named != 0).all()
    assert {"https", "postgresql", "kafka-controller"} <= set(map(names.text, named.tolist()))


def test_a_configuration_that_has_names_keeps_its_own(demo):
    plain = demo.config(parse({}))
    assert "kubernetes" in [kind.type for kind in plain.enrich]
    own = parse({"enrich": [{"type": "kubernetes", "snapshot_url": "http://127.0.0.1:1"}]})
    kept = [kind for kind in demo.config(own).enrich if kind.type == "kubernetes"]
    assert kept == list(own.enrich)


async def test_datagrams_come_and_the_enricher_learns_who_sent_them(demo):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    said = []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    (kind,) = [kind for kind in demo.config(parse({})).enrich if kind.type == "kubernetes"]
    enricher = build(kind, Context("demo"))
    with receiver:
        async with enricher, asyncio.TaskGroup() as group:
            playing = group.create_task(demo.run([receiver.getsockname()[1]], stop, said.append))
            learning = group.create_task(enricher.run())
            got = [await asyncio.wait_for(loop.sock_recvfrom(receiver, 2000), 10) for _ in range(120)]
            while enricher.ready() is not None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
            stop.set()
            await playing
            learning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await learning
    payloads = [data for data, _ in got]
    exporters = [address for _, (address, _) in got]
    now = SystemClock().now_ns()
    batch = Decoder().feed(Datagrams.of(payloads, exporter=exporters, received_ns=now))
    named = enricher.enrich(batch, enricher.adds)
    found = set(map(names.text, named["src_k8s_namespace"].tolist()))
    assert {"shop", "data", "monitoring"} <= found
    assert len(set(exporters)) > 1
    assert said == []
