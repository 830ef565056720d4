"""Sockets that wait for TCP connections."""

from __future__ import annotations

import socket


def open_listeners(host: str, port: int, backlog: int = 128) -> list[socket.socket]:
    """Listening sockets for a host: one, or one for each address that its name stands for; `::` takes IPv4, too.

    Raises OSError, and then nothing is open.
    """
    if host == "::":
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        address = (host if family == socket.AF_INET6 else "", port)
        dual = family == socket.AF_INET6
        return [socket.create_server(address, family=family, dualstack_ipv6=dual, backlog=backlog)]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            opened.append(socket.create_server(where[:2], family=family, backlog=backlog))
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened
