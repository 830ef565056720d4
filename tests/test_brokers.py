"""Brokers of Kafka: settings that are right or wrong, and why a broker cannot be talked to."""

import asyncio
import errno
import socket
import ssl

import msgspec
import pytest
from aiokafka import errors

from flowagent.brokers import Broker, Brokers, describe
from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.export.kafka import Config


def made(**settings):
    return Brokers(msgspec.convert(settings, Config), Context("out"))


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret"
    file.write_text("hidden\n")
    return file


def scram(secret, **more):
    return {"mechanism": "SCRAM-SHA-256", "username": "me", "password_file": str(secret), **more}


def test_where_brokers_are():
    brokers = made(brokers=["kafka-1:9094", "kafka-2", "[2001:db8::1]:9093", "2001:db8::2"])
    assert brokers.all == (("kafka-1", 9094), ("kafka-2", 9092), ("2001:db8::1", 9093), ("2001:db8::2", 9092))
    assert str(brokers) == "kafka-1:9094, kafka-2:9092, [2001:db8::1]:9093, [2001:db8::2]:9092"


@pytest.mark.parametrize("text", ["", ":9092", "kafka:port", "kafka:0", "kafka:65536", "http://kafka:9092"])
def test_what_is_no_broker(text):
    with pytest.raises(ConfigError, match="is not a broker") as raised:
        made(brokers=["kafka", text])
    assert raised.value.path == "out.brokers[1]"


def test_no_broker():
    with pytest.raises(ConfigError, match="is empty"):
        made(brokers=[])


def test_a_connection_without_anything():
    connection = made(client_id="me").connection(2.5)
    assert connection["request_timeout_ms"] == 2500
    assert connection["client_id"] == "me"
    assert connection["security_protocol"] == "PLAINTEXT"


def test_a_connection_with_password_and_tls(secret):
    brokers = made(tls={}, sasl=scram(secret))
    connection = brokers.connection(1)
    assert connection["security_protocol"] == "SASL_SSL"
    assert isinstance(connection["ssl_context"], ssl.SSLContext)
    assert connection["sasl_mechanism"] == "SCRAM-SHA-256"
    assert (connection["sasl_plain_username"], connection["sasl_plain_password"]) == ("me", "hidden")
    secret.write_text("changed")
    assert brokers.connection(1)["sasl_plain_password"] == "changed"
    assert made(sasl=scram(secret)).connection(1)["security_protocol"] == "SASL_PLAINTEXT"
    assert made(tls={}).connection(1)["security_protocol"] == "SSL"


async def test_a_connection_with_a_token(secret):
    connection = made(sasl={"mechanism": "OAUTHBEARER", "token_file": str(secret)}).connection(1)
    secret.write_text("newer")
    assert await connection["sasl_oauth_token_provider"].token() == "newer"


def test_credentials_that_others_could_read(secret):
    plain, there = scram(secret, mechanism="PLAIN"), ["kafka:9092"]
    assert made(brokers=there, sasl=plain).show_credentials
    assert not made(brokers=there, sasl=plain, tls={}).show_credentials
    assert not made(brokers=there, sasl=scram(secret)).show_credentials
    assert not made(brokers=["localhost"], sasl=plain).show_credentials
    assert not made(brokers=there).show_credentials


def test_settings_that_are_wrong(secret, tmp_path):
    lines, missing = tmp_path / "lines", tmp_path / "missing"
    lines.write_text("two\nlines")
    for sasl, path, words in (
        ({"username": "me"}, "password_file", "is missing"),
        ({"password_file": str(secret)}, "username", "is missing"),
        (scram(secret, token_file=str(secret)), "token_file", "has no use with SCRAM-SHA-256"),
        ({"mechanism": "OAUTHBEARER"}, "token_file", "is missing"),
        ({"mechanism": "OAUTHBEARER", "token_file": str(secret), "username": "me"}, "username", "has no use"),
        (scram(missing), "password_file", "No such file"),
        (scram(lines), "password_file", "more than one line"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            made(sasl=sasl)
        assert raised.value.path == f"out.sasl.{path}"
    with pytest.raises(ConfigError) as raised:
        made(tls={"ca": str(missing)})
    assert raised.value.path == "out.tls.ca"
    with pytest.raises(ConfigError) as raised:
        made(tls={"server_name": "kafka"})
    assert raised.value.path == "out.tls.server_name"


@pytest.fixture
async def serve():
    """Servers on the loopback that do with a connection as they are told."""
    servers = []

    async def start(behave):
        servers.append(await asyncio.start_server(behave, "127.0.0.1", 0))
        return f"127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()


async def test_nobody_listens():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        problem = await made(brokers=[f"127.0.0.1:{port}"]).problem(5)
    assert problem == f"cannot connect to 127.0.0.1:{port}: Connection refused"


async def test_somebody_closes_the_connection(serve):
    async def close(reader, writer):
        writer.close()

    place = await serve(close)
    assert await made(brokers=[place]).problem(5) == f"{place} closes the connection; does it expect TLS?"
    assert f"{place} closes the connection; does it speak TLS?" in await made(brokers=[place], tls={}).problem(5)


async def test_somebody_does_not_answer(serve):
    released = asyncio.Event()

    async def wait(reader, writer):
        await released.wait()
        writer.close()

    place = await serve(wait)
    assert await made(brokers=[place]).problem(0.1) == f"{place} does not answer within 0.1 s"
    released.set()


async def test_a_secret_that_is_gone(serve, secret):
    brokers = made(brokers=["127.0.0.1:1"], sasl=scram(secret))
    secret.unlink()
    assert "No such file" in await brokers.problem(1)


async def test_one_broker_is_enough_but_the_others_must_be_there(monkeypatch):
    async def attempt(self, broker, seconds):
        return f"{broker} is away" if "away" in broker.host else None

    monkeypatch.setattr(Brokers, "_try", attempt)
    assert await made(brokers=["away", "here"]).problem(1) is None
    assert await made(brokers=["away", "away-2"]).problem(1) == "away:9092 is away; away-2:9092 is away"
    assert await made(brokers=["here"]).problem(1, [Broker("here", 1)]) is None
    assert "away:1 is away (so" in await made(brokers=["here"]).problem(1, [Broker("away", 1)])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (TimeoutError(), "TimeoutError"),
        (OSError("Multiple exceptions"), "Multiple exceptions"),
        (errors.SaslAuthenticationFailed("wrong"), "wrong"),
        (errors.NotEnoughReplicasError(), "not enough replicas"),
        (errors.KafkaConnectionError(), "KafkaConnectionError"),
        (ssl.SSLError("odd"), "('odd',)"),
    ],
)
def test_errors_in_a_few_words(error, words):
    assert describe(error) == words
