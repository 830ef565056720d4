"""A running agent from its start, or why it cannot, through reloads and trouble to an end that loses nothing."""

import resource
import signal
import socket
import statistics
import subprocess
import time

import pytest
from live.generate import command, generate, generated
from live.polling import until

NO_WINDOW = {"every": "1h"}
"""Longer than any test."""


def outcomes(metrics):
    return metrics.total("flowagent_records_total") + metrics.total("flowagent_records_pending")


def records_in(rows):
    return sum(row["records"] for row in rows)


def test_the_account_is_right_at_every_moment_of_a_load(make_agent):
    """Whatever was decoded is exported, dropped for a reason, or still inside."""
    agent = make_agent()
    with subprocess.Popen(command(agent.port, rate=50_000, duration=2), stdout=subprocess.PIPE) as load:
        looks = []
        while load.poll() is None:
            looks.append(agent.metrics())
    assert all(look.decoded == outcomes(look) for look in looks)
    assert looks[0].decoded < looks[-1].decoded


def test_sigterm_under_load_loses_nothing(make_agent):
    """What waits in the socket and in the window when the signal comes is in the file in the end."""
    agent = make_agent(window=NO_WINDOW)
    first = generate(agent.port, records=20_000, rate=50_000)
    agent.signal(signal.SIGSTOP)
    second = generate(agent.port, records=20_000, rate=50_000)
    agent.signal(signal.SIGTERM)
    agent.signal(signal.SIGCONT)
    assert agent.exit_code() == 0, agent.log
    rows = agent.rows()
    assert records_in(rows) == first.records + second.records
    assert sum(row["bytes"] for row in rows) == first.sums.bytes + second.sums.bytes


def test_sigterm_in_the_middle_of_a_load_keeps_what_was_counted(make_agent):
    agent = make_agent(window=NO_WINDOW)
    with subprocess.Popen(command(agent.port, rate=50_000), stdout=subprocess.DEVNULL) as load:
        counted = until(lambda: (n := agent.metrics().decoded) > 50_000 and n, "the load runs")
        agent.stop()
        load.terminate()
    assert counted <= records_in(agent.rows())


def test_reload_takes_the_new_configuration(make_agent):
    agent = make_agent()
    before = generate(agent.port, records=100)
    until(lambda: records_in(agent.rows()) == before.records, "the first rows are written")

    agent.config["ingest"][0]["max_delay"] = 0.01
    agent.config["export"].append({"type": "file", "name": "second", "path": str(agent.directory / "second.ndjson")})
    agent.write_config()
    agent.signal(signal.SIGHUP)
    until(lambda: "reloaded" in agent.log, "the agent says that it reloaded")
    after = generate(agent.port, records=100)

    until(lambda: records_in(agent.rows()) == before.records + after.records, "the old file has everything")
    until(lambda: records_in(agent.rows("second.ndjson")) == after.records, "the new file has what came since")
    assert agent.metrics().total("flowagent_flow_records_total") == before.records + after.records
    agent.stop()


@pytest.mark.parametrize("trouble", ["not a setting", "not YAML", "a taken port"])
def test_a_bad_reload_changes_nothing(make_agent, trouble):
    """What waits in the window stays there, and what comes later joins it."""
    agent = make_agent(window=NO_WINDOW)
    before = generate(agent.port, records=100)
    until(lambda: agent.metrics().decoded == before.records, "the first records came")
    good = agent.config
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        if trouble == "not a setting":
            agent.config = {**good, "windoww": {}}
        elif trouble == "a taken port":
            agent.config = {**good, "ingest": [{"type": "udp", "listen": f"127.0.0.1:{taken.getsockname()[1]}"}]}
        agent.write_config()
        if trouble == "not YAML":
            (agent.directory / "agent.yaml").write_text("ingest: [")
        agent.signal(signal.SIGHUP)
        until(lambda: agent.metrics().total("flowagent_reload_failures_total") == 1, "the failure is counted")
    assert "the old configuration goes on" in agent.log

    after = generate(agent.port, records=100)
    until(
        lambda: agent.metrics().total("flowagent_flow_records_total") == before.records + after.records, "records come"
    )
    agent.stop()
    assert records_in(agent.rows()) == before.records + after.records


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_taken_port_ends_the_start(make_agent, kind):
    agent = make_agent(start=False)
    port = agent.port if kind == socket.SOCK_DGRAM else agent.http_port
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        agent.launch()
        assert agent.exit_code() == 2
    last = agent.log.splitlines()[-1]
    assert "cannot listen on" in last
    assert str(port) in last
    assert "Traceback" not in agent.log


def test_an_unwritable_directory_ends_the_start(make_agent, tmp_path):
    (tmp_path / "file").touch()
    agent = make_agent(start=False, export=[{"type": "file", "path": str(tmp_path / "file" / "rows.ndjson")}])
    agent.launch()
    assert agent.exit_code() == 2
    assert "flowagent: file.path: cannot write in" in agent.log.splitlines()[-1]
    assert "Traceback" not in agent.log


def test_a_full_disk_holds_up_only_its_sink(make_agent):
    """Counting goes on, the agent says what is wrong, and once there is room every row is in the file once."""
    agent = make_agent(window=0)
    unlimited = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    sent = generate(agent.port, records=5000, rate=5000)

    until(lambda: "cannot write" in _not_ready(agent), "the agent is not ready")
    assert agent.metrics().total("flowagent_flow_records_total") == sent.records
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, unlimited)
    until(lambda: agent.metrics().total("flowagent_records_pending") == 0, "the sink caught up")

    assert records_in(agent.rows()) == sent.records
    assert _not_ready(agent) == ""
    agent.stop()


def _not_ready(agent):
    try:
        agent.get("/readyz")
    except OSError as error:
        return error.read().decode()
    return ""


@pytest.mark.parametrize("rate", [0, 50_000])
def test_a_record_is_on_metrics_soon(make_agent, rate):
    """Within 250 ms in the median, idle and under load; another address tells the record from the load's."""
    agent = make_agent(analyse=[{"type": "counters", "labels": ["exporter"]}])
    (datagram, *_), _ = generated(protocol="netflow5", records=1)
    load = subprocess.Popen(command(agent.port, rate=rate), stdout=subprocess.DEVNULL) if rate else None
    try:
        if load:
            until(lambda: agent.metrics().decoded > rate / 10, "the load runs")
        latencies = [_latency(agent, datagram) for _ in range(7)]
    finally:
        if load:
            load.terminate()
            load.wait(10)
    assert statistics.median(latencies) < 0.25, latencies


def _latency(agent, datagram):
    def count():
        return agent.metrics().total("flowagent_flow_records_total", exporter="127.0.0.2")

    before = count()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        exporter.bind(("127.0.0.2", 0))
        began = time.perf_counter()
        exporter.sendto(datagram, ("127.0.0.1", agent.port))
        until(lambda: count() > before, "the record is counted", every=0.005)
        return time.perf_counter() - began


def test_demo_feeds_itself(make_agent):
    agent = make_agent(start=False).start("demo")
    first = until(lambda: (m := agent.metrics()).decoded and m, "flows came")
    until(lambda: agent.metrics().decoded > first.decoded, "more flows came")
    agent.stop()
    assert f"http://127.0.0.1:{agent.http_port}/" in agent.log
    assert str(agent.port) in agent.log
