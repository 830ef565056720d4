"""The API of the history: as it is described, refused with reasons, streamed to a bounded number of viewers."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest
from history.flows import SECOND, filled, heavy, window
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import described
from web.test_server import Shown, token_file

from flowagent.component import Context
from flowagent.history.desk import Desk
from flowagent.history.query import PARAMETERS
from flowagent.sections import Http
from flowagent.web import query as module
from flowagent.web.server import Server

ONE = [(1, 2, 6, 100, 1, 1), (2, 443, 17, 50, 1, 1)]


class Remembering(Shown):
    """An agent with a history."""

    def __init__(self, made):
        super().__init__()
        self.made = made
        self._desk = Desk(made)

    @property
    def desk(self):
        return self._desk

    def more(self, number):
        self.made.add(window(ONE), number * 10 * SECOND)
        self.made.seal((number + 1) * 10 * SECOND)


@asynccontextmanager
async def serving(made=None, **config):
    """An agent, and a function that asks it: (status, plain data)."""
    agent = Remembering(made or filled([ONE] * 3))
    server = Server(Http(listen="127.0.0.1:0", **config), agent, Context("http"))
    async with server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

        async def ask(path="query", **parameters):
            parameters = {name.rstrip("_"): value for name, value in parameters.items()}
            async with session.get(f"/api/v1/{path}", params=parameters) as response:
                value = await response.json()
                described.check("GET", f"/api/v1/{path}", response.status, response.content_type, value)
                return response.status, value

        yield agent, session, ask
    agent.desk.stop()


async def events(response, count):
    """The next events of a stream: (name, plain data)."""
    found = []
    while len(found) < count:
        line = await asyncio.wait_for(response.content.readline(), 5)
        assert line, "the stream ended"
        if line.startswith(b"event: "):
            data = await response.content.readline()
            found.append((line[7:].strip().decode(), json.loads(data.removeprefix(b"data: "))))
    return found


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"dimensions": "src_port,dst_port"}, {"dimensions": "proto", "fold": "row", "top": "1", "step": "10s"},
        {"filter": "proto == tcp", "measure": "flows"}, {"from_": "1760000000", "to": "now"},
        {"from_": "0", "to": "15.5"},
    ],
)  # fmt: skip
async def test_answers_are_as_described(parameters):
    async with serving() as (_, _, ask):
        status, answer = await ask(**parameters)
    assert status == 200
    assert sum(row["value"] for row in answer["rows"]) == answer["total"]["value"]


async def test_a_large_answer_is_as_described():
    rng = np.random.default_rng(1)
    async with serving(filled([heavy(rng, 3000)] * 3, rows=500)) as (_, _, ask):
        status, answer = await ask(dimensions="src_port,dst_port,proto", top="1000", step="10s")
    assert (status, answer["exact"]) == (200, False)
    assert answer["rows"][-1]["error"] > 0


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"dimension": "proto"}, "dimension"), ({"dimensions": "vlan"}, "dimensions"),
        ({"filter": "proto ="}, "filter"),
        ({"filter": "x" * 5000}, "filter"), ({"measure": "dropped_bytes"}, "measure"), ({"top": "99999"}, "top"),
        ({"from_": "-1h", "step": "1s"}, "step"), ({"from_": "now"}, "from"), ({"every": "2s"}, "every"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told_with_its_parameter(parameters, path):
    async with serving() as (_, _, ask):
        status, error = await ask(**parameters)
    assert (status, error["path"]) == (400, path)
    assert "position" in error or path != "filter"


async def test_a_filter_of_any_characters_is_read_or_refused_with_a_reason():
    longest = f'proto == "{"€" * 4080}"'
    async with serving() as (_, _, ask):
        status, error = await ask(filter=longest)
    assert (status, error["path"]) == (400, "filter")


async def test_a_parameter_is_given_once():
    async with serving() as (_, session, _), session.get("/api/v1/query?top=1&top=2") as response:
        assert (response.status, await response.json()) == (400, {"error": "is given twice", "path": "top"})


async def test_too_many_questions(monkeypatch):
    monkeypatch.setattr("flowagent.history.desk.MAX_WAITING", 0)
    async with serving() as (_, _, ask):
        assert (await ask())[0] == 503


async def test_columns():
    async with serving() as (_, _, ask):
        status, told = await ask("columns")
    assert status == 200
    assert "src_port" in [one["column"] for one in told["dimensions"]]


async def test_a_stream_answers_at_once_and_when_something_is_new():
    async with serving() as (agent, session, ask):
        async with session.get("/api/v1/stream?dimensions=dst_port&from=0&every=1s") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            (first,) = await events(response, 1)
            agent.more(3)
            (second,) = await events(response, 1)
        _, asked = await ask(dimensions="dst_port", from_="0")
    assert (first[0], first[1]["total"]["value"]) == ("result", 450)
    assert second == ("result", asked)
    described.conforms({"$ref": "#/components/schemas/Answer"}, second[1])


@pytest.mark.parametrize(
    ("parameters", "path"),
    [("every=0.5", "every"), ("every=2m", "every"), ("every=x", "every"), ("measure=x", "measure"), ("x=y", "x")],
)
async def test_a_stream_that_cannot_be(parameters, path):
    async with serving() as (_, session, _), session.get(f"/api/v1/stream?{parameters}") as response:
        assert (response.status, (await response.json())["path"]) == (400, path)


async def test_viewers_are_bounded_and_make_place(monkeypatch):
    monkeypatch.setattr(module, "MAX_STREAMS", 2)
    monkeypatch.setattr(module, "_BEAT", 1)
    async with serving() as (_, session, _):
        open_ones = [await session.get("/api/v1/stream?every=1s") for _ in range(2)]
        async with session.get("/api/v1/stream") as refused:
            assert refused.status == 503
        for response in open_ones:
            response.close()
        for _ in range(50):
            async with session.get("/api/v1/stream?every=1s") as again:
                if again.status == 200:
                    break
            await asyncio.sleep(0.1)
        assert again.status == 200


async def test_equal_viewers_cost_one_answer():
    async with serving() as (agent, session, _):
        responses = [await session.get("/api/v1/stream?every=1s&from=0") for _ in range(20)]
        await asyncio.gather(*(events(response, 1) for response in responses))
        agent.more(3)
        await asyncio.gather(*(events(response, 1) for response in responses))
        (family,) = agent.desk.families()
        for response in responses:
            response.close()
    assert family.samples == {("looked",): 2, ("shared",): 38}


async def test_a_stream_that_cannot_go_on_says_why():
    async with serving() as (agent, session, _), session.get("/api/v1/stream?every=1s&from=0&step=10s") as response:
        await events(response, 1)
        agent.made.seal(90_000 * SECOND)
        ((name, problem),) = await events(response, 1)
        assert (name, problem["path"]) == ("problem", "step")
        assert "at most 2000" in problem["error"]
        assert (await response.content.read()).strip() == b""


async def test_streams_end_with_the_agent():
    agent = Remembering(filled([ONE]))
    async with aiohttp.ClientSession() as session:
        async with Server(Http(listen="127.0.0.1:0"), agent, Context("http")) as server:
            response = await session.get(f"http://127.0.0.1:{server.port}/api/v1/stream?every=60s")
            await events(response, 1)
        # The server did not wait for the viewer.
        assert (await response.content.read()).strip() == b""
    agent.desk.stop()


async def test_what_is_new_while_the_first_answer_is_made_is_shown_too(monkeypatch):
    async with serving() as (agent, session, _):
        look = agent.desk.answer

        async def answer(query):
            body = await look(query)
            if agent.desk.version == before:
                agent.more(3)
            return body

        before = agent.desk.version
        monkeypatch.setattr(agent.desk, "answer", answer)
        async with session.get("/api/v1/stream?every=1s&from=0") as response:
            (_, old), (_, new) = await events(response, 2)
    assert (old["history"]["newest"], new["history"]["newest"]) == (30, 40)


async def test_who_never_reads_holds_no_connection(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    agent = Remembering(filled([ONE]))

    async def answer(_):
        return b" " * (32 << 20)  # more than the system takes for a reader

    monkeypatch.setattr(agent.desk, "answer", answer)
    async with Server(Http(listen="127.0.0.1:0"), agent, Context("http")) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for is_there in (True, False):
            for _ in range(500):
                if bool(server._runner.server.connections) == is_there:
                    break
                await asyncio.sleep(0.01)
            assert bool(server._runner.server.connections) == is_there
        writer.close()
    agent.desk.stop()


async def test_a_stream_needs_the_token(tmp_path):
    async with serving(token_file=token_file(tmp_path)) as (_, session, _):
        assert (await session.get("/api/v1/stream")).status == 401
        async with session.get("/api/v1/stream", headers={"Authorization": "Bearer secret"}) as response:
            assert (await events(response, 1))[0][0] == "result"


text = st.text(max_size=20) | st.sampled_from([
    "-5m", "now", "0", "1e9", "src_port,dst_port", "proto == tcp", "not", "bytes", "row", "10s", "1", "2000", "-1h", "",
])  # fmt: skip
asked = st.dictionaries(st.sampled_from([*PARAMETERS, "every"]) | st.text(max_size=8), text, max_size=5)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(asked, min_size=8, max_size=8))
def test_whatever_is_asked_there_is_an_answer_or_a_reason(questions):
    async def all_of_them():
        async with serving() as (_, session, _):
            for parameters in questions:
                async with session.get("/api/v1/query", params=parameters) as response:
                    assert response.status in (200, 400)
                    value = await response.json()
                    described.check("GET", "/api/v1/query", response.status, response.content_type, value)

    asyncio.run(all_of_them())
