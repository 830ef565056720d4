"""The TCP source with TLS: whom it lets in, and handshakes that come to nothing."""

import asyncio
import socket
import ssl
import subprocess

import pytest
from tcp_exporter import (
    HOST,
    connected,
    data_set,
    is_closed,
    message,
    octets,
    refused,
    running,
    samples,
    template,
    until,
)

from flowagent.component import Context
from flowagent.ingest.tcp import Config, ServerTls

pytestmark = pytest.mark.service("openssl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Make certificates for a name, signed by themselves: files of certificate and key."""
    directory = tmp_path_factory.mktemp("tls")

    def make(name):
        cert, key = directory / f"{name}.pem", directory / f"{name}.key"
        if not cert.exists():
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                 "-days", "1", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
                 "-keyout", key, "-out", cert],
                check=True,
                capture_output=True,
            )  # fmt: skip
        return str(cert), str(key)

    return make


def server_tls(pair, client_ca=None):
    cert, key = pair("collector.example")
    return ServerTls(cert=cert, key=key, client_ca=client_ca)


def as_client(pair, name=None):
    context = ssl.create_default_context(cafile=pair("collector.example")[0])
    if name is not None:
        context.load_cert_chain(*pair(name))
    return {"ssl": context, "server_hostname": "collector.example"}


async def test_tls(pair):
    async with running(tls=server_tls(pair)) as (source, delivered, ctx):
        async with connected(source, **as_client(pair)) as (_, writer):
            writer.write(message(template(), data_set(1)))
            await until(lambda: octets(delivered) == [1])
            many = b"".join(message(data_set(*[2] * 900), sequence=1 + 900 * n) for n in range(200))
            writer.write(many)
            await until(lambda: len(octets(delivered)) == 1 + 900 * 200)
            writer.close()
            await writer.wait_closed()
        await until(lambda: samples(ctx, "connections")["tcp",] == 0)
        assert refused(ctx) == {}
        assert not samples(ctx, "errors")


async def test_clients_must_be_of_the_ca(pair):
    tls = server_tls(pair, client_ca=pair("exporter.example")[0])
    async with running(tls=tls) as (source, delivered, ctx):
        async with connected(source, **as_client(pair, "exporter.example")) as (_, writer):
            writer.write(message(template(), data_set(1)))
            await until(lambda: octets(delivered) == [1])
        for name in ("stranger.example", None):
            try:
                async with connected(source, **as_client(pair, name)) as (reader, writer):
                    writer.write(message(template(), data_set(2)))
                    assert await reader.read() == b""
            except OSError:
                pass  # TLS 1.3: the client learns of it when it reads
        await until(lambda: refused(ctx) == {"certificate": 2})
    assert octets(delivered) == [1]


async def test_who_does_not_speak_tls_is_refused(pair):
    async with running(tls=server_tls(pair), handshake_timeout="200ms") as (source, delivered, ctx):
        async with connected(source) as (reader, writer), connected(source) as (silent, _):
            writer.write(message(template(), data_set(2)))
            assert await is_closed(reader)
            assert await is_closed(silent)
        assert refused(ctx) == {"handshake": 1, "handshake_timeout": 1}
        async with connected(source, **as_client(pair)) as (_, writer):
            writer.write(message(template(), data_set(1)))
            await until(lambda: octets(delivered) == [1])


async def test_handshakes_are_connections(pair):
    async with running(tls=server_tls(pair), max_connections=2) as (source, _, ctx):
        async with connected(source), connected(source), connected(source) as (reader, _):
            assert await is_closed(reader)
        assert refused(ctx)["too_many"] == 1


@pytest.mark.parametrize("state", ["silent", "in a handshake", "inside a message"])
async def test_open_connections_do_not_hold_up_the_end(pair, state):
    tls = {"tls": server_tls(pair)} if state == "in a handshake" else {}
    async with asyncio.timeout(5), running(**tls) as (source, _, _), connected(source) as (_, writer):
        if state == "inside a message":
            writer.write(message(template())[:20])
        await until(lambda: source._connections)


async def test_who_sends_too_fast_waits(pair):
    source = Config(listen=f"{HOST}:0", buffer=8192, tls=server_tls(pair)).build(Context("tcp"))
    delivered = []
    async with source, connected(source, **as_client(pair)) as (_, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        writer.write(message(template()))
        sent = 0
        while sent < 30_000_000:
            writer.write(message(data_set(*[1] * 1000)) * 10)
            sent += 10_000 * 21
            try:
                async with asyncio.timeout(0.3):
                    await writer.drain()
            except TimeoutError:
                break
        assert sent < 30_000_000
        (connection,) = source._connections.values()
        assert len(connection._reader._buffer) + source._size < 600_000
        task = asyncio.get_running_loop().create_task(source.run(delivered.append))
        await until(lambda: sum(map(len, delivered)) == sent // 21, 20)
        task.cancel()
        await asyncio.wait([task])
