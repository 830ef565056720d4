"""Listening sockets: of IPv4 and IPv6 alike, and none is left open where one fails."""

import socket

import pytest

from flowagent.listeners import open_listeners


def answers(host, port):
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True


def addresses_of(host):
    opened = open_listeners(host, 0)
    try:
        return [(s.family, s.getsockname()[0], s.getsockname()[1]) for s in opened], [
            (answers("127.0.0.1", s.getsockname()[1]), answers("::1", s.getsockname()[1])) for s in opened
        ]
    finally:
        for sock in opened:
            sock.close()


def test_any_address_takes_ipv4_and_ipv6():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    (found,), (answered,) = addresses_of("::")
    assert found[:2] == (socket.AF_INET6, "::")
    assert answered == (True, True)


def test_where_there_is_no_ipv6_any_address_is_ipv4(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    (found,), (answered,) = addresses_of("::")
    assert found[0] == socket.AF_INET
    assert answered[0]


def test_one_address_is_that_one_only():
    (found,), (answered,) = addresses_of("127.0.0.1")
    assert found[:2] == (socket.AF_INET, "127.0.0.1")
    assert answered == (True, False)


def test_a_name_is_all_its_addresses(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    opened = open_listeners("collector.example", 0)
    assert [s.getsockname()[0] for s in opened] == ["127.0.0.1", "127.0.0.2"]
    for sock in opened:
        sock.close()


def test_nothing_stays_open_where_one_address_fails(monkeypatch):
    made = []
    create = socket.create_server

    def create_server(address, **options):
        if address[0] == "127.0.0.2":
            raise OSError(98, "taken (while attempting to bind on address)")
        made.append(create(address, **options))
        return made[-1]

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_server", create_server)
    with pytest.raises(OSError, match=r"Address already in use$"):
        open_listeners("collector.example", 0)
    assert [s.fileno() for s in made] == [-1]
