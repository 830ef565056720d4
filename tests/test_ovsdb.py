"""The OVSDB client against a server that says what a test wants, byte by byte."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.ovsdb import (
    MAX_MESSAGE,
    OvsdbError,
    Splitter,
    as_map,
    connect,
    mapping,
    select,
    unchanged,
    values,
)

texts = st.text(st.sampled_from('ab{}"\\ é\n'), max_size=8)
objects = st.dictionaries(texts, st.recursive(texts | st.integers(), lambda v: st.lists(v, max_size=3)), max_size=4)


@given(st.lists(objects, max_size=4), st.data())
def test_objects_are_cut_wherever_the_stream_is(messages, data):
    stream = b" ".join(json.dumps(m, ensure_ascii=data.draw(st.booleans())).encode() for m in messages)
    splitter, found = Splitter(MAX_MESSAGE), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += map(json.loads, splitter.feed(stream[:size]))
        stream = stream[size:]
    assert found == messages


@pytest.mark.parametrize("data", [b"HTTP/1.1 400", b"}", b"[1]", b'{"a":1}}', b'"{}"'])
def test_what_is_no_object_is_an_error(data):
    with pytest.raises(ValueError, match="no JSON object"):
        list(Splitter(100).feed(data))


def test_the_size_of_a_message_is_bounded():
    splitter = Splitter(10)
    assert list(splitter.feed(b'{"a":1}' * 5)) == [b'{"a":1}'] * 5
    with pytest.raises(ValueError, match="more than 10 bytes"):
        list(splitter.feed(b'{"a":"123456789'))


def test_values_as_the_protocol_writes_them():
    assert values(5) == [5]
    assert values(["set", []]) == []
    assert values(["set", ["a", "b"]]) == ["a", "b"]
    assert values(["uuid", "x"]) == ["x"]
    assert values(["set", [["uuid", "x"], ["uuid", "y"]]]) == ["x", "y"]
    assert mapping(as_map({"b": "2", "a": "1"})) == {"a": "1", "b": "2"}


@contextlib.asynccontextmanager
async def serving(path, *answers, requests=None):
    """A server that answers each message it gets by the next of these bytes; None closes."""

    async def client(reader, writer):
        for answer in answers:
            request = await reader.read(1 << 16)
            if requests is not None:
                requests.append(json.loads(request))
            if answer is None:
                break
            writer.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(client, path):
        yield f"unix:{path}"


def reply(result, number=1, error=None):
    return {"id": number, "result": result, "error": error}


async def test_a_transaction_gives_rows(tmp_path):
    requests = []
    async with (
        serving(tmp_path / "s", reply([{"rows": [{"name": "br0"}]}, {"count": 1}]), requests=requests) as remote,
        connect(remote) as database,
    ):
        assert await database.transact(select("Bridge", "name"), unchanged("Bridge", "u", {"ipfix": 1})) == [
            [{"name": "br0"}],
            {"count": 1},
        ]
    [request] = requests
    assert (request["method"], request["params"][0]) == ("transact", "Open_vSwitch")
    assert request["params"][1] == {"op": "select", "table": "Bridge", "where": [], "columns": ["name"]}
    assert request["params"][2]["timeout"] == 0


async def test_it_says_that_it_is_alive_and_skips_what_it_did_not_ask_for(tmp_path):
    requests, asked = [], {"id": "echo", "method": "echo", "params": [7]}
    update = {"id": None, "method": "update", "params": []}
    first = json.dumps(asked).encode() + json.dumps(update).encode()
    async with (
        serving(tmp_path / "s", first, reply("done"), requests=requests) as remote,
        connect(remote) as database,
    ):
        assert await database.call("anything", []) == "done"
    assert requests[1] == {"id": "echo", "result": [7], "error": None}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (reply([{"error": "constraint violation", "details": "too many"}]), "refuses: constraint violation: too many"),
        (reply([None, {"error": "timed out"}]), "somebody else made a change .* timed out$"),
        (reply(None, error={"error": "unknown database", "details": "x"}), "refuses transact: unknown database: x"),
        (reply(None, error="no"), "refuses transact: no"),
        (None, "closed the connection"),
        (b"SSH-2.0", "does not speak OVSDB"),
        (b"{nonsense}", "does not speak OVSDB"),
    ],
)
async def test_errors_say_what_is_wrong(tmp_path, answer, says):
    async with serving(tmp_path / "s", answer) as remote, connect(remote) as database:
        with pytest.raises(OvsdbError, match=says):
            await database.transact(select("Bridge"))


async def test_a_server_that_never_answers(tmp_path):
    async with serving(tmp_path / "s", b"") as remote, connect(remote, seconds=0.05) as database:
        with pytest.raises(OvsdbError, match=r"does not answer within 0\.05 s"):
            await database.call("echo", [])


async def test_an_answer_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("flowagent.ovsdb.MAX_MESSAGE", 1000)
    async with serving(tmp_path / "s", b'{"id":"' + b"x" * 2000) as remote, connect(remote) as database:
        with pytest.raises(OvsdbError, match="more than 1000 bytes"):
            await database.call("echo", [])


@pytest.mark.parametrize("remote", ["", "unix:", "db.sock", "ssl:127.0.0.1:6640", "tcp:host", "tcp:host:port"])
async def test_remotes_that_are_none(remote):
    with pytest.raises(OvsdbError, match="is no database; write unix:PATH or tcp:HOST:PORT"):
        async with connect(remote):
            pass


async def test_no_socket(tmp_path):
    with pytest.raises(OvsdbError, match="there is no socket"):
        async with connect(f"unix:{tmp_path / 'none'}"):
            pass


async def test_nobody_listens(tmp_path):
    (tmp_path / "s").write_text("")
    with pytest.raises(OvsdbError, match="cannot be reached"):
        async with connect(f"unix:{tmp_path / 's'}"):
            pass


async def test_no_permission(monkeypatch):
    async def refuse(path):
        raise PermissionError(13, "Permission denied")  # root, who runs tests, may open everything

    monkeypatch.setattr("asyncio.open_unix_connection", refuse)
    with pytest.raises(OvsdbError, match="may not be opened by this user"):
        async with connect():
            pass


async def test_over_tcp():
    async def client(reader, writer):
        await reader.read(1 << 16)
        writer.write(json.dumps(reply("done")).encode())
        writer.close()

    async with await asyncio.start_server(client, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"tcp:127.0.0.1:{port}") as database:
            assert await database.call("anything", []) == "done"
