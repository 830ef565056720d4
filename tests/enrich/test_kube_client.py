"""What answers, refusals and broken lines become."""

import asyncio
import contextlib
import json
import ssl

import pytest
from aiohttp import web
from test_kube_config import certificate, find, plugin, write

from flowagent.component import Context
from flowagent.enrich import kube_client
from flowagent.enrich.kube_client import ApiError, Client

__all__ = ["certificate"]


@contextlib.asynccontextmanager
async def answering(handle, tls=None):
    """A server that answers everything so; its URL."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def client(tmp_path, url, user=None, **cluster):
    return Client(find(write(tmp_path / "c", {"server": url, **cluster}, user)), Context("k"))


async def lines_of(body, tmp_path):
    """What arrives of a watch that is answered with these chunks."""

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in body:
            if chunk is None:
                request.transport.close()
                break
            await response.write(chunk)
            await asyncio.sleep(0.005)
        return response

    found = []
    async with answering(answer) as url, client(tmp_path, url) as asking:
        try:
            async with contextlib.aclosing(asking.lines("pods", "/x", {}, 5)) as lines:
                async for line in lines:
                    found.append(line)  # noqa: PERF401 - what came before it broke counts
        except ApiError as error:
            found.append(error.code)
        return found, dict(asking.requests)


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"one\ntwo\n"], [b"one", b"two"]),
        ([b"o", b"n", b"e\ntw", b"o\n"], [b"one", b"two"]),
        ([b"one\n\n\ntwo\n", b"thr"], [b"one", b"two"]),
        ([b"one", b"\n", b"\n"], [b"one"]),
        ([], []),
    ],
)
async def test_lines_come_whole_however_they_are_cut(chunks, lines, tmp_path):
    assert await lines_of(chunks, tmp_path) == (lines, {("pods", "watch", "200"): 1})


async def test_a_line_that_broke_off_is_no_line(tmp_path):
    found, requests = await lines_of([b"one\ntw", None], tmp_path)
    assert found == [b"one", 0]
    assert requests == {("pods", "watch", "200"): 1}


async def test_a_line_without_an_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(kube_client, "_MAX_LINE", 1000)
    assert (await lines_of([b"x" * 600, b"x" * 600], tmp_path))[0] == [200]


async def test_a_silent_watch_is_taken_for_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(kube_client, "IDLE_SECONDS", 0.05)
    over = asyncio.Event()

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await over.wait()
        return response

    async with answering(answer) as url, client(tmp_path, url) as asking:
        with pytest.raises(ApiError):
            await anext(asking.lines("pods", "/x", {}, 5))
        over.set()


async def test_a_refusal_says_why(tmp_path):
    async def answer(_):
        body = {"kind": "Status", "message": "pods is forbidden", "code": 403}
        return web.json_response(body, status=403, headers={"Retry-After": "7"})

    async with answering(answer) as url, client(tmp_path, url) as asking:
        with pytest.raises(ApiError, match="/x: 403 pods is forbidden") as raised:
            await asking.get("pods", "list", "/x")
        assert (raised.value.code, raised.value.after) == (403, 7.0)
        assert asking.requests == {("pods", "list", "403"): 1}


@pytest.mark.parametrize("status", [302, 404, 410, 500])
async def test_other_answers_are_errors_and_nothing_is_followed(tmp_path, status):
    async def answer(_):
        return web.Response(status=status, body=b"\xff\n" * 500, headers={"Location": "/y", "Retry-After": "-1"})

    async with answering(answer) as url, client(tmp_path, url) as asking:
        with pytest.raises(ApiError) as raised:
            await asking.get("pods", "list", "/x")
        assert (raised.value.code, raised.value.after) == (status, None)


async def test_an_answer_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(kube_client, "_MAX_BODY", 1 << 20)

    async def answer(_):
        return web.Response(body=b"x" * (2 << 20))

    async with answering(answer) as url, client(tmp_path, url) as asking:
        with pytest.raises(ApiError, match="more than 1 MiB"):
            await asking.get("pods", "list", "/x")


async def test_nobody_there(tmp_path):
    async with client(tmp_path, "http://127.0.0.1:1") as asking:
        with pytest.raises(ApiError) as raised:
            await asking.get("pods", "list", "/x")
        assert raised.value.code == 0
        assert asking.requests == {("pods", "list", "error"): 1}


async def who(request):
    return web.json_response(request.headers.get("Authorization"))


async def test_tokens_are_read_anew_and_plugins_run_when_theirs_ends(tmp_path):
    token = tmp_path / "token"
    token.write_text("one")
    async with answering(who) as url:
        async with client(tmp_path, url, {"tokenFile": str(token)}) as asking:
            assert json.loads((await asking.get("k", "get", "/")).body) == "Bearer one"
            token.write_text("two")
            assert json.loads((await asking.get("k", "get", "/")).body) == "Bearer two"
            token.unlink()
            with pytest.raises(ApiError, match="token"):
                await asking.get("k", "get", "/")
        async with client(tmp_path, url) as asking:
            assert json.loads((await asking.get("k", "get", "/")).body) is None
        count = tmp_path / "count"
        script = f"""echo x >> {count}; echo '{{"status": {{"token": "p"}}}}'"""
        access = plugin(tmp_path, script)
        access = access._replace(cluster=kube_config_cluster(url))
        async with Client(access, Context("k")) as asking:
            for _ in range(3):
                assert json.loads((await asking.get("k", "get", "/")).body) == "Bearer p"
        assert count.read_text() == "x\n"


def kube_config_cluster(url):
    from flowagent.enrich.kube_config import _Cluster

    return _Cluster(url)


async def test_tls_with_a_ca_that_may_change(tmp_path, certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert", certificate / "key")
    ca = tmp_path / "ca"
    ca.write_bytes((certificate / "cert").read_bytes())
    async with answering(who, tls) as url, client(tmp_path, url, **{"certificate-authority": str(ca)}) as asking:
        assert (await asking.get("k", "get", "/")).code == 200
        ca.write_text("nothing")
        with pytest.raises(ApiError):
            await asking.get("k", "get", "/")
        ca.write_bytes((certificate / "cert").read_bytes())
        assert (await asking.get("k", "get", "/")).code == 200
    async with answering(who, tls) as url, client(tmp_path, url) as asking:
        with pytest.raises(ApiError, match="certificate"):
            await asking.get("k", "get", "/")
