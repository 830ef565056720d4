"""The way to the collector: UDP, and for IPFIX also TCP and TLS (RFC 7011, section 10)."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import numpy as np

from flowagent.errors import ConfigError
from flowagent.generate.sendmmsg import Outcome, Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowagent.generate.ring import Ring
    from flowagent.generate.settings import Settings

_CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 2.0


@contextlib.contextmanager
def connected(settings: Settings, source: str | None = None) -> Iterator[socket.socket]:
    """A socket that is connected to the target, from the address `source` if one is named.

    Raises ConfigError where that cannot be, also for a connection that breaks later.
    """
    host, port = settings.address()
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=_kind(settings))[0]
        sock = socket.socket(family, kind, protocol)
        with contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if source is not None:
                sock.bind((source, 0))
            if kind == socket.SOCK_STREAM:
                sock.settimeout(_CONNECT_SECONDS)
            sock.connect(address)
            if settings.transport == "tls":
                sock = _context(settings).wrap_socket(sock, server_hostname=host)
            sock.settimeout(None)
            stack.pop_all()
    except OSError as error:  # SSLError is one
        problem = f"{settings.target!r} cannot be used ({error}); name a host that can be reached"
        raise ConfigError("target", problem) from error
    with sock:
        try:
            yield sock
        except (ConnectionError, ssl.SSLError) as error:
            raise ConfigError("target", f"{settings.target} closed the connection ({error})") from error
        if kind == socket.SOCK_STREAM:
            _finish(sock)


def _kind(settings: Settings) -> socket.SocketKind:
    return socket.SOCK_DGRAM if settings.transport == "udp" else socket.SOCK_STREAM


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except OSError as error:
        raise ConfigError(
            "tls", f"cannot use the certificates: {error.strerror or error}; name files of PEM"
        ) from error
    return context


def _finish(sock: socket.socket) -> None:
    """Wait until the other side has read everything: who closes with something unread breaks the connection off."""
    with contextlib.suppress(OSError, ValueError):
        sock.settimeout(_CLOSE_SECONDS)
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap().close()
        else:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


class Sending:
    """Sends rows of these rings, as datagrams or into a stream."""

    def __init__(self, settings: Settings, *rings: Ring) -> None:
        self._senders = {ring: Sender(ring.data, ring.length) for ring in rings} if settings.transport == "udp" else {}

    def send(self, sock: socket.socket, ring: Ring, rows: slice) -> Outcome:
        """Send these rows; a stream makes this wait until the other side takes them."""
        if ring in self._senders:
            return self._senders[ring].send(sock, rows)
        length = ring.length[rows]
        used = np.arange(ring.data.shape[1]) < length[:, None]
        sock.sendall(ring.data[rows][used].tobytes())
        return Outcome([], 0)
