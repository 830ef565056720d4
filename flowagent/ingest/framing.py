"""IPFIX messages cut out of a stream of bytes (RFC 7011, section 10.4: nothing but messages, one after the other)."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEAD = struct.Struct("!HH")
_VERSION = 10
_MIN_LENGTH = 16
"""Bytes of the header; the length is a 16-bit number, so that no message is longer than 65535."""


class Messages(NamedTuple):
    """Whole messages in order: where each begins in `data`, and its bytes."""

    data: bytes
    offset: list[int]
    length: list[int]


class Framer:
    """The bytes of one connection, given as they come in.

    Holds less than one message (64 KiB) besides what was given last. Once
    `fault` says what is wrong, nothing that follows can be understood.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self.fault: str | None = None
        """`unknown_version` or `bad_message_length`."""

    @property
    def partial(self) -> int:
        """Bytes there are of a message that is not whole."""
        return len(self._rest)

    def push(self, data: bytes) -> Messages:
        """The messages that are whole now; those before a fault are among them."""
        rest = self._rest
        rest += data
        offset, length, place = [], [], 0
        while self.fault is None and len(rest) - place >= _HEAD.size:
            version, size = _HEAD.unpack_from(rest, place)
            if version != _VERSION:
                self.fault = "unknown_version"
            elif size < _MIN_LENGTH:
                self.fault = "bad_message_length"
            elif len(rest) - place < size:
                break
            else:
                offset.append(place)
                length.append(size)
                place += size
        whole = bytes(rest[:place])
        if self.fault is None:
            del rest[:place]
        else:
            rest.clear()
        return Messages(whole, offset, length)
