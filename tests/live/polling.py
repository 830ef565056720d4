"""Waiting for what other processes do."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], what: str, timeout: float = 15, every: float = 0.02) -> T:
    """What `look` returns as soon as that is true."""
    end = time.perf_counter() + timeout
    while not (found := look()):
        if time.perf_counter() > end:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(every)
    return found


def free_port(kind: socket.SocketKind) -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
