"""The floor that every receiver stands on: take datagrams from the kernel, many at a time, and forget them.

    python -m benchmarks.sink PORT BUFFER

Prints how many came when it is ended by SIGTERM.
"""

import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct
import sys

_SLOTS, _SIZE = 256, 2048
_MSG_WAITFORONE = 0x10000
_SO_RCVBUFFORCE = 33


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int),
    )  # fmt: skip


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint))


def main() -> None:
    port, buffer = map(int, sys.argv[1:])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _grow_buffer(sock, buffer)
        # So that a signal between two calls is seen.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200_000))
        sock.bind(("127.0.0.1", port))
        print(_receive(sock))


def _grow_buffer(sock: socket.socket, size: int) -> None:
    for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, size)
            return


def _receive(sock: socket.socket) -> int:
    """How many datagrams came until SIGTERM."""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    memory = ctypes.create_string_buffer(_SLOTS * _SIZE)
    iovecs, headers = (_Iovec * _SLOTS)(), (_Mmsghdr * _SLOTS)()
    for i in range(_SLOTS):
        iovecs[i].base, iovecs[i].length = ctypes.addressof(memory) + i * _SIZE, _SIZE
        headers[i].header.iov, headers[i].header.iovlen = ctypes.addressof(iovecs[i]), 1
    receive = ctypes.CDLL(None, use_errno=True).recvmmsg
    total, fd = 0, sock.fileno()
    while not ended:
        count = receive(fd, headers, _SLOTS, _MSG_WAITFORONE, None)
        if count > 0:
            total += count
        elif ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return total


if __name__ == "__main__":
    main()
