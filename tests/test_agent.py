"""The whole agent in one process: real sockets, HTTP, signals."""

import asyncio
import json
import logging
import os
import signal
import socket
import struct
from contextlib import asynccontextmanager

import aiohttp
import pytest
from web import described

from flowagent.agent import Agent
from flowagent.component import Context
from flowagent.config import parse
from flowagent.errors import ConfigError

LOCAL = "127.0.0.1:0"


def settings(**changed):
    raw = {
        "ingest": [{"type": "udp", "listen": LOCAL, "receive_buffer": 1 << 20, "batch": 64, "max_delay": 0.001}],
        "window": {"every": "1h"},
        "http": {"listen": LOCAL},
    }
    return parse(raw | changed, {})


def netflow5(*octets):
    head = struct.pack("!HHIIIIHH", 5, len(octets), 0, 1_700_000_000, 0, 0, 0, 0)
    record = struct.Struct("!12xHHIIIIHHBBBBHHBBH")
    return head + b"".join(record.pack(1, 2, 1, n, 0, 0, 80, 443, 0, 2, 6, *[0] * 6) for n in octets)


class Running:
    """An agent that runs, and how to reach it."""

    def __init__(self, agent, session, stop, task):
        self.agent, self.session, self.stop, self.task = agent, session, stop, task

    async def get(self, path):
        async with self.session.get(f"http://127.0.0.1:{self.agent.server.port}{path}") as response:
            return response.status, await response.text()

    async def metric(self, name):
        _, text = await self.get("/metrics")
        values = [line.split()[-1] for line in text.splitlines() if line.split(" ")[0].split("{")[0] == name]
        return sum(map(float, values))

    def send(self, *payloads):
        port = next(iter(self.agent.pipeline.sources.values())).ports[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for payload in payloads:
                sock.sendto(payload, ("127.0.0.1", port))

    async def until(self, look):
        async with asyncio.timeout(5):
            while not await look():  # noqa: ASYNC110 (asks the agent over HTTP)
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(config, path=None, beside=None, state_dir=None):
    agent = Agent(config, Context("flowagent", state_dir=state_dir))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = loop.create_task(agent.run(stop, config_path=path, beside=beside))
    started = loop.create_task(agent.started.wait())
    await asyncio.wait([started, task], return_when="FIRST_COMPLETED")
    started.cancel()
    async with aiohttp.ClientSession() as session:
        try:
            yield Running(agent, session, stop, task)
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


async def test_flows_become_metrics():
    async with running(settings()) as it:
        it.send(netflow5(100, 200))

        async def arrived():
            return await it.metric("flowagent_flow_records_total") == 2

        await it.until(arrived)
        assert await it.metric("flowagent_flow_bytes_total") == 300
        assert await it.metric("flowagent_records_pending") == 2
        assert await it.metric("flowagent_build_info") == 1


async def test_flows_reach_the_sink_when_it_ends(tmp_path):
    export = [{"type": "file", "path": str(tmp_path / "flows.ndjson")}]
    async with running(settings(export=export)) as it:
        it.send(netflow5(100, 200))

        async def arrived():
            return await it.metric("flowagent_ingest_records_total") == 2

        await it.until(arrived)
    assert '"bytes":300' in (tmp_path / "flows.ndjson").read_text()
    assert it.agent.pipeline.outcomes.pending == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it(number):
    async with running(settings()) as it:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(it.task, 5)


async def test_signal_handlers_are_gone_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    async with running(settings()):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


async def test_ready_health_and_exporters():
    async with running(settings()) as it:
        assert await it.get("/healthz") == (200, "ok\n")
        assert await it.get("/readyz") == (200, "ready\n")
        it.send(netflow5(1))

        async def known():
            return "127.0.0.1" in (await it.get("/api/v1/exporters"))[1]

        await it.until(known)


async def test_before_it_started_it_is_not_ready():
    agent = Agent(settings(), Context("flowagent"))
    assert agent.not_ready() == ["starting"]
    assert agent.exporters() == []


async def reloads(it, log, text):
    """Ask for a reload and wait for what the log says of it."""
    os.kill(os.getpid(), signal.SIGHUP)

    async def said():
        return text in log.text

    await it.until(said)


async def test_sighup_reloads_the_file(tmp_path, caplog):
    caplog.set_level(logging.INFO, "flowagent")
    file = tmp_path / "flowagent.yaml"
    file.write_text(f"ingest: [{{type: udp, listen: '{LOCAL}', name: other, batch: 64}}]\nhttp: {{listen: '{LOCAL}'}}")
    async with running(settings(), path=file) as it:
        port = it.agent.server.port
        await reloads(it, caplog, "reloaded")
        assert [kind.name for kind in it.agent.pipeline.sources] == ["other"]
        assert it.agent.server.port == port


async def test_a_wrong_file_keeps_the_old_configuration(tmp_path, caplog):
    file = tmp_path / "flowagent.yaml"
    file.write_text("windwo: 0")
    async with running(settings(), path=file) as it:
        before = it.agent.pipeline.config
        await reloads(it, caplog, "reload failed, the old configuration goes on: windwo: is not a setting")
        assert it.agent.pipeline.config is before
        assert await it.metric("flowagent_reload_failures_total") == 1
        it.send(netflow5(1))

        async def arrived():
            return await it.metric("flowagent_flow_records_total") == 1

        await it.until(arrived)


async def test_a_file_that_cannot_be_started_keeps_the_old_configuration(tmp_path, caplog):
    file = tmp_path / "flowagent.yaml"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        file.write_text(f"ingest: [{{type: udp, listen: '127.0.0.1:{port}'}}]")
        async with running(settings(), path=file) as it:
            it.send(netflow5(1))

            async def arrived():
                return await it.metric("flowagent_flow_records_total") == 1

            await it.until(arrived)
            await reloads(it, caplog, "reload failed, the old configuration goes on: udp.listen: cannot listen")
            it.send(netflow5(2))

            async def again():
                return await it.metric("flowagent_flow_records_total") == 2

            await it.until(again)
    assert it.agent.pipeline.outcomes.pending == 0
    assert it.agent.pipeline.outcomes.counts["exported", ""] == 2


async def test_a_source_that_cannot_start_ends_it_with_its_error():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="cannot listen on UDP"):
            async with running(settings(ingest=[{"type": "udp", "listen": listen}])):
                pass


async def test_a_server_that_cannot_start_ends_it_with_its_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on TCP"):
            async with running(settings(http={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})):
                pass


async def test_company_runs_along_and_ends_with_it():
    seen = []

    async def beside(agent, stop):
        seen.append((agent.started.is_set(), stop.is_set()))
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    async with running(settings(), beside=beside):
        await asyncio.sleep(0)
    assert seen == [(True, False), "ended"]


async def test_company_that_breaks_ends_it():
    async def beside(_agent, _stop):
        raise ConfigError("ingest", "has no udp source")

    with pytest.raises(ConfigError, match="has no udp source"):
        async with running(settings(), beside=beside) as it:
            await asyncio.wait([it.task], timeout=5)


async def test_templates_are_kept_in_the_state_directory(tmp_path):
    template = struct.pack("!HHIII", 10, 28, 0, 0, 1) + struct.pack("!HHHHHH", 2, 12, 256, 1, 1, 4)
    async with running(settings(), state_dir=tmp_path) as it:
        it.send(template)

        async def arrived():
            return await it.metric("flowagent_ingest_templates_total") == 1

        await it.until(arrived)
    assert [file.name for file in tmp_path.iterdir()] == ["templates-udp.msgpack"]


async def test_recent_flows_can_be_asked_for():
    config = settings(window={"every": "1s"}, history={"step": "1s"}, analyse=[], sampling={"budget": 100})
    async with running(config) as it:
        it.send(netflow5(100, 200))

        async def there():
            _, text = await it.get("/api/v1/query?dimensions=dst_port,src_addr")
            return json.loads(text)["rows"]

        await it.until(there)
        _, text = await it.get("/api/v1/query?dimensions=dst_port&filter=proto%20==%20tcp")
        assert [(row["value"], row["error"]) for row in json.loads(text)["rows"]] == [(300, 0)]
        status, text = await it.get("/api/v1/status")
        described.check("GET", "/api/v1/status", status, "application/json", json.loads(text))
        told = json.loads(text)
        assert told["outcomes"][0] == {"outcome": "exported", "reason": "", "records": 2}
        assert (told["sampling"]["budget"], told["sinks"], told["ready"]) == (100, [], [])
        assert told["rates"]["bytes"] > 0
        assert await it.metric("flowagent_history_rows") > 0
