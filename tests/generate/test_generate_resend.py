"""Captured datagrams sent again: all of them, from one place for each sender, at the pace that is asked for."""

import socket
import threading

import pytest

from flowagent.clock import SystemClock
from flowagent.errors import ConfigError
from flowagent.generate import Captured, Resender, Settings, resend

IPFIX = b"\0\x0a\0\x10" + bytes(12)


@pytest.fixture
def collector():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2)
        yield sock


def resender(sock, wait=lambda _: None, **settings):
    host, port = sock.getsockname()
    return Resender(Settings(target=f"{host}:{port}", **settings), SystemClock(), wait)


def captured(*payloads, sender=(0, 1, 4000), at_ns=0):
    return [Captured(sender, at_ns + i, payload) for i, payload in enumerate(payloads)]


def test_payloads_arrive_in_their_order(collector):
    payloads = [bytes([i]) * (i + 1) for i in range(100)]
    resent = resender(collector).send(captured(*payloads))
    assert [collector.recv(2000) for _ in payloads] == payloads
    assert (resent.datagrams, resent.payload, resent.senders, resent.errors) == (100, sum(map(len, payloads)), 1, 0)


def test_senders_stay_apart(collector):
    a, b, c = (0, 1, 4000), (0, 1, 4001), (0, 2, 4000)
    order = [a, b, c, a, b, c]
    resender(collector).send([Captured(s, 0, b"x") for s in order])
    came = [collector.recvfrom(100)[1] for _ in order]
    assert came[:3] == came[3:]
    assert len(set(came)) == 3
    assert came[0][0] == came[1][0] == "127.1.0.1"
    assert came[2][0] == "127.1.0.2"


def test_sockets_are_bounded(collector, monkeypatch):
    monkeypatch.setattr(resend, "MAX_SENDERS", 2)
    one = resender(collector)
    closed = []
    resent = one.send(Captured((0, n % 5, 1), 0, b"x") for n in range(20) if closed.append(len(one._open)) is None)
    assert max(closed) == 2
    assert (resent.datagrams, resent.senders) == (20, 5)
    assert not one._open


def test_it_waits_for_the_time_of_each(collector):
    asked = []
    resender(collector, asked.append).send(captured(b"a", b"b", b"c", at_ns=7))
    assert asked == [7, 8, 9]


def test_it_ends_after_so_long(collector):
    def endless():
        while True:
            yield from captured(b"x")

    assert resender(collector).send(endless(), duration=0.05).seconds < 2


def test_nobody_listens_is_counted(collector):
    one = resender(collector)
    collector.close()
    resent = one.send(captured(*[b"x"] * 10))
    assert resent.errors > 0
    assert resent.datagrams + resent.errors == 10


def test_over_tcp_go_ipfix_messages_only():
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take():
            peer, _ = server.accept()
            with peer:
                while data := peer.recv(65536):
                    came.append(data)

        thread = threading.Thread(target=take)
        thread.start()
        resent = resender(server, transport="tcp").send(captured(IPFIX, b"\0\x05" + bytes(30), IPFIX))
        thread.join(5)
    assert b"".join(came) == IPFIX * 2
    assert (resent.datagrams, resent.left_out) == (2, 1)


def test_a_collector_that_hangs_up():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ConfigError, match="closed the connection"):
            resender(server, transport="tcp").send(captured(*[IPFIX * 1000] * 1000))
        thread.join(5)
