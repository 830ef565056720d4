"""The enricher as a whole: names from a real API over HTTP, through churn and outages, as sinks write them."""

import asyncio
import json
import os
import re
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from kube_api import node, pod, service
from kube_running import addresses, flows, is_ready, named, running, samples, serving, shop, until

from flowagent import names
from flowagent.batch import Batch
from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.config import parse
from flowagent.enrich import kubernetes
from flowagent.enrich.kubernetes import Config
from flowagent.errors import ConfigError
from flowagent.export.netobserv import FIELDS
from flowagent.export.schemas import encoder
from flowagent.schema import EGRESS, INGRESS, INNER

NOW_NS = 1_714_561_200 * SECOND  # an hour after kube_api.START


async def test_netobserv_gets_every_field_of_kubernetes_in_its_type(api, tmp_path, quick):
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full", cluster="prod")) as enricher:
        await until(is_ready(enricher))
        rows = names.spelled(enricher.enrich(flows(("10.0.0.5", "172.30.0.9")), enricher.adds))
    (row,) = map(json.loads, encoder("netobserv").messages(rows))
    kubernetes_fields = {name: value for name, value in row.items() if "K8S" in name}
    assert kubernetes_fields == {
        "SrcK8S_Name": "web-5d4-abc", "SrcK8S_Namespace": "shop", "SrcK8S_Type": "Pod",
        "SrcK8S_OwnerName": "web", "SrcK8S_OwnerType": "Deployment",
        "SrcK8S_HostName": "node-a", "SrcK8S_HostIP": "192.0.2.1", "SrcK8S_Zone": "east",
        "SrcK8S_NetworkName": "primary",
        "DstK8S_Name": "front", "DstK8S_Namespace": "shop", "DstK8S_Type": "Service",
        "DstK8S_OwnerName": "front", "DstK8S_OwnerType": "Service", "DstK8S_NetworkName": "primary",
        "K8S_FlowLayer": "app", "K8S_ClusterName": "prod",
    }  # fmt: skip
    source = {name for name in FIELDS if name.startswith(("SrcK8S", "K8S"))}
    assert source <= kubernetes_fields.keys()


async def test_a_node_is_its_own_host_and_owner_and_has_no_namespace(api, tmp_path, quick):
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), node="node-a")) as enricher:
        await until(is_ready(enricher))
        for address in ("192.0.2.1", "198.51.100.1"):
            said = {part: named(enricher, address, part) for part in kubernetes.PARTS}
            assert said == {
                "name": "node-a", "namespace": "", "type": "Node", "owner_name": "node-a", "owner_type": "Node",
                "host_name": "node-a", "host_ip": "192.0.2.1", "zone": "east", "network_name": "primary",
            }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "layer"),
    [
        ("10.0.0.5", "10.0.0.6", "app"),
        ("10.0.0.6", "192.0.2.1", "infra"),
        ("192.0.2.1", "10.0.0.5", "app"),
        ("10.0.0.6", "8.8.8.8", "infra"),
        ("8.8.8.8", "10.0.0.5", "app"),
        ("8.8.8.8", "9.9.9.9", "infra"),
        ("10.0.0.6", "172.30.0.1", "infra"),
    ],
)
async def test_a_flow_is_of_applications_when_either_end_is(api, tmp_path, quick, source, target, layer):
    await shop(api)
    await api.put("services", service("kubernetes", "172.30.0.1", namespace="default"))
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        rows = enricher.enrich(flows((source, target)), frozenset({"k8s_flow_layer"}))
    assert names.texts(rows["k8s_flow_layer"]).tolist() == [layer.encode()]
    assert set(rows.columns) == {"src_addr", "dst_addr", "k8s_flow_layer"}


@pytest.mark.parametrize(
    ("exporter", "source", "target", "direction"),
    [
        ("192.0.2.1", "10.0.0.5", "10.0.0.6", INNER),
        ("192.0.2.1", "10.0.0.5", "10.0.1.7", EGRESS),
        ("192.0.2.1", "10.0.1.7", "10.0.0.5", INGRESS),
        ("192.0.2.2", "10.0.0.5", "10.0.1.7", INGRESS),
        ("192.0.2.2", "8.8.8.8", "10.0.1.7", INGRESS),
        ("10.0.1.7", "10.0.1.7", "8.8.8.8", EGRESS),  # a sidecar
        ("127.0.0.1", "10.0.0.5", "8.8.8.8", EGRESS),  # comes from this node
        ("::1", "192.0.2.2", "192.0.2.1", INGRESS),
        ("192.0.2.2", "10.0.0.5", "8.8.8.8", None),
        ("198.51.100.9", "10.0.0.5", "10.0.1.7", None),
        ("198.51.100.9", "8.8.8.8", "9.9.9.9", None),
    ],
)
async def test_direction_is_that_of_the_exporters_node(api, tmp_path, quick, exporter, source, target, direction):
    await shop(api)
    await api.put("nodes", node("node-b", "192.0.2.2"))
    await api.put("pods", pod("api", "10.0.1.7", node="node-b", host="192.0.2.2"))
    settings = Config(kubeconfig=api.kubeconfig(tmp_path), mode="full", node="node-a")
    async with running(settings) as enricher:
        await until(is_ready(enricher))
        rows = flows((source, target)).with_columns({"exporter": addresses(exporter)})
        rows = enricher.enrich(rows, frozenset({"node_direction"}))
    assert ("node_direction" in rows) == (direction is not None)
    if direction is not None:
        assert rows["node_direction"].tolist() == [direction]
        assert rows.is_known("node_direction").tolist() == [True]


async def test_only_wanted_columns_that_are_missing_are_added(api, tmp_path, quick):
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        batch = flows(("10.0.0.5", "10.0.0.6"))
        there = np.array([7], np.uint64)
        given_names = batch.with_columns({"src_k8s_name": there})
        rows = enricher.enrich(given_names, frozenset({"src_k8s_name", "dst_k8s_name", "bytes"}))
        assert set(rows.columns) == {"src_addr", "dst_addr", "src_k8s_name", "dst_k8s_name"}
        assert rows["src_k8s_name"] is there
        assert enricher.enrich(batch, frozenset({"bytes"})) is batch
        assert len(enricher.enrich(Batch({}), enricher.adds)) == 0


async def test_an_address_that_another_pod_takes_over_names_each_in_its_time(api, tmp_path, quick):
    clock = ManualClock(NOW_NS)
    await api.put("pods", pod("first", "10.0.0.5", uid="u1"))
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full"), Context("k", clock)) as enricher:
        await until(is_ready(enricher))
        clock.advance(10)
        await api.delete("pods", "u1")
        await until(lambda: named(enricher, "10.0.0.5", at_ns=clock.now_ns()) == "")
        clock.advance(20)
        await api.put("pods", pod("second", "10.0.0.5", uid="u2", start="2024-05-01T11:00:20Z"))
        await until(lambda: named(enricher, "10.0.0.5", at_ns=clock.now_ns()) == "second")
        batch = flows(*[("10.0.0.5", "10.0.0.5")] * 4,
                      end_ns=[NOW_NS + after * SECOND for after in (5, 15, 25, -700)],
                      received_ns=[NOW_NS + 30 * SECOND] * 4)  # fmt: skip
        rows = enricher.enrich(batch, enricher.adds)
        # A time so long before the receipt is not believed.
        assert names.texts(rows["src_k8s_name"]).tolist() == [b"first", b"", b"second", b"second"]
        unknown = Batch(batch.columns, valid={"end_ns": np.array([True, False, False, False])})
        assert names.texts(enricher.enrich(unknown, enricher.adds)["dst_k8s_name"]).tolist()[:2] == [
            b"first",
            b"second",
        ]
        clock.advance(700)
        enricher._changed.set()
        await until(lambda: len(enricher._table) == 1)


async def test_an_outage_of_the_server_costs_no_names(api, tmp_path, quick):
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        await api.stop()
        await until(lambda: samples(enricher, "requests").get(("pods", "watch", "error"), 0) > 2)
        assert named(enricher, "10.0.0.5") == "web-5d4-abc"
        assert enricher.ready() is None
        api.objects["pods"].pop("uid-web-5d4-abc")
        api.compact()
        await api.put("pods", pod("other", "10.0.0.8"))
        await api.start()
        await until(lambda: named(enricher, "10.0.0.8") == "other")
        await until(lambda: named(enricher, "10.0.0.5") == "")
        assert samples(enricher, "relists")["pods", "gone"] >= 1


async def test_it_is_not_ready_before_everything_was_listed_once(api, tmp_path, quick):
    api.refused["nodes"] = 403
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(lambda: "403" in (enricher.ready() or ""))
        await until(lambda: named(enricher, "10.0.0.5") == "web-5d4-abc")
        rows = enricher.enrich(flows(("10.0.0.5", "10.0.0.6")), enricher.adds)
        assert "k8s_flow_layer" not in rows
        api.refused.clear()
        await until(is_ready(enricher))


async def test_metrics(api, tmp_path, quick):
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        enricher.enrich(flows(("10.0.0.5", "8.8.8.8"), ("10.0.0.6", "10.0.0.5")), enricher.adds)
        assert samples(enricher, "hits") == {(): 3}
        assert samples(enricher, "misses") == {(): 1}
        assert samples(enricher, "addresses") == {(): 6}
        assert samples(enricher, "objects") == {("pods",): 2, ("services",): 1, ("nodes",): 1}
        assert samples(enricher, "evictions") == {(): 0}
        assert samples(enricher, "requests")["pods", "list", "200"] == 1
        assert samples(enricher, "requests")["replicasets", "get", "200"] == 1
        assert all(0 <= age < 10 for age in samples(enricher, "age_seconds").values())
        assert samples(enricher, "rebuild_seconds")[()] > 0


async def test_a_node_asks_for_its_own_pods_only(api, tmp_path, quick, monkeypatch):
    monkeypatch.setenv("NODE_NAME", "node-b")
    await api.put("pods", pod("here", "10.0.0.5", node="node-b"))
    await api.put("pods", pod("there", "10.0.0.6", node="node-a"))
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path))) as enricher:
        await until(is_ready(enricher))
        await api.put("pods", pod("there2", "10.0.0.7", node="node-a"))
        await api.put("pods", pod("here2", "10.0.0.8", node="node-b"))
        await until(lambda: named(enricher, "10.0.0.8") == "here2")
        assert [named(enricher, f"10.0.0.{n}") for n in (5, 6, 7)] == ["here", "", ""]
        assert samples(enricher, "objects")["pods",] == 2


@pytest.mark.parametrize(
    ("config", "path", "problem"),
    [
        ({"kubeconfig": "nowhere"}, "k.kubeconfig", "cannot read"),
        ({"snapshot_url": "host:80"}, "k.snapshot_url", "is not a URL"),
        ({"snapshot_url": "http://h", "snapshot_every": 0}, "k.snapshot_every", "is 0"),
        ({"snapshot_url": "http://h", "history": "soon"}, "k.history", "is not a duration"),
    ],
)
def test_wrong_settings(config, path, problem):
    with pytest.raises(ConfigError, match=problem) as raised:
        Config(**config).build(Context("k"))
    assert raised.value.path == path


def test_what_is_needed_and_added():
    enricher = Config(snapshot_url="http://h").build(Context("k"))
    assert enricher.needs == {"src_addr", "dst_addr", "exporter", "end_ns", "received_ns"}
    assert len(enricher.adds) == 20
    assert enricher.snapshot() == (b"", "")
    assert enricher.ready() == "no snapshot yet"


async def test_it_stays_ready_whatever_is_not_known_later(api, tmp_path, quick):
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        enricher._source._watches[0].heard = None
        await api.put("services", service("new", "172.30.0.8"))
        await until(lambda: named(enricher, "172.30.0.8") == "new")
        assert enricher._source.problem is not None
        assert enricher.ready() is None


async def test_an_unexpected_error_is_logged_and_it_goes_on(api, tmp_path, quick, monkeypatch, caplog):
    monkeypatch.setattr(kubernetes, "_FAULT_SECONDS", 0.01)
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        with monkeypatch.context() as broken:
            broken.setattr(kubernetes.KubeTable, "build", lambda *_: 1 / 0)
            await api.put("pods", pod("new", "10.0.0.9"))
            await until(lambda: "unexpected" in caplog.text)
            assert named(enricher, "10.0.0.5") == "web-5d4-abc"
        await api.put("pods", pod("newer", "10.0.0.10"))
        await until(lambda: named(enricher, "10.0.0.9") == "new" and named(enricher, "10.0.0.10") == "newer")


async def test_large_tables_are_made_in_a_thread(api, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(kubernetes, "_MANY", 1)
    made = []
    build = kubernetes.KubeTable.build
    monkeypatch.setattr(kubernetes.KubeTable, "build",
                        lambda *a: made.append(threading.current_thread().name) or build(*a))  # fmt: skip
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        assert named(enricher, "10.0.0.5") == "web-5d4-abc"
    assert "kubernetes" in made


async def test_events_that_come_together_make_one_table(api, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(kubernetes, "_APART_SECONDS", 0.3)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        tables = set()
        for number in range(50):
            await api.put("pods", pod(f"p{number}", f"10.0.1.{number}"))
            await asyncio.sleep(0.002)
            tables.add(id(enricher._table))
        await until(lambda: named(enricher, "10.0.1.49") == "p49")
        assert len(tables) <= 3


async def test_names_that_are_used_are_not_forgotten(api, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(kubernetes, "_KEEP_SECONDS", 0.01)
    await shop(api)
    async with running(Config(kubeconfig=api.kubeconfig(tmp_path), mode="full")) as enricher:
        await until(is_ready(enricher))
        # As if a million other names came: those that are kept are last again.
        later = names.code("another name")
        await until(lambda: list(names._texts).index(names.code("web-5d4-abc")) > list(names._texts).index(later))


def documented():
    """The examples of the documentation."""
    page = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text("utf-8")
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("example", documented())
async def test_the_examples_of_the_documentation_work(api, tmp_path, quick, monkeypatch, example):
    await shop(api)
    monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
    async with running(Config(mode="full")) as giver, serving(giver) as (url, _):
        await until(is_ready(giver))
        environ = {"NODE_NAME": "node-a", "PORT": url.rpartition(":")[2]}
        (kind,) = parse(yaml.safe_load(example), environ).enrich
        async with running(kind.settings) as enricher:
            await until(is_ready(enricher))
            await until(lambda: named(enricher, "10.0.0.5", "owner_name") == "web")
            assert named(enricher, "192.0.2.1") == "node-a"


if os.environ.get("KUBECONFIG"):

    async def test_a_real_cluster_is_known():
        async with running(Config(mode="full")) as enricher:
            await until(is_ready(enricher))
            assert samples(enricher, "objects")["nodes",] > 0
            assert samples(enricher, "addresses")[()] > 0
            assert msgspec.json.encode(enricher.ready()) == b"null"
