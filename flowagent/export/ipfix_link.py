"""How IPFIX messages reach a collector: UDP or TCP (RFC 7011, section 10)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from flowagent.export.ipfix_message import Message

_TCP_LIMIT = 65_535
_BURST = 20
"""Datagrams that are sent without a pause: the least receive buffers hold some more."""
_CLOSE_SECONDS = 1.0


class Link(Protocol):
    """The way to one collector. Everything raises OSError where it does not work now."""

    limit: int
    """Bytes of a message at most."""
    forgets: bool
    """Whether a collector may lose templates unnoticed, so that they must be sent again now and then."""

    async def open(self) -> bool:
        """Connect where that is not done; whether the collector knows nothing of us yet."""

    async def send(self, messages: Iterable[Message], seconds: int) -> int:
        """Send them, stamped with the export time; returns their bytes."""

    async def close(self) -> None:
        """Hang up."""


class Udp:
    """Datagrams, some at a time with pauses between, as nothing tells when a buffer on the way is full."""

    forgets = True

    def __init__(self, host: str, port: int, limit: int, pace: int) -> None:
        self.limit = limit
        self._where = host, port
        self._pause = _BURST / pace
        self._socket: socket.socket | None = None
        self._sequence = 0

    async def open(self) -> bool:
        if self._socket is not None:
            return False
        loop = asyncio.get_running_loop()
        family, kind, proto, _, address = (await loop.getaddrinfo(*self._where, type=socket.SOCK_DGRAM))[0]
        opened = socket.socket(family, kind, proto)
        try:
            opened.setblocking(False)
            opened.connect(address)
        except BaseException:
            opened.close()
            raise
        self._socket, self._sequence = opened, 0
        return True

    async def send(self, messages: Iterable[Message], seconds: int) -> int:
        assert self._socket is not None
        sent = 0
        for i, message in enumerate(messages, 1):
            message.stamp(seconds, self._sequence)
            await self._send(self._socket, message.data)
            self._sequence += message.records
            sent += len(message.data)
            if i % _BURST == 0:
                await _pause(self._pause)
        # Where nobody listens, the answer to the last datagram may be here by now.
        if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        return sent

    async def _send(self, to: socket.socket, data: memoryview) -> None:
        try:
            to.send(data)
        except BlockingIOError:
            await asyncio.get_running_loop().sock_sendto(to, data, to.getpeername())

    async def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Tcp:
    """A connection; after one that broke, a new one begins from the start."""

    forgets = False
    limit = _TCP_LIMIT

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None) -> None:
        self._where = host, port
        self._tls = tls
        self._server_name = server_name
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._sequence = 0

    async def open(self) -> bool:
        if self._streams is not None and self._streams[0].at_eof():
            await self.close()
        if self._streams is not None:
            return False
        secure = {"ssl": self._tls, "server_hostname": self._server_name, "ssl_shutdown_timeout": _CLOSE_SECONDS}
        self._streams = await asyncio.open_connection(*self._where, **(secure if self._tls else {}))  # type: ignore[arg-type]
        # So that `drain` waits until all is in the kernel's hands.
        self._streams[1].transport.set_write_buffer_limits(high=1 if self._tls else 0, low=0)
        self._sequence = 0
        return True

    async def send(self, messages: Iterable[Message], seconds: int) -> int:
        assert self._streams is not None
        _, writer = self._streams
        sent = 0
        try:
            for message in messages:
                message.stamp(seconds, self._sequence)
                writer.write(message.data)
                await writer.drain()
                self._sequence += message.records
                sent += len(message.data)
        except BaseException:
            # Half a message may be out.
            writer.transport.abort()
            self._streams = None
            raise
        return sent

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _pause(seconds: float) -> None:
    """Part of sending, not of trying again."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()
