"""The OTLP sink: requests that the official library reads, and what answers mean."""

import asyncio
import logging
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import yaml
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from flowagent.batch import Batch
from flowagent.channel import Item
from flowagent.clock import ManualClock
from flowagent.component import Context, Periodic
from flowagent.config import parse
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.export.otlp import Config, partial_success
from flowagent.outcome import Outcomes, Ticket
from flowagent.outlet import Outlet

DOCS = Path(__file__).parents[2] / "docs" / "sinks" / "otlp.md"
NO_PAUSE = SimpleNamespace(random=lambda: -1)


def rows(n, first=0):
    numbers = np.arange(first, first + n, dtype=np.uint64)
    addresses = np.stack([np.zeros(n, np.uint64), np.uint64(0xFFFF0A000000) + numbers])
    return Batch({"src_addr": addresses, "bytes": numbers, "end_ns": numbers.astype("i8") + 10**18})


def config(url, **settings):
    return msgspec.convert({"url": url, **settings}, Config)


async def write(server, batch, **settings):
    async with config(server.url, **settings).build(Context("otel")) as sink:
        return await sink.write(batch)


def resources(server):
    """All that the server took."""
    for came in server.taken:
        if came.path.endswith("/v1/logs"):
            yield from ExportLogsServiceRequest.FromString(came.body).resource_logs


def numbers(server):
    return sorted(
        pair.value.int_value
        for of_resource in resources(server)
        for record in of_resource.scope_logs[0].log_records
        for pair in record.attributes
        if pair.key == "flow.io.bytes"
    )


def attributes(resource):
    return {pair.key: pair.value.string_value for pair in resource.attributes}


def answer(rejected, why):
    """A partial success, as text that the server sends as it is."""
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = rejected
    response.partial_success.error_message = why
    return (200, response.SerializeToString().decode(), {})


@pytest.mark.parametrize("gzip", [True, False])
async def test_rows_are_log_records(serve, gzip):
    server = await serve()
    assert await write(server, rows(3), gzip=gzip) == len(server.taken[0].body)
    (came,) = server.taken
    assert came.path == "/v1/logs"
    assert came.headers["Content-Type"] == "application/x-protobuf"
    assert came.headers.get("Content-Encoding") == ("gzip" if gzip else None)
    assert numbers(server) == [0, 1, 2]


async def test_a_url_that_has_the_path_already(serve):
    server = await serve()
    async with config(f"{server.url}/otlp/v1/logs").build(Context("otel")) as sink:
        await sink.write(rows(1))
    assert server.taken[0].path == "/otlp/v1/logs"


async def test_the_resource(serve):
    server = await serve()
    await write(server, rows(1), resource={"host.name": "n1", "k8s.cluster.name": "eu"})
    (of_resource,) = resources(server)
    found = attributes(of_resource.resource)
    assert found.pop("service.version")
    assert found == {"service.name": "flowagent", "host.name": "n1", "k8s.cluster.name": "eu"}


async def test_the_resource_names_the_host(serve):
    server = await serve()
    await write(server, rows(1))
    (of_resource,) = resources(server)
    assert attributes(of_resource.resource)["host.name"] == socket.gethostname()


async def test_rows_without_time_were_observed_now(serve):
    server = await serve()
    async with config(server.url).build(Context("otel", ManualClock(77))) as sink:
        await sink.write(Batch({"bytes": np.ones(1, "u8")}))
    (of_resource,) = resources(server)
    assert of_resource.scope_logs[0].log_records[0].observed_time_unix_nano == 77


async def test_headers_of_the_settings_and_of_files(serve, tmp_path):
    (tmp_path / "key").write_text("abc\n")
    server = await serve()
    files = {"api-key": str(tmp_path / "key"), "Authorization": str(tmp_path / "key")}
    async with config(server.url, header_files=files, headers={"X-Source": "n1"}).build(Context("otel")) as sink:
        await sink.write(rows(1))
        (tmp_path / "key").write_text("new")
        await sink.write(rows(1))
        (tmp_path / "key").unlink()
        with pytest.raises(Retry, match="cannot read"):
            await sink.write(rows(1))
    sent = [(c.headers["api-key"], c.headers["Authorization"], c.headers["X-Source"]) for c in server.taken]
    assert sent == [("abc", "abc", "n1"), ("new", "new", "n1")]


async def test_credentials(serve, tmp_path):
    (tmp_path / "token").write_text("abc")
    server = await serve()
    await write(server, rows(1), token_file=str(tmp_path / "token"))
    assert server.taken[0].headers["Authorization"] == "Bearer abc"


async def test_bodies_are_bounded(serve):
    server = await serve()
    await write(server, rows(1000), max_body_bytes="8kB")
    assert max(len(came.body) for came in server.taken) <= 8000
    assert numbers(server) == list(range(1000))


async def test_too_large_bodies_are_divided(serve):
    server = await serve(max_bytes=1000)
    await write(server, rows(1000))
    assert numbers(server) == list(range(1000))


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_come_right_is_tried_again(serve, status):
    with pytest.raises(Retry) as raised:
        await write(await serve((status, "", {"Retry-After": "9"})), rows(1))
    assert raised.value.after == 9


@pytest.mark.parametrize("status", [400, 422, 500, 501, 505])
async def test_what_may_not_be_tried_again_is_refused(serve, status):
    server = await serve((status, "no", {}))
    with pytest.raises(Rejected, match=f"refused: {status} no"):
        await write(server, rows(2))
    assert server.requests == 1


async def test_nobody_there():
    async with config("http://127.0.0.1:1").build(Context("otel")) as sink:
        with pytest.raises(Retry, match="cannot post to"):
            await sink.write(rows(1))


async def test_a_partial_success_is_counted_and_not_tried_again(serve, caplog):
    server = await serve(answer(2, "too old"), answer(1, "too old"), 204, answer(0, "slow down"))
    ctx = Context("otel", log=logging.getLogger("partial"))
    async with config(server.url).build(ctx) as sink:
        for _ in range(4):
            await sink.write(rows(5))
        samples = {family.name: family.samples for family in ctx.metrics.collect()}
    assert samples["flowagent_sink_refused_rows"]["otel", "partial"] == 3
    assert server.requests == 4
    assert caplog.messages == [
        "2 rows of a request were refused: too old", "0 rows of a request were refused: slow down",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"{}",
        b"<html>" * 50,
        b"\x0a",
        b"\x0a\xff",
        b"\x0a\x02\x08\xff",
        b"\x08" + b"\xff" * 50,
        bytes(9),
        b"\x08\x05",
    ],
)
def test_answers_that_are_something_else(body):
    assert partial_success(body) == (0, "")


def test_partial_success_is_read_as_it_was_written():
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 1_000_000
    response.partial_success.error_message = "größer\nals " + "x" * 1000
    rejected, why = partial_success(response.SerializeToString())
    assert rejected == 1_000_000
    assert why.startswith("größer als xxx")
    assert len(why) == 300


async def test_no_rows_no_request(serve):
    server = await serve()
    assert await write(server, rows(0)) == 0
    assert server.requests == 0


async def test_no_row_is_lost_and_none_comes_twice(serve):
    server = await serve((429, "", {}), "reset", 204, "hang", 503, 204, "reset")
    settings = config(server.url, timeout=0.5, batch_rows=300, spool=0, max_wait=0)
    ctx = Context("otel", rng=NO_PAUSE)
    outcomes = Outcomes()
    async with Outlet(settings.build(ctx), ctx, outcomes, settings) as outlet:
        for start in range(0, 2000, 100):
            outcomes.decoded += 100
            outlet.channel.put(Item(rows(100, start), Ticket(outcomes, 100, 1)))
        outlet.close("shutdown")
        await asyncio.wait_for(outlet.run(), 20)
    assert numbers(server) == list(range(2000))
    assert outcomes.counts["exported", ""] == 2000


async def test_the_examples_of_the_documentation_work(serve, tmp_path):
    (tmp_path / "key").write_text("abc")
    server = await serve()
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    examples = [entry for block in blocks for entry in yaml.safe_load(block)]
    environment = {"PORT": str(server.port), "NODE_NAME": "n1", "SECRETS": str(tmp_path)}
    kinds = parse({"export": examples}, environment).export
    assert len(kinds) == 2
    for kind in kinds:
        async with kind.settings.build(Context(kind.name)) as sink:
            await sink.write(rows(1))
    assert [came.path for came in server.taken] == ["/v1/logs", "/v1/metrics", "/api/v2/otlp/v1/logs"]
    assert server.taken[2].headers["Authorization"] == "abc"
    assert [attributes(r.resource)["host.name"] for r in resources(server)] == ["n1", socket.gethostname()]


def test_settings_that_are_wrong(tmp_path):
    (tmp_path / "two").write_text("a\nb")
    (tmp_path / "key").write_text("a")
    for settings, path in (
        ({"max_body_bytes": "big"}, "otel.max_body_bytes"),
        ({"url": "x"}, "otel.url"),
        ({"header_files": {"api-key": str(tmp_path / "none")}}, "otel.header_files.api-key"),
        ({"header_files": {"api-key": str(tmp_path / "two")}}, "otel.header_files.api-key"),
        ({"header_files": {"api key": str(tmp_path / "key")}}, "otel.header_files.api key"),
        ({"header_files": {"Content-Type": str(tmp_path / "key")}}, "otel.header_files.Content-Type"),
    ):
        with pytest.raises(ConfigError) as raised:
            config(**{"url": "http://x", **settings}).build(Context("otel"))
        assert raised.value.path == path


def test_it_uses_all_columns():
    assert config("http://x").build(Context("otel")).columns() is None


def pushed(server):
    """Names of the metrics of each push."""
    for came in server.taken:
        if came.path.endswith("/v1/metrics"):
            request = ExportMetricsServiceRequest.FromString(came.body)
            yield {metric.name for metric in request.resource_metrics[0].scope_metrics[0].metrics}


async def test_metrics_are_sent_when_asked_for_and_at_the_end(serve):
    server = await serve()
    async with config(f"{server.url}/v1/logs", metrics_every=30, gzip=False).build(Context("otel")) as sink:
        assert isinstance(sink, Periodic)
        assert sink.every == 30
        await sink.push()
        assert len(list(pushed(server))) == 1
    assert len(list(pushed(server))) == 2
    assert all("flowagent_sink_metric_pushes_total" in names for names in pushed(server))


async def test_metrics_are_counted_since_the_agent_began_and_not_the_sink(serve):
    server = await serve()
    ctx = Context("otel", ManualClock(10**18))
    ctx.metrics.since_ns = 10**17
    async with config(server.url, metrics_every=30, gzip=False).build(ctx) as sink:
        await sink.push()
    request = ExportMetricsServiceRequest.FromString(server.taken[0].body)
    sums = [m.sum for m in request.resource_metrics[0].scope_metrics[0].metrics if m.HasField("sum")]
    assert {point.start_time_unix_nano for one in sums for point in one.data_points} == {10**17}


async def test_without_a_period_no_metrics_are_sent(serve):
    server = await serve()
    async with config(server.url).build(Context("otel")) as sink:
        assert sink.every == 0
    assert server.taken == []


async def test_metrics_that_cannot_be_sent_are_counted(caplog):
    ctx = Context("otel")
    async with config("http://127.0.0.1:1", metrics_every=60).build(ctx) as sink:
        await sink.push()
        found = {f.name: f.samples for f in ctx.metrics.collect()}["flowagent_sink_metric_pushes"]
        assert found == {("otel", "sent"): 0, ("otel", "failed"): 1}
    assert "metrics were not sent" in caplog.text
