"""The client of the HTTP API: what it sends, and that each failure says what to do."""

import socket
import ssl
import threading

import pytest
from pretended_agent import PretendedAgent, query

from flowagent import client as module
from flowagent.client import Access, Client, Unanswered
from flowagent.errors import ConfigError


@pytest.fixture
def agent():
    with PretendedAgent() as made:
        yield made


async def ask(url, path="/api/v1/query", **access):
    async with Client(Access(url, **access)) as client:
        return await client.json(path)


async def refused(url, path="/api/v1/query", **access):
    with pytest.raises(Unanswered) as told:
        await ask(url, path, **access)
    return told.value


async def test_an_answer(agent):
    assert await ask(agent.url + "/") == query()
    assert "Authorization" not in agent.asked[0][2]


async def test_the_token_is_read_anew_each_time(agent, tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    async with Client(Access(agent.url, file)) as client:
        await client.get("/api/v1/status")
        file.write_text("second")
        await client.get("/api/v1/status")
    assert [headers["Authorization"] for _, _, headers in agent.asked] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(("text", "said"), [("", "holds no token"), ("a\nb", "holds no token"), ("ä", "not ASCII")])
async def test_a_token_that_is_none(agent, tmp_path, text, said):
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"--token-file: .*{said}"):
        await ask(agent.url, token_file=file)
    assert agent.asked == []


async def test_a_token_file_that_is_not_there(agent, tmp_path):
    with pytest.raises(ConfigError, match="--token-file: cannot read"):
        await ask(agent.url, token_file=tmp_path / "none")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8077", "ftp://x", "http://", "http://u:p@x", "http://x:99999", "http://[x"]
)
def test_a_url_that_is_none(url):
    with pytest.raises(ConfigError, match=r"--url: .*write http://host:port"):
        Access(url)


async def test_nobody_is_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = await refused(f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "Connection refused" in str(told)
    assert "start it with `flowagent run`" in str(told)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {"error": "no"}), "name the file that holds it with --token-file"),
        ((404, {"error": "no such path"}), "no flowagent is there, an older one, or no history"),
        ((404, b"<html>"), "no flowagent is there"),
        ((500, b"oops"), "status 500; is a flowagent there?"),
        ((302, b""), "status 302"),
        (b"not JSON", "answers no JSON"),
    ],
)
async def test_refusals_say_what_to_do(agent, answer, said):
    agent.answers["/api/v1/query"] = answer
    assert said in str(await refused(agent.url))


async def test_a_wrong_question_is_told_with_its_place(agent):
    agent.answers["/api/v1/query"] = 400, {"error": "there is no column x", "path": "filter", "position": 3}
    told = await refused(agent.url)
    assert (str(told), told.path, told.position) == ("there is no column x", "filter", 3)


async def test_another_program(agent):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk():
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        assert "is a flowagent there?" in str(await refused(f"http://127.0.0.1:{server.getsockname()[1]}"))
        thread.join()


async def test_an_endless_answer_is_not_read_to_its_end(agent, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BODY", 1 << 16)
    agent.answers["/api/v1/query"] = b"x" * (1 << 20)
    assert "ask for less" in str(await refused(agent.url))


async def test_plain_http_asked_for_tls(agent):
    told = str(await refused(agent.url.replace("http", "https")))
    assert "TLS" in told or "ends the connection" in told


def test_a_ca_that_cannot_be_used(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    for path in (file, tmp_path / "none"):
        with pytest.raises(ConfigError, match="--ca: cannot use"):
            Client(Access("https://x", ca=path))


def test_certificates_are_checked():
    context = Access("https://x").tls()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_an_answer_that_is_nested_too_deeply(agent):
    agent.answers["/api/v1/query"] = b"[" * 100_000
    assert "no JSON" in str(await refused(agent.url))


@pytest.mark.parametrize("status", [400, 404])
async def test_an_error_steers_no_terminal(agent, status):
    agent.answers["/api/v1/query"] = (status, {"error": "wrong\x1b]0;x\x07\n  ^", "path": "f\x1b"})
    told = await refused(agent.url)
    assert (str(told) + told.path).replace("\n", "").isprintable()
    assert "wrong" in str(told)
