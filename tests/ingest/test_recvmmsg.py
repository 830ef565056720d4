"""Receiving many datagrams at a time, with recvmmsg and without."""

import socket
from contextlib import closing, contextmanager

import pytest

from flowagent.addresses import address_text
from flowagent.ingest import recvmmsg
from flowagent.ingest.recvmmsg import Receiver

NOW = 123


@contextmanager
def pair(family=socket.AF_INET, host="127.0.0.1", to=None):
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind((host, 0))
        receiver.setblocking(False)
        to_family = socket.AF_INET if to else family
        with closing(socket.socket(to_family, socket.SOCK_DGRAM)) as sender:
            sender.connect((to or host, receiver.getsockname()[1]))
            yield receiver, sender


@pytest.fixture(params=["recvmmsg", "recvfrom"])
def make(request, monkeypatch):
    """Makes receivers that use one system call or the other."""
    if request.param == "recvfrom":
        monkeypatch.setattr(recvmmsg.ctypes, "CDLL", lambda *_, **__: object())
    return Receiver


def payloads(datagrams):
    return [datagrams.payload(i) for i in range(len(datagrams))]


def test_what_was_sent_comes_in_order_with_its_sender(make):
    with pair() as (receiver, sender):
        sent = [bytes([i]) * (i + 1) for i in range(20)]
        for payload in sent:
            sender.send(payload)
        datagrams = make(64).receive(receiver, NOW)
        assert payloads(datagrams) == sent
        assert {address_text(*words) for words in datagrams.exporter.T.tolist()} == {"127.0.0.1"}
        assert set(datagrams.port.tolist()) == {sender.getsockname()[1]}
        assert set(datagrams.received_ns.tolist()) == {NOW}


def test_an_empty_socket_gives_nothing(make):
    with pair() as (receiver, _):
        assert make(4).receive(receiver, NOW) is None


def test_no_more_than_the_slots_at_once(make):
    with pair() as (receiver, sender):
        for i in range(10):
            sender.send(bytes([i]))
        one = make(4)
        assert [len(one.receive(receiver, NOW)) for _ in range(3)] == [4, 4, 2]
        assert one.receive(receiver, NOW) is None


@pytest.mark.parametrize("size", [0, 1, 9216, 9217, 20_000, 65_507])
def test_datagrams_of_any_size(make, size):
    with pair() as (receiver, sender):
        large = bytes(range(256)) * 256
        sent = [b"before", large[:size], b"after"]
        for payload in sent:
            sender.send(payload)
        assert payloads(make(8).receive(receiver, NOW)) == sent


def test_memory_is_used_again(make):
    with pair() as (receiver, sender):
        one = make(4)
        for size in (9000, 3, 30_000, 5):
            sender.send(b"x" * size)
            assert payloads(one.receive(receiver, NOW)) == [b"x" * size]


@pytest.mark.parametrize(("host", "to", "expected"), [("::1", None, "::1"), ("::", "127.0.0.1", "127.0.0.1")])
def test_ipv6_sockets(make, host, to, expected):
    try:
        with pair(socket.AF_INET6, host, to) as (receiver, sender):
            sender.send(b"hello")
            datagrams = make(4).receive(receiver, NOW)
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    assert payloads(datagrams) == [b"hello"]
    assert address_text(*datagrams.exporter[:, 0].tolist()) == expected


def test_other_errors_are_raised(make):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.close()
    with pytest.raises(OSError, match="descriptor"):
        make(4).receive(receiver, NOW)


def test_a_system_without_recvmmsg(monkeypatch):
    monkeypatch.setattr(recvmmsg.ctypes, "CDLL", lambda *_, **__: object())
    assert Receiver(2)._recvmmsg is None
