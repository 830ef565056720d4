"""The loki sink: rows become lines in streams, in order of time; no answer costs a row that could be kept."""

import asyncio
import json

import msgspec
import numpy as np
import pushed
import pytest
from answering import delivered

from flowagent.batch import Batch
from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.export.loki import Config, in_order, judge, label_name

START = 1_800_000_000 * SECOND
APP = {"app": "netobserv-flowcollector"}
TOO_OLD = (
    "entry with timestamp 2027-01-15 08:00:00 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: "
    "2027-01-15T08:00:00Z, oldest acceptable timestamp is: 2027-01-15T09:00:00Z', total ignored: 1 out of 2"
)


def rows(n, first=0, **columns):
    """Rows of different flows, a second apart."""
    numbers = np.arange(first, first + n)
    addresses = np.stack([np.zeros(n, np.uint64), (0xFFFF0A000000 + numbers).astype(np.uint64)])
    return Batch({
        "src_addr": addresses,
        "bytes": (numbers * 1000 + 1).astype(np.uint64),
        "end_ns": START + numbers * SECOND,
        "direction": (numbers % 2).astype(np.uint8),
        **columns,
    })  # fmt: skip


def build(url="http://x", *, ctx=None, **settings):
    settings = msgspec.convert({"url": url, **settings}, Config)
    return settings.build(ctx or Context("loki", ManualClock(START)))


def lines(server):
    """All that a server took, in order."""
    return [line for came in server.taken for line in pushed.lines(came.headers["Content-Type"], came.body)]


def by_time(found):
    return sorted(found, key=lambda line: line.time_ns)


def numbers(found):
    """By what `rows` made of them."""
    return sorted(line.fields["Bytes"] // 1000 for line in found)


async def write(server, *batches, **settings):
    async with build(server.url, **settings) as sink:
        for batch in batches:
            await sink.write(batch)
    return lines(server)


async def refused(server, batch):
    """Why the server's answer refuses rows for good."""
    with pytest.raises(Rejected) as raised:
        await write(server, batch)
    return raised.value.reason


@pytest.mark.parametrize("format_", ["protobuf", "json"])
async def test_rows_become_lines_in_streams(serve, format_):
    server = await serve()
    found = await write(server, rows(3), format=format_)
    assert [line.labels for line in by_time(found)] == [{**APP, "FlowDirection": str(i % 2)} for i in range(3)]
    assert [line.time_ns for line in by_time(found)] == [START + i * SECOND for i in range(3)]
    assert [line.fields for line in by_time(found)] == [
        {"SrcAddr": f"10.0.0.{i}", "Bytes": 1000 * i + 1, "TimeFlowEndMs": (START + i * SECOND) // 10**6, "Etype": 2048}
        for i in range(3)
    ]
    (came,) = server.taken
    assert came.path == "/loki/api/v1/push"


async def test_a_stream_is_there_once_and_in_order(serve):
    server = await serve()
    batch = rows(1000).take(np.random.default_rng(1).permutation(1000))
    found = await write(server, batch)
    (came,) = server.taken
    assert len(pushed.streams(came.headers["Content-Type"], came.body)) == 2
    for direction in "01":
        times = [line.time_ns for line in found if line.labels["FlowDirection"] == direction]
        assert times == [START + i * SECOND for i in range(int(direction), 1000, 2)]


async def test_labels_of_kubernetes(serve):
    namespaces = np.array([b"shop", b"", b"db"])
    batch = rows(3, src_k8s_namespace=namespaces, dst_k8s_owner_name=np.array([b"a", b"b", b'q"\\'])).select(
        ("src_addr", "bytes", "end_ns", "src_k8s_namespace", "dst_k8s_owner_name")
    )
    found = await write(await serve(), batch)
    assert [line.labels for line in by_time(found)] == [
        {**APP, "SrcK8S_Namespace": "shop", "DstK8S_OwnerName": "a"},
        {**APP, "DstK8S_OwnerName": "b"},
        {**APP, "SrcK8S_Namespace": "db", "DstK8S_OwnerName": 'q"\\'},
    ]
    assert not any("K8S" in line.text for line in found)


async def test_labels_as_they_are_configured(serve):
    settings = {"labels": ["SrcAddr"], "static_labels": {"app": "flows", "node": "n1"}}
    found = await write(await serve(), rows(2), **settings)
    assert sorted((line.labels["SrcAddr"], line.fields["FlowDirection"]) for line in found) == [
        ("10.0.0.0", 0), ("10.0.0.1", 1),
    ]  # fmt: skip
    assert all(line.labels["app"] == "flows" and line.labels["node"] == "n1" for line in found)


async def test_canonical_lines_have_no_labels_of_their_own(serve):
    (line,) = await write(await serve(), rows(1), schema="canonical")
    assert line.labels == APP
    assert line.fields == {"end_ns": START, "src_addr": "10.0.0.0", "bytes": 1, "direction": 0}


async def test_canonical_names_can_be_labels(serve):
    (line,) = await write(await serve(), rows(1), schema="canonical", labels=["direction"])
    assert line.labels == {**APP, "direction": "0"}


@pytest.mark.parametrize("format_", ["protobuf", "json"])
async def test_structured_metadata_stands_beside_the_line(serve, format_):
    known = np.array([True, False])
    batch = rows(2, proto=np.array([6, 17], np.uint8))
    batch = Batch(batch.columns, valid={"proto": known})
    found = await write(await serve(), batch, format=format_, structured_metadata=["SrcAddr", "Proto"])
    assert [line.metadata for line in by_time(found)] == [
        {"SrcAddr": "10.0.0.0", "Proto": "6"},
        {"SrcAddr": "10.0.0.1"},
    ]
    assert all({"SrcAddr", "Proto"}.isdisjoint(line.fields) for line in found)


async def test_label_sets_beyond_the_limit_keep_their_fields_in_the_line(serve):
    ctx = Context("loki", ManualClock(START))
    server = await serve()
    async with build(server.url, ctx=ctx, labels=["SrcAddr"], max_streams=3) as sink:
        await sink.write(rows(10))
        metrics = {f.name: f.samples for f in ctx.metrics.collect()}
    found = lines(server)
    assert len({line.labels.get("SrcAddr") for line in found}) == 4
    of_line = [line.fields["SrcAddr"] for line in found if line.labels == APP]
    of_label = [line.labels["SrcAddr"] for line in found if line.labels != APP]
    assert sorted(of_line + of_label) == sorted(f"10.0.0.{i}" for i in range(10))
    assert (len(of_line), len(of_label)) == (7, 3)
    assert metrics["flowagent_sink_folded_rows"] == {("loki",): 7}
    assert metrics["flowagent_sink_streams"] == {("loki",): 3}


async def test_headers(serve, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("abc")
    server = await serve()
    await write(server, rows(1), tenant="team", token_file=str(secret))
    headers = server.taken[0].headers
    assert headers["X-Scope-OrgID"] == "team"
    assert headers["Authorization"] == "Bearer abc"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert "Content-Encoding" not in headers


async def test_rows_of_no_time_are_of_now(serve):
    batch = Batch({"bytes": np.array([1], np.uint64)})
    (line,) = await write(await serve(), batch)
    assert line.time_ns == START


def test_times():
    end = np.array([5, 0, 0], np.int64)
    received = np.array([9, 7, 0], np.int64)
    batch = Batch(
        {"end_ns": end, "received_ns": received, "bytes": np.arange(3)},
        valid={"end_ns": np.array([True, False, False]), "received_ns": np.array([True, True, False])},
    )
    times, ordered = in_order(batch, 6)
    assert times.tolist() == [5, 6, 7]
    assert ordered["bytes"].tolist() == [0, 2, 1]


async def test_more_rows_than_are_encoded_at_once(serve):
    n = 20_000
    batch = rows(n).take(np.random.default_rng(2).permutation(n))
    found = await write(await serve(), batch, max_push_bytes="200kB")
    assert numbers(found) == list(range(n))


async def test_pushes_are_bounded(serve):
    server = await serve()
    await write(server, rows(5000), max_push_bytes=100_000, format="json")
    assert len(server.taken) > 5
    assert max(len(came.body) for came in server.taken) <= 100_000


async def test_lines_that_are_too_long_are_dropped_and_counted(serve):
    ctx = Context("loki", ManualClock(START))
    names = np.array([b"x", b"y" * 2000, b"z"])
    batch = rows(3, src_k8s_name=names)
    server = await serve()
    async with build(server.url, ctx=ctx, max_line_bytes=1000) as sink:
        await sink.write(batch)
        with pytest.raises(Rejected, match="too_long"):
            await sink.write(batch.rows(1, 2))
        metrics = {f.name: f.samples for f in ctx.metrics.collect()}
    assert sorted(line.fields["SrcK8S_Name"] for line in lines(server)) == ["x", "z"]
    assert metrics["flowagent_sink_refused_rows"]["loki", "too_long"] == 2


async def test_an_empty_batch_is_no_request(serve):
    server = await serve()
    assert await write(server, rows(0)) == []
    assert server.requests == 0


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (400, TOO_OLD, "too_old"),
        (400, 'entry out of order for stream: {app="x"}', "too_old"),
        (
            400,
            "entry for stream '{}' has timestamp too old: 2020-01-01, oldest acceptable timestamp is: 2024",
            "too_old",
        ),
        (400, "max entry size '262144' bytes exceeded for stream '{}' while adding an entry", "too_long"),
        (413, "", "too_large"),
        (
            500,
            "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (5 vs. 4)",
            "too_large",
        ),
        (
            500,
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (5 vs. 4)",
            "too_large",
        ),
        (400, "error parsing labels", "refused"),
        (400, "entry for stream '{}' has timestamp too new: 2100-01-01", "refused"),
    ],
)
async def test_reasons_of_refusal(serve, status, text, reason):
    assert await refused(await serve((status, text, {})), rows(1)) == reason


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (429, "Maximum active stream limit exceeded, reduce the number of active streams"),
        (429, "Ingestion rate limit exceeded for user fake (limit: 4 bytes/sec): payload too large"),
        (500, "rpc error: code = Unavailable"),
        (503, ""),
        (401, "no org id"),
    ],
)
async def test_limits_of_rate_and_faults_are_tried_again(serve, status, text):
    assert judge(status, text) is None
    with pytest.raises(Retry):
        await write(await serve((status, text, {})), rows(1))


def too_old_for(oldest):
    """As Loki answers, but it takes none of the rows of a request that it complains of."""

    def answer(came):
        first = min(line.time_ns for line in pushed.lines(came.headers["Content-Type"], came.body))
        return (400, TOO_OLD, {}) if first < START + oldest * SECOND else 204

    return answer


async def test_rows_that_are_too_old_do_not_hold_up_the_others(serve):
    server = await serve(otherwise=too_old_for(700))
    found = await write(server, rows(1000), rows(10, 2000))
    assert numbers(found) == [*range(700, 1000), *range(2000, 2010)]


async def deliver(url, n, **settings):
    """Rows in batches of 500; what became of them."""
    settings = msgspec.convert({"url": url, "spool": 0, "max_wait": 0, **settings}, Config)
    return await delivered(settings, [rows(500, start) for start in range(0, n, 500)])


@pytest.mark.parametrize(
    "script",
    [
        [(429, "slow down", {}), (429, "slow down", {"Retry-After": "0"})],
        [500, 502, 503],
        ["reset", "reset"],
        ["hang"],
        [204, "reset", (429, "", {}), 500, 204, "hang", 503, "reset"],
        [401, 403, 404],
        [(500, "rpc error: code = ResourceExhausted desc = trying to send message larger than max (9 vs. 4)", {})] * 3,
    ],
    ids=["rate limited", "faults", "cut lines", "hangs", "all sorts", "wrong credentials", "too large inside"],
)
async def test_no_row_is_lost_and_none_comes_twice(serve, script):
    server = await serve(*script)
    counts = await deliver(server.url, 4000, timeout=0.5, batch_rows=1000, max_push_bytes=30_000)
    assert counts == {("exported", ""): 4000}
    assert numbers(lines(server)) == list(range(4000))


async def test_a_server_that_takes_little_at_once_gets_all(serve):
    server = await serve(max_bytes=1000)
    assert await deliver(server.url, 3000) == {("exported", ""): 3000}
    assert numbers(lines(server)) == list(range(3000))


async def test_retry_after_is_waited_for(serve):
    server = await serve((429, "", {"Retry-After": "1"}))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await deliver(server.url, 500)
    assert loop.time() - began >= 1
    assert len(lines(server)) == 500


async def test_rows_that_are_refused_are_accounted_for(serve):
    server = await serve((400, "error parsing labels", {}))
    counts = await deliver(server.url, 1000, batch_rows=500)
    assert counts == {("exported", ""): 500, ("dropped", "sink_refused"): 500}


@pytest.mark.parametrize(
    ("field", "name"),
    [("SrcK8S_Namespace", "SrcK8S_Namespace"), ("a/b.c-d", "a_b_c_d"), ("_x", "_x"), ("5tuple", "_5tuple"), ("ä", "_")],
)
def test_label_names(field, name):
    assert label_name(field) == name


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"url": "loki"}, "url", "write http://host:port"),
        ({"static_labels": {}}, "static_labels", "one label at least"),
        ({"static_labels": {"a-b": "x"}}, "static_labels", "a_b would be one"),
        ({"labels": ["SrcK8S_namespace"]}, "labels", "did you mean SrcK8S_Namespace"),
        ({"structured_metadata": ["SrcAdr"]}, "structured_metadata", "did you mean SrcAddr"),
        ({"labels": ["Proto"], "structured_metadata": ["Proto"]}, "structured_metadata", "is a label already"),
        ({"labels": ["app"], "schema": "canonical"}, "labels", "is there twice"),
        ({"labels": ["a-b", "a.b"], "schema": "canonical"}, "labels", "is there twice"),
        ({"max_push_bytes": "much"}, "max_push_bytes", "is not a size"),
        ({"max_line_bytes": "long"}, "max_line_bytes", "is not a size"),
    ],
)
def test_settings_that_are_wrong(settings, path, words):
    with pytest.raises(ConfigError, match=words) as raised:
        build(**{"url": "http://x", **settings})
    assert raised.value.path == f"loki.{path}"


async def test_nothing_happens_before_it_is_entered_and_nobody_need_be_there():
    sink = build("http://127.0.0.1:1")
    assert sink.columns() >= {"src_addr", "bytes", "end_ns", "received_ns", "direction"}
    async with sink:
        with pytest.raises(Retry, match=r"cannot post to 127\.0\.0\.1:1"):
            await sink.write(rows(1))


def test_canonical_needs_every_column():
    assert build(schema="canonical").columns() is None


def test_json_is_what_loki_documents():
    sink = build(format="json")
    batch = rows(1)
    body = sink._body(sink._rows(*in_order(batch, 0)), 0, 1)
    (stream,) = json.loads(body)["streams"]
    assert stream["stream"] == {**APP, "FlowDirection": "0"}
    ((time_ns, line),) = stream["values"]
    assert time_ns == str(START)
    assert json.loads(line)["Bytes"] == 1
