"""What lies in deploy/ fits together, and fits the code: nothing here starts a container."""

import asyncio
import json
import re
import subprocess
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from flowagent.agent import Agent
from flowagent.batch import Batch, constant
from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.config import parse
from flowagent.export import netobserv

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAMLS = sorted(DEPLOY.rglob("*.yaml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$span": "15m"}
"""What Grafana puts in place of what stands where PromQL wants a duration."""
METRIC = re.compile(r"\bflowagent_\w+")


def name(path):
    return path.relative_to(DEPLOY).as_posix()


def read(path):
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))


COMPOSE = read("compose.yaml")
SERVICES = COMPOSE["services"]


def panels(dashboard):
    return [panel for panel in json.loads(dashboard.read_text("utf-8"))["panels"] if panel["type"] != "row"]


def expressions(dashboard, kind="prometheus"):
    """Of all panels; Grafana's own variables are replaced."""
    found = []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            if target["datasource"]["type"] == kind:
                found.append(target["expr"])
                for variable, value in VARIABLES.items():
                    found[-1] = found[-1].replace(variable, value)
    return found


def variables(dashboard):
    return json.loads(dashboard.read_text("utf-8"))["templating"]["list"]


def documented():
    """The PromQL of docs/metrics.md: an expression begins where a line is not indented."""
    blocks = re.findall(r"```promql\n(.*?)```", (ROOT / "docs" / "metrics.md").read_text("utf-8"), re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"\n(?=\S)", block.strip())]
    return [part for part in parts if not part.startswith("#")]


@cache
def exposed():
    """Names of the series that agent.yaml's agent has once it saw records and finished a period, with their labels."""
    raw = read("agent.yaml")
    raw["ingest"] = [{"type": "udp", "listen": "127.0.0.1:0"}]
    raw["export"] = [{**entry, "spool": 0} for entry in raw["export"]]
    clock = ManualClock(1_700_000_000 * SECOND)
    agent = Agent(parse(raw, {}), Context("flowagent", clock=clock))
    families = asyncio.run(collected(agent, clock))
    endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        family.name + ending: {*family.labels, *(["le"] if ending == "_bucket" else [])}
        for family in families
        for ending in endings[family.kind]
    }


async def collected(agent, clock):
    """Its metrics, with everything open but no task at work: nothing is received and nothing sent."""
    pipeline, metrics = agent.pipeline, agent.ctx.metrics
    metrics.add(agent._families)
    metrics.add(pipeline._families)
    async with AsyncExitStack() as stack:
        for component in (*pipeline.outlets.values(), *pipeline.sources.values()):
            await stack.enter_async_context(component)
        pipeline.deliver(records(clock.now_ns()))
        clock.advance(61)
        pipeline.tick()
        return metrics.collect()


def records(now_ns):
    """A few records of every column that agent.yaml asks for."""
    addresses = np.stack([np.zeros(3, np.uint64), 0xFFFF_0000_0000 + np.arange(3, dtype=np.uint64)])
    columns = {"bytes": "u8", "packets": "u8", "records": "u8", "proto": "u1", "dst_port": "u2", "src_port": "u2"}
    same = {column: constant(1, 3, dtype) for column, dtype in columns.items()}
    times = {column: constant(now_ns, 3, "i8") for column in ("start_ns", "end_ns", "received_ns")}
    return Batch({**dict.fromkeys(("src_addr", "dst_addr", "exporter"), addresses), **same, **times}, 3)


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_yaml_can_be_read(path):
    assert all(yaml.safe_load_all(path.read_text("utf-8")))


def test_the_agents_configuration_is_valid():
    config = parse(read("agent.yaml"), {})
    assert config.sampling.budget
    assert [kind.name for kind in config.analyse] == ["counters", "default"]
    assert [kind.type for kind in config.export] == ["kafka", "loki"]


def test_the_agents_ports_are_open_and_on_the_loopback():
    raw = read("agent.yaml")
    wanted = {f"{listen.rpartition(':')[2]}/udp" for listen in raw["ingest"][0]["listen"]}
    wanted.add(raw["http"]["listen"].rpartition(":")[2])
    assert {port.partition(":")[2].partition(":")[2] for port in SERVICES["agent"]["ports"]} == wanted
    assert {
        port for service in SERVICES.values() for port in service["ports"] if not port.startswith("127.0.0.1:")
    } == (set())


def listening(service):
    """Ports of a service that others of the network reach: those it publishes, for Kafka the one of that network."""
    if service == "kafka":
        return {kafka_listeners("LISTENERS")["INSIDE"].removeprefix(":")}
    return {port.split(":")[2].partition("/")[0] for port in SERVICES[service]["ports"]}


def kafka_listeners(setting):
    """The addresses of Kafka's listeners by name."""
    return dict(entry.split("://") for entry in SERVICES["kafka"]["environment"][f"KAFKA_{setting}"].split(","))


def test_services_reach_one_another_where_they_listen():
    export = read("agent.yaml")["export"]
    scraped = [c for scrape in read("prometheus.yaml")["scrape_configs"] for c in scrape["static_configs"]]
    sources = read("grafana/provisioning/datasources/flowagent.yaml")["datasources"]
    urls = [entry["url"] for entry in (*(e for e in export if "url" in e), *sources)]
    urls += [f"//{address}" for entry in export for address in entry.get("brokers", ())]
    urls += [f"//{target}" for targets in scraped for target in targets["targets"]]
    reached = {tuple(url.rpartition("//")[2].split(":")) for url in urls}
    assert {service for service, _ in reached} == {"agent", "kafka", "loki", "prometheus"}
    assert [(service, port) for service, port in reached if port not in listening(service)] == []


def test_kafka_is_where_it_says():
    said, bound = kafka_listeners("ADVERTISED_LISTENERS"), kafka_listeners("LISTENERS")
    environment = SERVICES["kafka"]["environment"]
    assert said == {"INSIDE": f"kafka{bound['INSIDE']}", "OUTSIDE": f"127.0.0.1{bound['OUTSIDE']}"}
    assert SERVICES["kafka"]["ports"] == [f"127.0.0.1{bound['OUTSIDE']}{bound['OUTSIDE']}"]
    protocols = environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    assert {protocol.partition(":")[0] for protocol in protocols} == bound.keys()
    assert environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"1@localhost{bound['CONTROLLER']}"
    assert f"kafka:{environment['KAFKA_LOG_DIRS']}" in SERVICES["kafka"]["volumes"]


def test_services_wait_for_services_that_start_with_them():
    for service, settings in SERVICES.items():
        for other in settings.get("depends_on", ()):
            assert set(SERVICES[other].get("profiles", ())) <= set(settings.get("profiles", ())), service


def test_only_clickhouse_must_be_asked_for():
    assert [service for service, settings in SERVICES.items() if "profiles" in settings] == ["clickhouse"]


@pytest.mark.parametrize("service", SERVICES)
def test_services_have_a_health_check_and_a_pinned_image(service):
    settings = SERVICES[service]
    assert settings["healthcheck"]["test"][0] == "CMD"
    image, _, tag = settings["image"].partition(":")
    assert image
    assert re.fullmatch(r"v?\d+(\.\d+){2,3}", tag) or (tag == "local" and "build" in settings)


@pytest.mark.parametrize("service", SERVICES)
def test_named_volumes_are_declared_and_files_are_there(service):
    for volume in SERVICES[service]["volumes"]:
        source, _, mode = volume.split(":", 1)[0], *volume.rpartition(":")[1:]
        if source.startswith("."):
            assert (DEPLOY / source).exists()
            assert mode == "ro"
        else:
            assert source in COMPOSE["volumes"]


def test_the_image_keeps_its_state_where_the_volume_is():
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    state = read("agent.yaml")["state"]["path"]
    assert f"VOLUME {state}\n" in dockerfile
    assert f"state:{state}" in SERVICES["agent"]["volumes"]
    assert re.search(r"^USER \d+$", dockerfile, re.MULTILINE)
    assert SERVICES["agent"]["read_only"]


def test_the_image_takes_in_what_its_file_copies():
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert {f"!{file}" for line in copied for file in line.split()} == {line for line in ignore if line.startswith("!")}


def test_dashboards_are_those_that_the_readme_names():
    readme = (DEPLOY / "README.md").read_text("utf-8")
    titles = [json.loads(path.read_text("utf-8"))["title"] for path in DASHBOARDS]
    assert len(titles) == 3
    assert all(f"*{title.split(': ')[1].split()[0]}*" in readme for title in titles)


@pytest.mark.parametrize("path", DASHBOARDS, ids=name)
def test_panels_have_a_source_that_is_provisioned_and_do_not_overlap(path):
    sources = read("grafana/provisioning/datasources/flowagent.yaml")["datasources"]
    known = {source["uid"] for source in sources}
    taken = set()
    for panel in panels(path):
        assert {target["datasource"]["uid"] for target in panel["targets"]} <= known
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("path", DASHBOARDS, ids=name)
def test_dashboards_use_only_variables_that_they_have(path):
    used = set(re.findall(r"\$(\w+)", " ".join(expressions(path)))) - {"__range", "__rate_interval"}
    assert used <= {variable["name"] for variable in variables(path)}


@pytest.mark.parametrize("path", DASHBOARDS, ids=name)
def test_dashboards_name_only_metrics_that_there_are(path):
    asked = expressions(path) + [v["query"]["query"] for v in variables(path) if v["type"] == "query"]
    named = {metric for text in asked for metric in METRIC.findall(text)}
    assert named
    assert named - exposed().keys() == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=name)
def test_dashboards_ask_for_labels_that_these_metrics_have(path):
    wrong = [
        (metric, label)
        for text in expressions(path)
        for metric, matchers in re.findall(r"(flowagent_\w+)\{(.*?)\}", text)
        for label in re.findall(r"(\w+)(?:=|!=|=~|!~)\"", matchers)
        if label not in exposed().get(metric, ()) and label != "instance"
    ]
    assert wrong == []


def test_the_documentation_asks_for_metrics_that_there_are():
    named = {metric for text in documented() for metric in METRIC.findall(text)}
    assert named
    assert named - exposed().keys() == set()


def test_what_dashboards_read_of_loki_is_in_its_lines():
    fields = {
        field
        for path in DASHBOARDS
        for text in expressions(path, "loki")
        for field in re.findall(r"\{\{\.(\w+)\}\}|by \((\w+)\)|unwrap (\w+)", text)
        for field in field
        if field
    }
    assert fields
    assert fields <= netobserv.FIELDS.keys() - set(netobserv.LOKI_LABELS)


@pytest.mark.service("promtool")
def test_promql_can_be_parsed(tmp_path):
    asked = {path.stem: expressions(path) for path in DASHBOARDS} | {"metrics.md": documented()}
    groups = [
        {"name": of, "rules": [{"record": f"expression:{i}", "expr": text} for i, text in enumerate(texts)]}
        for of, texts in asked.items()
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", tmp_path / "rules.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.service("promtool")
def test_prometheus_takes_its_configuration():
    done = subprocess.run(
        ["promtool", "check", "config", DEPLOY / "prometheus.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
