"""What answers and broken connections become, and what is sent beside the body."""

import asyncio
import base64
import socket

import msgspec
import pytest

from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.export.post import REFUSED, TOO_LARGE, TOO_OLD, Basic, Poster, Posting, Refusal, _retry_after

NOW_NS = 784_111_777 * SECOND  # Sun, 06 Nov 1994 08:49:37 GMT
CTX = Context("out", ManualClock(NOW_NS))


async def post(url, body=b"x", path="", judge=lambda *_: None, **settings):
    async with Poster(Posting(url=url, **settings), CTX, path, judge) as poster:
        await poster.post(body, {"Content-Type": "text/plain"})


async def test_a_body_arrives_whole(serve):
    server = await serve()
    body = bytes(range(256)) * 20_000
    await post(f"{server.url}/in?a=b%20c", body)
    (came,) = server.taken
    assert (came.path, came.body) == ("/in?a=b%20c", body)
    assert came.headers["Content-Type"] == "text/plain"
    assert came.headers["User-Agent"].startswith("flowagent/")
    assert "Authorization" not in came.headers


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_success(serve, status):
    await post((await serve(status)).url)


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 405, 407, 408, 425, 429, 500, 502, 503, 504, 599])
async def test_what_may_change_is_tried_again(serve, status):
    with pytest.raises(Retry) as raised:
        await post((await serve((status, "why not", {"Location": "/else"}))).url)
    assert raised.value.after is None
    assert str(status) in str(raised.value) or "/else" in str(raised.value)


@pytest.mark.parametrize("status", [400, 406, 409, 410, 411, 415, 422, 431])
async def test_what_does_not_change_is_refused(serve, status):
    with pytest.raises(Rejected) as raised:
        await post((await serve((status, "bad\n thing", {}))).url)
    assert (raised.value.reason, str(raised.value)) == (REFUSED, f"refused: {status} bad thing")


async def test_too_large_has_a_reason_of_its_own(serve):
    with pytest.raises(Refusal) as raised:
        await post((await serve((413, "", {}))).url)
    assert (raised.value.reason, raised.value.status) == (TOO_LARGE, 413)


async def test_words_of_an_answer_may_say_more(serve):
    with pytest.raises(Refusal) as raised:
        await post(
            (await serve((400, "too old", {}))).url, judge=lambda status, text: TOO_OLD if "old" in text else None
        )
    assert raised.value.reason == TOO_OLD


async def test_wrong_credentials_are_to_be_mended_not_to_cost_rows(serve):
    with pytest.raises(Retry, match=r"answers 401 no; check the credentials"):
        await post((await serve((401, "no", {}))).url)


async def test_a_redirect_is_not_followed(serve):
    server = await serve((302, "", {"Location": "https://elsewhere.example/in"}))
    with pytest.raises(Retry, match=r"redirected to https://elsewhere\.example/in; write that in url"):
        await post(server.url)
    assert server.requests == 1


async def test_the_server_says_when_to_try_again(serve):
    for text, after in (("7", 7), ("Sun, 06 Nov 1994 08:50:37 GMT", 60)):
        with pytest.raises(Retry) as raised:
            await post((await serve((429, "", {"Retry-After": text}))).url)
        assert raised.value.after == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("1", 1), (" 120 ", 120), ("86400", 3600), ("0", None), ("-5", None), ("", None), ("soon", None), ("1.5", None),
        ("9" * 400, None), ("Sun, 06 Nov 1994 08:49:47 GMT", 10), ("Sunday, 06-Nov-94 08:49:47 GMT", 10),
        ("Sun Nov  6 08:49:47 1994", 10), ("Sun, 06 Nov 1994 08:49:36 GMT", None),
        ("Mon, 06 Nov 2034 08:49:37 GMT", 3600),
    ],
)  # fmt: skip
def test_retry_after(text, after):
    assert _retry_after(text, NOW_NS) == after


async def test_nobody_there():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(Retry, match=f"cannot post to 127.0.0.1:{port}"):
        await post(f"http://127.0.0.1:{port}")


async def test_a_name_that_does_not_resolve():
    with pytest.raises(Retry, match="cannot post to nowhere"):
        await post("http://nowhere.invalid")


async def test_a_line_that_is_cut(serve):
    with pytest.raises(Retry, match="cannot post to"):
        await post((await serve("reset")).url)


async def test_no_http():
    async def babble(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        with pytest.raises(Retry, match="cannot post to"):
            await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_who_hangs_can_be_left(serve):
    server = await serve("hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await post(server.url)


async def test_an_early_no_to_a_large_body_is_heard(serve):
    with pytest.raises(Refusal) as raised:
        await post((await serve(max_bytes=1000)).url, b"x" * (1 << 23))
    assert raised.value.reason == TOO_LARGE


async def test_credentials_come_from_files_as_they_are_now(serve, tmp_path):
    server = await serve()
    secret = tmp_path / "secret"
    secret.write_text("pass word\n")
    async with Poster(Posting(url=server.url, token_file=str(secret)), CTX) as poster:
        await poster.post(b"", {})
        secret.write_text("other")
        await poster.post(b"", {})
        secret.unlink()
        with pytest.raises(Retry, match="cannot read"):
            await poster.post(b"", {})
    secret.write_text("pässword")
    await post(server.url, basic=Basic(username="me", password_file=str(secret)))
    sent = [request.headers["Authorization"] for request in server.taken]
    assert sent[:2] == ["Bearer pass word", "Bearer other"]
    assert base64.b64decode(sent[2].removeprefix("Basic ")).decode() == "me:pässword"


async def test_more_headers(serve):
    server = await serve()
    await post(server.url, headers={"X-Scope": "a"})
    assert server.taken[0].headers["X-Scope"] == "a"


def poster(**settings):
    return Poster(Posting(**{"url": "http://x", **settings}), CTX)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"url": ""}, "out.url"),
        ({"url": "loki:3100"}, "out.url"),
        ({"url": "ftp://x/"}, "out.url"),
        ({"url": "http://x:y/"}, "out.url"),
        ({"url": "http://[::1/"}, "out.url"),
        ({"url": "http://me:hunter2@x/"}, "out.url"),
        ({"headers": {"Authorization": "Bearer x"}}, "out.headers.Authorization"),
        ({"headers": {"a b": "x"}}, "out.headers.a b"),
        ({"headers": {"a": "x\r\nb: y"}}, "out.headers.a"),
        ({"token_file": "/nonexistent"}, "out.token_file"),
        ({"tls": {}}, "out.tls"),
        ({"tls": {"ca": "/nonexistent"}, "url": "https://x"}, "out.tls"),
    ],
)
def test_settings_that_are_wrong(settings, path):
    settings = msgspec.convert({"url": "http://x", **settings}, Posting)
    with pytest.raises(ConfigError) as raised:
        Poster(settings, CTX)
    assert raised.value.path.startswith(path)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("content", ["", " \n", "two\nlines", "\0"])
def test_secrets_that_cannot_be(tmp_path, content):
    secret = tmp_path / "secret"
    secret.write_text(content)
    with pytest.raises(ConfigError, match="secret is"):
        poster(token_file=str(secret))


def test_one_kind_of_credentials(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    with pytest.raises(ConfigError, match="together with basic"):
        poster(token_file=str(secret), basic=Basic(username="me", password_file=str(secret)))


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://x", "http://x/a/push"),
        ("http://x/", "http://x/a/push"),
        ("http://x/a/push", "http://x/a/push"),
        ("http://x/insert/a/push?y=1", "http://x/insert/a/push?y=1"),
        ("http://x/insert?y=1", "http://x/insert/a/push?y=1"),
    ],
)
def test_a_path_is_put_behind_a_base(url, whole):
    assert Poster(Posting(url=url), CTX, "/a/push").url == whole


async def test_credentials_without_encryption_are_warned_of(tmp_path, caplog):
    secret = tmp_path / "secret"
    secret.write_text("x")
    for url in ("http://127.0.0.1:1", "https://far.example", "http://far.example"):
        async with poster(url=url, token_file=str(secret)):
            pass
    assert [r.message.split(";")[0] for r in caplog.records] == ["credentials go to far.example unencrypted"]
