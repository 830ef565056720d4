"""The ways to a collector: stamps, pauses between datagrams, and connections that break."""

import asyncio
import socket
import ssl
import time

import pytest
from sent_ipfix import framed, header

from flowagent.export import ipfix_link
from flowagent.export.ipfix_link import Tcp, Udp
from flowagent.export.ipfix_message import Message

HOST = "127.0.0.1"


def messages(*counts, size=100):
    return [Message(memoryview(bytearray(b"\0\x0a" + size.to_bytes(2, "big") + bytes(size - 4))), n) for n in counts]


@pytest.fixture
def collector():
    """A socket that datagrams come to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((HOST, 0))
        sock.settimeout(5)
        yield sock


def udp(collector, **settings):
    return Udp(HOST, collector.getsockname()[1], **{"limit": 1400, "pace": 100_000, **settings})


class Listener:
    """Takes connections, and what comes over them; `most` bytes of each, then hangs up."""

    def __init__(self, most=-1):
        self._most = most
        self.streams = []

    async def start(self):
        self._server = await asyncio.start_server(self._take, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _take(self, reader, writer):
        self.streams.append(b"")
        number = len(self.streams) - 1
        while data := await reader.read(65536 if self._most < 0 else self._most):
            self.streams[number] += data
            if self._most > 0:
                break
        writer.close()

    async def stop(self):
        self._server.close()
        await self._server.wait_closed()


async def until(true):
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - others look, too
            await asyncio.sleep(0.005)


async def test_datagrams_are_stamped_with_the_records_before(collector):
    link = udp(collector)
    assert await link.open()
    assert not await link.open()
    assert await link.send(messages(3, 0, 2), 7) == 300
    assert await link.send(messages(1), 8) == 100
    came = [header(collector.recv(2000)) for _ in range(4)]
    assert [(seconds, sequence) for _, _, seconds, sequence, _ in came] == [(7, 0), (7, 3), (7, 3), (8, 5)]
    await link.close()


async def test_a_new_socket_begins_from_the_start(collector):
    link = udp(collector)
    await link.open()
    await link.send(messages(3), 7)
    await link.close()
    assert await link.open()
    await link.send(messages(3), 7)
    assert [header(collector.recv(2000))[3] for _ in range(2)] == [0, 0]
    await link.close()


async def test_nobody_there_is_noticed_at_once():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
    link = Udp(HOST, port, 1400, 100_000)
    await link.open()
    with pytest.raises(ConnectionRefusedError):
        await link.send(messages(1), 7)
    await link.close()


async def test_datagrams_keep_the_pace(collector):
    link = udp(collector, pace=1000)
    await link.open()
    began = time.perf_counter()
    await link.send(messages(*[1] * 100), 7)
    assert 0.09 <= time.perf_counter() - began < 2
    await link.close()


async def test_a_burst_overflows_no_small_buffer():
    # As large as receivers have it that never asked for more.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.setblocking(False)
        link = udp(sock, pace=10_000)
        await link.open()
        loop = asyncio.get_running_loop()
        came = []
        loop.add_reader(sock, lambda: came.append(sock.recv(2000)))
        await link.send(messages(*[1] * 2000, size=1400), 7)
        await until(lambda: len(came) == 2000)
        loop.remove_reader(sock)
        await link.close()


async def test_a_full_send_buffer_is_waited_for(collector, monkeypatch):
    link = udp(collector)
    await link.open()
    full = iter([True, False, True])

    class Full:
        def __init__(self, sock):
            self._sock = sock

        def send(self, data):
            if next(full):
                raise BlockingIOError
            return self._sock.send(data)

        def __getattr__(self, name):
            return getattr(self._sock, name)

    loop = asyncio.get_running_loop()
    sendto = loop.sock_sendto
    monkeypatch.setattr(loop, "sock_sendto", lambda sock, data, where: sendto(sock._sock, data, where))
    link._socket = Full(link._socket)
    await link.send(messages(1, 1, 1), 7)
    assert [header(collector.recv(2000))[3] for _ in range(3)] == [0, 1, 2]
    await link.close()


async def test_tcp_numbers_begin_anew_with_each_connection():
    listener = await Listener().start()
    link = Tcp(HOST, listener.port, None, None)
    for _ in range(2):
        assert await link.open()
        assert not await link.open()
        assert await link.send(messages(2, 3), 7) == 200
        await link.close()
    await until(lambda: [len(data) for data in listener.streams] == [200, 200])
    assert [[header(m)[3] for m in framed(data)] for data in listener.streams] == [[0, 2], [0, 2]]
    await listener.stop()


async def test_a_connection_that_was_closed_is_made_anew():
    listener = await Listener(most=100).start()
    link = Tcp(HOST, listener.port, None, None)
    await link.open()
    await link.send(messages(1), 7)
    await until(link._streams[0].at_eof)
    assert await link.open()
    await link.close()
    await listener.stop()


async def test_a_connection_that_breaks_is_an_error_and_gone():
    listener = await Listener(most=10).start()
    link = Tcp(HOST, listener.port, None, None)
    await link.open()
    with pytest.raises(OSError):
        await link.send(messages(*[1] * 5000, size=60_000), 7)
    assert await link.open()
    await link.close()
    await listener.stop()


async def test_after_a_write_that_was_given_up_the_connection_is_gone():
    writers = []
    listener = await asyncio.start_server(lambda _, writer: writers.append(writer), HOST, 0)  # reads nothing
    link = Tcp(HOST, listener.sockets[0].getsockname()[1], None, None)
    await link.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await link.send(messages(*[1] * 5000, size=60_000), 7)
    assert link._streams is None
    writers[0].transport.abort()
    listener.close()
    await listener.wait_closed()


async def test_nobody_there_for_tcp(unused_port):
    with pytest.raises(OSError):
        await Tcp(HOST, unused_port, None, None).open()


@pytest.fixture
def unused_port():
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


async def test_tls_is_asked_for(monkeypatch):
    asked = {}

    async def connect(*where, **settings):
        asked.update(settings, where=where)
        raise ConnectionRefusedError

    monkeypatch.setattr(ipfix_link.asyncio, "open_connection", connect)
    context = ssl.create_default_context()
    with pytest.raises(ConnectionRefusedError):
        await Tcp(HOST, 4740, context, "collector.example").open()
    assert asked.pop("ssl_shutdown_timeout") <= 1
    assert asked == {"where": (HOST, 4740), "ssl": context, "server_hostname": "collector.example"}
