"""Sockets that wait for TCP connections."""

from __future__ import annotations

import os
import socket


def open_listeners(host: str, port: int, backlog: int = 128) -> list[socket.socket]:
    """Listening sockets for a host: one, or one for each address that its name stands for; `::` takes IPv4, too.

    Raises OSError, and then nothing is open.
    """
    if host == "::":
        dual = socket.has_dualstack_ipv6()
        return [_listen((host if dual else "", port), socket.AF_INET6 if dual else socket.AF_INET, backlog, dual=dual)]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            opened.append(_listen((str(where[0]), port), family, backlog))
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened


def _listen(address: tuple[str, int], family: int, backlog: int, *, dual: bool = False) -> socket.socket:
    try:
        return socket.create_server(address, family=family, dualstack_ipv6=dual, backlog=backlog)
    except OSError as error:
        # Its text repeats the address.
        raise OSError(error.errno, os.strerror(error.errno or 0)) from error
