"""sendmmsg(2): many datagrams in one system call, straight out of NumPy memory.

Where there is none (only Linux has it), a loop of `send` gives the same result.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from flowagent.batch import Array


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_size_t),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_size_t),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_size_t),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint))


class Outcome(NamedTuple):
    """What became of a call of `send`."""

    refused: list[int]
    """Rows that were not sent, after two attempts."""
    errors: int
    """Attempts that failed."""


class Sender:
    """Sends rows of `data` (n, width) uint8, contiguous, the first `length` (n,) bytes of each."""

    def __init__(self, data: Array, length: Array) -> None:
        self._data, self._length = data, length  # `data` must live as long as the pointers into it
        self._sendmmsg = _find_sendmmsg()
        self._iovecs = np.zeros(len(data), np.dtype(_Iovec))
        self._iovecs["base"] = data.ctypes.data + np.arange(len(data)) * data.strides[0]
        self._iovecs["length"] = length
        self._headers = np.zeros(len(data), np.dtype(_Mmsghdr))
        self._headers["header"]["iov"] = self._iovecs.ctypes.data + np.arange(len(data)) * self._iovecs.itemsize
        self._headers["header"]["iovlen"] = 1

    def send(self, sock: socket.socket, rows: slice) -> Outcome:
        """Send to the peer that the socket is connected to.

        An error such as ECONNREFUSED tells of an earlier datagram and takes the
        place of the present one, so each has a second try. After that it is
        refused itself.
        """
        at, failed_at, errors = rows.start, -1, 0
        refused: list[int] = []
        while at < rows.stop:
            sent = self._send_some(sock, at, rows.stop)
            at += sent
            if sent:
                continue
            errors += 1
            if failed_at == at:
                refused.append(at)
                at += 1
            else:
                failed_at = at
        return Outcome(refused, errors)

    def _send_some(self, sock: socket.socket, start: int, stop: int) -> int:
        """How many were sent; 0: the first of them failed."""
        if self._sendmmsg is not None:
            first = self._headers.ctypes.data + start * self._headers.itemsize
            return max(0, self._sendmmsg(sock.fileno(), first, stop - start, 0))
        for row in range(start, stop):
            try:
                sock.send(self._data[row, : self._length[row]].tobytes())
            except OSError:
                return row - start
        return stop - start


def _find_sendmmsg() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).sendmmsg
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    function.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = function
    return found
