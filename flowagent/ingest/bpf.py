"""Filters that the kernel runs for a socket (classic BPF): a rule of tcpdump, a sample, a length to capture.

libpcap compiles the rule; it is loaded where a rule is given only.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Any

_LIBRARIES = ("libpcap.so.1", "libpcap.so.0.8", "libpcap.so")
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_WORD, _MODULO, _JUMP_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56
"""Where the kernel keeps a random number for filters (SKF_AD_OFF + SKF_AD_RANDOM)."""
_LIBPCAP_LINKS = {101: 12}
"""Link types that have another number in libpcap than in files: raw IP."""
_ANY_NETMASK = 0xFFFFFFFF


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _SocketProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def program(rule: str, *, link: int, snaplen: int, one_in: int = 1) -> bytes:
    """Instructions that let the first `snaplen` bytes pass of one packet in so many, at random, that match a rule.

    The rule is one of tcpdump, for packets of this link type (by the numbers of pcap files); empty for all.
    Raises ValueError for a wrong rule, ImportError where there is no libpcap to compile it.
    """
    matching = _compile(rule, link, snaplen) if rule else _instructions([(_RETURN, 0, 0, snaplen)])
    if one_in == 1:
        return matching
    return _instructions([
        (_LOAD_WORD, 0, 0, _RANDOM), (_MODULO, 0, 0, one_in), (_JUMP_EQUAL, 1, 0, 0), (_RETURN, 0, 0, 0),
    ]) + matching  # fmt: skip


def attachable(instructions: bytes) -> tuple[bytes, Any]:
    """The value of SO_ATTACH_FILTER, and the memory that it points to."""
    memory = ctypes.create_string_buffer(instructions, len(instructions))
    length = len(instructions) // _INSTRUCTION.size
    return bytes(_SocketProgram(length, ctypes.addressof(memory))), memory


def _instructions(instructions: Iterable[tuple[int, int, int, int]]) -> bytes:
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)


def _compile(rule: str, link: int, snaplen: int) -> bytes:
    pcap = _library()
    handle = pcap.pcap_open_dead(_LIBPCAP_LINKS.get(link, link), snaplen)
    compiled = _Program()
    try:
        if pcap.pcap_compile(handle, ctypes.byref(compiled), rule.encode(), 1, _ANY_NETMASK) != 0:
            raise ValueError(pcap.pcap_geterr(handle).decode(errors="replace"))
        found = ctypes.string_at(compiled.instructions, compiled.length * _INSTRUCTION.size)
        pcap.pcap_freecode(ctypes.byref(compiled))
    finally:
        pcap.pcap_close(handle)
    return found


def _library() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            pcap = ctypes.CDLL(name)
        except OSError:
            continue
        pcap.pcap_open_dead.restype = ctypes.c_void_p
        pcap.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
        pcap.pcap_compile.argtypes = (
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint,
        )  # fmt: skip
        pcap.pcap_geterr.restype = ctypes.c_char_p
        pcap.pcap_geterr.argtypes = pcap.pcap_close.argtypes = (ctypes.c_void_p,)
        pcap.pcap_freecode.argtypes = (ctypes.c_void_p,)
        pcap.pcap_freecode.restype = pcap.pcap_close.restype = None
        return pcap
    raise ImportError("there is no libpcap to compile it")
