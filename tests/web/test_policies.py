"""The API of policies, on a real agent whose clock is turned by hand."""

import json
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
import datasketches as ds
import numpy as np
import pytest
from web import described
from yarl import URL

from flowagent.addresses import address_text
from flowagent.agent import Agent
from flowagent.batch import Batch
from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.config import parse
from flowagent.pipeline import MAX_ADDED
from flowagent.sections import Http
from flowagent.web.answers import Problem
from flowagent.web.policies import PATH, ages
from flowagent.web.server import MAX_BODY, Server

ONE = {"name": "web", "filter": "dst_port == 443", "top": [{"of": "src_addr"}], "every": "10s"}


class Store:
    """An agent that does not run, its server, and who asks it."""

    def __init__(self, analyse):
        self.clock = ManualClock(1000 * SECOND)
        raw = {"ingest": [{"type": "udp", "listen": "127.0.0.1:0"}], "analyse": analyse}
        self.agent = Agent(parse(raw, {}), Context("flowagent", clock=self.clock))
        self.session = None

    async def ask(self, method, path="", body=None, **headers):
        """(status, headers, body); plain data where that is JSON, which is as described. A text goes as it is."""
        data = body if isinstance(body, str | bytes | None) else json.dumps(body)
        headers = {"Content-Type": "application/json"} | headers
        async with self.session.request(method, PATH + path, data=data, headers=headers) as response:
            content = await response.read()
            content_type = response.headers.get("Content-Type", "")
            if content_type == "application/json; charset=utf-8" and content:
                content = json.loads(content, parse_constant=pytest.fail)
            if method != "OPTIONS":
                described.check(method, response.url.raw_path, response.status, content_type, content)
            return response.status, response.headers, content

    async def get(self, path=""):
        return (await self.ask("GET", path))[::2]

    async def post(self, body):
        return (await self.ask("POST", body=body))[::2]

    def feed(self, batch):
        """Records come in, of all policies."""
        for policy in self.agent.policies().values():
            policy.process(batch, batch, self.clock.now_ns())

    def later(self, seconds):
        self.clock.advance(seconds)
        for policy in self.agent.policies().values():
            policy.tick(self.clock.now_ns())


@asynccontextmanager
async def store(*analyse, **http):
    it = Store(list(analyse))
    async with (
        Server(Http(listen="127.0.0.1:0", **http), it.agent, it.agent.ctx) as server,
        aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as it.session,
    ):
        yield it


def flows(n=100, src=range(7), octets=1000, **columns):
    """Records of n flows from these hosts, in turn."""
    turn = np.arange(n)
    hosts = np.asarray(src, np.uint64)[turn % len(src)]
    low = np.uint64(0xFFFF_0A00_0000) + hosts
    values = {
        "src_addr": np.stack([np.zeros(n, np.uint64), low]),
        "dst_port": np.full(n, 443, np.uint16),
        "proto": np.full(n, 6, np.uint8),
        "bytes": np.full(n, octets, np.uint64),
        "packets": np.full(n, 2, np.uint64),
        "records": np.ones(n, np.uint64),
    }
    return Batch(values | {name: np.full(n, value, values[name].dtype) for name, value in columns.items()})


def host(number):
    return address_text(0, 0xFFFF_0A00_0000 + number)


# Adding, looking, removing


async def test_a_policy_is_added_shown_and_removed():
    async with store() as it:
        assert await it.get() == (200, [])
        status, headers, made = await it.ask("POST", body=ONE)
        assert (status, headers["Location"]) == (201, f"{PATH}/web")
        assert {**ONE, "windows": 0}.items() <= {**made, "top": ONE["top"]}.items()
        assert made["top"] == [{"of": "src_addr", "by": "bytes", "k": 10}]
        assert made["memory_used"] >= 0
        assert made["periods"] == 5
        assert await it.get() == (200, [made])
        assert await it.get("/web") == (200, made)
        status, headers, body = await it.ask("DELETE", "/web")
        assert (status, body) == (204, b"")
        assert "Content-Type" not in headers
        assert await it.get() == (200, [])
        assert (await it.ask("DELETE", "/web"))[::2] == (404, {"error": f"there is no policy 'web'; see {PATH}"})
        assert (await it.get("/web"))[0] == 404
        assert (await it.get("/web/live"))[0] == 404


async def test_the_type_may_be_said_but_no_other():
    async with store() as it:
        assert (await it.post({**ONE, "type": "policy"}))[0] == 201
        status, error = await it.post({"type": "counters", "name": "c"})
    assert (status, error["path"]) == (400, "type")


async def test_policies_of_the_configuration_are_there_too():
    async with store({"type": "policy", **ONE}, {"type": "counters"}) as it:
        assert [policy["name"] for policy in (await it.get())[1]] == ["web"]
        assert (await it.ask("DELETE", "/web"))[0] == 204
        assert (await it.ask("DELETE", "/counters"))[0] == 404
        assert "counters" in it.agent.pipeline.analyses


@pytest.mark.parametrize("name", ["a b", "ä", "50%", "a%2Fb", "?#"])
async def test_names_of_the_configuration_are_quoted_in_paths(name):
    async with store({"type": "policy", **ONE, "name": name}) as it, it.session.get(_quoted(name)) as response:
        assert (await response.json())["name"] == name


def _quoted(name):
    return URL(f"{PATH}/{quote(name, safe='')}", encoded=True)


# What is refused


@pytest.mark.parametrize(
    ("changed", "path", "text"),
    [
        ({"filter": 5}, "filter", "5 is wrong"),
        ({"filtr": "x"}, "filtr", "did you mean filter?"),
        ({"top": [{"of": "src_adr"}]}, "top", "did you mean src_addr?"),
        ({"top": [{"of": "src_addr", "k": 0}]}, "top[0].k", "0 is wrong"),
        ({"top": [{"by": "bytes"}]}, "top[0]", "missing required field"),
        ({"every": "1 fortnight"}, "every", "is not a duration"),
        ({"every": 1e300}, "every", "is out of range"),
        ({"memory": "1kB"}, "memory", "is too little"),
        ({"group_by": ["bytes"]}, "group_by", "is not a key column"),
        ({"name": "a/b"}, "name", "is no name"),
        ({"name": "\ud800"}, "name", "is no name"),
        ({"name": None}, "name", "None is no name"),
        ({"filter": "\ud800"}, "filter", "unexpected character"),
        ({"\ud800": 1}, "", "is not Unicode"),
    ],
)
async def test_wrong_settings_are_refused_with_their_place(changed, path, text):
    async with store() as it:
        status, error = await it.post({**ONE, **changed})
        assert (status, error.get("path", "")) == (400, path)
        assert text in error["error"]
        assert await it.get() == (200, [])


async def test_a_wrong_filter_is_pointed_at():
    async with store() as it:
        status, error = await it.post({**ONE, "filter": "proto == tcp and dst_prot == 443"})
    assert status == 400
    assert (error["path"], error["position"]) == ("filter", 17)
    problem, text, caret = error["error"].splitlines()
    assert "dst_port" in problem
    assert text.index("dst_prot") == caret.index("^")


async def test_a_name_can_be_taken_once():
    async with store({"type": "counters"}) as it:
        assert (await it.post(ONE))[0] == 201
        assert await it.post({**ONE, "every": "20s"}) == (409, {"error": "'web' is taken", "path": "name"})
        assert (await it.post({**ONE, "name": "counters"}))[0] == 409
        assert (await it.get("/web"))[1]["every"] == "10s"


async def test_there_is_a_limit_to_what_is_added():
    async with store() as it:
        for i in range(MAX_ADDED):
            assert (await it.post({"name": f"p{i}"}))[0] == 201
        status, error = await it.post({"name": "more"})
        assert status == 409
        assert str(MAX_ADDED) in error["error"]
        await it.ask("DELETE", "/p7")
        assert (await it.post({"name": "more"}))[0] == 201


async def test_bodies():
    async with store() as it:
        assert (await it.ask("POST", body=json.dumps(ONE), **{"Content-Type": "text/plain"}))[0] == 415
        assert (await it.post({**ONE, "filter": "x" * MAX_BODY}))[0] == 413
        status, error = await it.post('{"name": "web",')
        assert (status, error["position"]) == (400, 15)
        assert (await it.post([ONE]))[0] == 400
        assert (await it.post('{"name": "web", "every": 1e999}'))[1]["path"] == "every"
        assert (await it.post(f'{{"name": "web", "top": {"[" * 700}{"]" * 700}}}'))[0] == 400
        assert await it.get() == (200, [])


@pytest.mark.parametrize(
    ("given", "is_served"),
    [
        ("127.0.0.1", True), ("127.0.0.1:8077", True), ("[::1]:8077", True), ("LOCALHOST:1", True),
        ("192.0.2.7", True), ("evil.example", False), ("127.0.0.1.evil.example", False), ("", False),
        ("localhost.evil.example:8077", False), ("a@127.0.0.1@evil.example", False), ("[::1", False),
    ],
)  # fmt: skip
async def test_side_effects_need_a_host_that_no_other_can_name(given, is_served):
    async with store() as it:
        status, _, body = await it.ask("POST", body=ONE, Host=given)
        assert status == (201 if is_served else 403)
        assert is_served or "Host" in body["error"]
        assert (await it.ask("DELETE", "/web", Host=given))[0] == (204 if is_served else 403)
        assert (await it.ask("GET", Host=given))[0] == (200 if is_served else 403)


async def test_with_a_token_any_host_will_do(tmp_path):
    (tmp_path / "token").write_text("secret")
    async with store(token_file=str(tmp_path / "token")) as it:
        assert (await it.ask("POST", body=ONE, Host="evil.example"))[0] == 401
        right = {"Authorization": "Bearer secret"}
        assert (await it.ask("POST", body=ONE, Host="agent.example", **right))[0] == 201


async def test_methods():
    async with store() as it:
        assert (await it.ask("OPTIONS"))[:2][1]["Allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await it.ask("OPTIONS", "/web"))[1]["Allow"] == "DELETE, GET, HEAD, OPTIONS"
        assert (await it.ask("PUT", "/web", ONE))[0] == 405
        status, headers, body = await it.ask("HEAD")
        assert (status, headers["Content-Length"], body) == (200, "2", b"")
        assert headers["Cache-Control"] == "no-store"


# Windows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("live", (0, 0)), ("0", (0, 0)), ("last", (1, 1)), ("1", (1, 1)), ("07", (7, 7)),
        ("1-5", (1, 5)), ("0-1440", (0, 1440)), ("3-3", (3, 3)),
    ],
)  # fmt: skip
def test_windows_have_names_and_ages(text, expected):
    assert ages(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "5-1", "1-", "1-2-3", "1.5", "live-2", "12345", "\u0661", "1 ", "LIVE"]
)
def test_other_texts_are_no_windows(text):
    with pytest.raises(Problem) as caught:
        ages(text)
    assert caught.value.status == 400


async def test_windows_say_what_came_in_them():
    async with store() as it:
        await it.post({**ONE, "quantiles": ["bytes"], "distinct": ["src_addr"], "rates": ["bytes"]})
        it.feed(flows(70, range(7), 1000))
        it.feed(flows(10, range(7), 1, dst_port=80))
        live = (await it.get("/web/0"))[1]
        assert live == (await it.get("/web/live"))[1]
        assert (live["policy"], live["is_live"]) == ("web", True)
        (group,) = live["groups"]
        assert (group["bytes"], group["packets"], group["records"]) == (70_000, 140, 70)
        assert group["top"][0]["rows"][0] == {"src_addr": host(0), "bytes": 10_000}
        it.later(10)
        assert (await it.get("/web/live"))[1]["groups"][0]["bytes"] == 0
        last = (await it.get("/web/last"))[1]
        assert last == (await it.get("/web/1"))[1]
        assert (last["is_live"], last["seconds"], last["groups"][0]["bytes"]) == (False, 10, 70_000)
        it.feed(flows(3, [1], 5))
        it.later(10)
        both = (await it.get("/web/1-2"))[1]
        assert (both["seconds"], both["groups"][0]["bytes"]) == (20, 70_015)
        assert both["groups"][0]["distinct"][0]["estimate"] == pytest.approx(7, abs=0.1)
        assert (await it.get("/web/0-2"))[1]["groups"][0]["bytes"] == 70_015


async def test_every_measure_of_every_group_is_as_described():
    measures = {
        "top": [{"of": ["src_addr", "dst_port"], "by": "packets", "k": 3}, {"of": "sampling_source"}],
        "distinct": ["src_addr", ["proto", "src_mac"]], "quantiles": ["bytes", "packets"],
        "entropy": [{"of": "src_addr", "by": "records"}], "rates": ["bytes", "records"],
    }  # fmt: skip
    async with store() as it:
        await it.post({"name": "all", **measures, "group_by": ["proto", "src_port"], "max_groups": 2})
        await it.post({"name": "one", **measures})
        assert (await it.get("/all/live"))[1]["groups"] == []
        for proto in (6, 17, 1):
            batch = flows(proto=proto)
            it.feed(batch.with_columns({"received_ns": np.full(len(batch), it.clock.now_ns())}))
        groups = (await it.get("/all/live"))[1]["groups"]
        assert [group["group"] for group in groups] == [
            {"proto": 6, "src_port": None}, {"proto": 17, "src_port": None}, None,
        ]  # fmt: skip
        assert [len(groups[0][name]) for name in ("top", "distinct", "quantiles", "entropy")] == [2, 2, 2, 1]
        assert (await it.get("/one/live"))[1]["groups"][0]["records"] == 300


async def test_windows_that_are_not_there():
    async with store({"type": "policy", **ONE}) as it:
        assert await it.get("/web/live") == (404, {"error": "there is no window yet; the first begins within a second"})
        it.later(0)
        text = "there is no window 1; there are 0, under way; none is finished yet"
        assert await it.get("/web/last") == (404, {"error": text})
        it.later(10)
        it.later(10)
        text = "there is no window 5; there are 0, under way, and 1 to 2, finished"
        assert await it.get("/web/1-5") == (404, {"error": text})
        assert (await it.get("/web/1-2"))[0] == 200
        assert (await it.get("/web/nonsense"))[0] == 400


async def test_an_estimate_of_a_full_sketch_is_a_number_still():
    async with store() as it:
        await it.post({**ONE, "distinct": ["src_addr"]})
        it.agent.policies()["web"]._live.distinct["src_addr",]._flat[:] = 53
        status, result = await it.get("/web/live")
    assert (status, result["groups"][0]["distinct"][0]["estimate"]) == (200, 2**64)  # all the hashes there are


async def test_a_policy_that_breaks_is_an_error_object(caplog):
    async with store() as it:
        await it.post(ONE)
        it.agent.policies()["web"]._live.tables = None
        status, error = await it.get("/web/live")
    assert status == 500
    assert set(error) == {"error"}
    assert "Traceback" in caplog.text


# Sketches


async def test_sketches_are_what_the_library_reads():
    async with store() as it:
        await it.post({**ONE, "distinct": ["src_addr", ["src_addr", "dst_port"]]})
        it.feed(flows(500, range(50), 3))
        it.later(10)
        it.feed(flows(500, range(25, 75), 3))
        status, headers, body = await it.ask("GET", "/web/0-1/sketches/hll?of=src_addr,dst_port")
        assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
        assert ds.hll_sketch.deserialize(body).get_estimate() == pytest.approx(75, rel=0.05)
        _, body = await it.get("/web/last/sketches/frequent?of=src_addr")
        sketch = ds.frequent_strings_sketch.deserialize(body)
        assert sketch.total_weight == 1500
        assert sketch.get_estimate(host(49)) == 30
        assert sketch.get_estimate(host(50)) == 0


async def test_a_group_s_sketch():
    async with store() as it:
        await it.post({**ONE, "group_by": ["proto"], "top": [{"of": "src_addr", "by": "records"}]})
        it.feed(flows(10, [1]))
        it.feed(flows(20, [1, 2], proto=17))
        _, body = await it.get("/web/live/sketches/frequent?of=src_addr&by=records&group=proto%3D17")
    sketch = ds.frequent_strings_sketch.deserialize(body)
    assert [sketch.total_weight, sketch.get_estimate(host(1)), sketch.get_estimate(host(2))] == [20, 10, 10]


@pytest.mark.parametrize(
    ("path", "status", "named", "text"),
    [
        ("/live/sketches/hll", 400, "of", "name the columns"),
        ("/live/sketches/hll?of=dst_addr", 404, "of", "what is: src_addr"),
        ("/live/sketches/hll?of=src_addr&group=x", 404, "group", "no groups"),
        ("/live/sketches/frequent?of=src_addr&by=weight", 404, "of", "what is: src_addr by bytes"),
        ("/live/sketches/theta?of=src_addr", 404, None, "hll, frequent"),
        ("/last/sketches/hll?of=src_addr", 404, None, "there is no window 1"),
        ("/later/sketches/hll?of=src_addr", 400, None, "is no window"),
    ],
)
async def test_sketches_that_are_not_there(path, status, named, text):
    async with store() as it:
        await it.post({**ONE, "distinct": ["src_addr"]})
        answered, error = await it.get(f"/web{path}")
    assert (answered, error.get("path")) == (status, named)
    assert text in error["error"]
