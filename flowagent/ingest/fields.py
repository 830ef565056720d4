"""Turning the bytes of one field, in many records at once, into a column.

Every converter takes `raw`, uint8 of shape (sets, records, length) whose last
axis is contiguous, and the `Head` of those sets, and returns `Values`. Nothing
here knows about templates or sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array

NTP_EPOCH = 2_208_988_800
"""Seconds from 1900 to 1970 (RFC 7011, section 6.1.9)."""
MAX_TEXT = 256
_UPTIME_WRAP = 1 << 32
_FUTURE = 0xF000_0000
_MS, _S = 1_000_000, 1_000_000_000


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of the sets' datagrams say; arrays are int64 of shape (sets, 1).

    export_ns       export time
    uptime_ms       milliseconds since the exporter booted; None in IPFIX
    system_init_ns  when an IPFIX exporter booted (systemInitTimeMilliseconds), if it said so; an
                    array (sets, records) where each record says it
    """

    export_ns: Array
    uptime_ms: Array | None = None
    system_init_ns: int | Array | None = None

    def take(self, rows: Array) -> Head:
        """The same of some sets."""
        return Head(
            self.export_ns[rows], self.uptime_ms[rows] if self.uptime_ms is not None else None, self.system_init_ns
        )


class Values(NamedTuple):
    """A converted field: `data` is (n,) or (2, n), `known` a bool mask (n,) or None where all are known."""

    data: Array
    known: Array | None = None


Converter = Callable[[Array, Head], Values | None]


@cache
def unsigned(dtype: str) -> Converter:
    """Big-endian number of 1 to 8 bytes (reduced-size encoding, RFC 7011, section 6.2).

    What is too large for `dtype` is unknown.
    """
    target = np.dtype(dtype)

    def convert(raw: Array, _: Head) -> Values:
        values = _wire_unsigned(raw)
        if values.dtype.itemsize <= target.itemsize:
            return Values(values.astype(target).reshape(-1))
        wide = values.astype(np.uint64).reshape(-1)
        fits = wide <= np.uint64(np.iinfo(target).max)
        return Values(wide.astype(target), None if bool(fits.all()) else fits)

    return convert


def signed(raw: Array, _: Head) -> Values:
    """Big-endian two's complement number of 1 to 8 bytes."""
    width = raw.shape[-1] * 8
    values = _wire_unsigned(raw).astype(np.uint64).reshape(-1)
    return Values((values << np.uint64(64 - width)).view(np.int64) >> np.int64(64 - width))


def floating(raw: Array, _: Head) -> Values:
    """IEEE float of 4 or 8 bytes."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return Values(raw.view(f">f{raw.shape[-1]}")[..., 0].astype(np.float64).reshape(-1))


def address(raw: Array, _: Head) -> Values:
    """IPv4 (4 bytes) or IPv6 (16 bytes) address; shape (2, n)."""
    count = raw.shape[0] * raw.shape[1]
    words = np.empty((2, count), np.uint64)
    if raw.shape[-1] == 4:
        words[0] = 0
        np.bitwise_or(raw.view(">u4")[..., 0].reshape(-1), np.uint64(V4_MAPPED), out=words[1])
    else:
        pairs = raw.view(">u8")
        words[0] = pairs[..., 0].reshape(-1)
        words[1] = pairs[..., 1].reshape(-1)
    return Values(words)


def text(raw: Array, _: Head) -> Values:
    """Bytes up to the trailing NULs; dtype S.

    Longer than `MAX_TEXT` is cut: one long text makes every row of its column as wide.
    """
    raw = raw[..., :MAX_TEXT]
    return Values(np.ascontiguousarray(raw).view(f"S{raw.shape[-1]}").reshape(-1))


def opaque(raw: Array, _: Head) -> Values:
    """The bytes as they are; dtype object."""
    whole = np.ascontiguousarray(raw).view(f"V{raw.shape[-1]}").reshape(-1)
    column = np.empty(len(whole), object)
    column[:] = [bytes(item) for item in whole.tolist()]
    return Values(column)


def mpls_label(raw: Array, _: Head) -> Values:
    """The 20-bit label in the first bytes of a label stack entry (RFC 3032)."""
    return Values((_wire_unsigned(raw[..., :3]) >> np.uint64(4)).astype(np.uint32).reshape(-1))


def seconds(raw: Array, _: Head) -> Values:
    """Type dateTimeSeconds to ns."""
    return _scaled(raw, _S)


def milliseconds(raw: Array, _: Head) -> Values:
    """Type dateTimeMilliseconds to ns."""
    return _scaled(raw, _MS)


def ntp_microseconds(raw: Array, head: Head) -> Values | None:
    """Type dateTimeMicroseconds to ns; its lowest 11 bits are not time (RFC 7011, section 6.1.9)."""
    return _ntp(raw, head, np.uint64(0xFFFFF800))


def ntp_nanoseconds(raw: Array, head: Head) -> Values | None:
    """Type dateTimeNanoseconds to ns."""
    return _ntp(raw, head, np.uint64(0xFFFFFFFF))


def delta_microseconds(raw: Array, head: Head) -> Values:
    """Microseconds back from the export time (IE 158, 159)."""
    back = _wire_unsigned(raw).astype(np.int64)
    return Values((head.export_ns - back * 1000).reshape(-1))


def uptime(raw: Array, head: Head) -> Values | None:
    """Milliseconds since the exporter booted, modulo 49.7 days.

    With the uptime in the header (NetFlow) the time is the export time less
    the difference of the two stamps, which survives their wrap; a stamp
    slightly ahead of the header's is a moment in the future.
    """
    then = _wire_unsigned(raw).astype(np.int64)
    if head.uptime_ms is not None:
        ago = (head.uptime_ms - then) & (_UPTIME_WRAP - 1)
        ago -= (ago > _FUTURE) * _UPTIME_WRAP
        return Values((head.export_ns - ago * _MS).reshape(-1))
    if head.system_init_ns is not None:
        return Values((head.system_init_ns + then * _MS).reshape(-1))
    return None


TIME_CONVERTERS: dict[str, Converter] = {
    "s": seconds,
    "ms": milliseconds,
    "ntp_us": ntp_microseconds,
    "ntp_ns": ntp_nanoseconds,
    "delta_us": delta_microseconds,
    "uptime": uptime,
}
_TYPED_TIMES = {
    "dateTimeSeconds": "s",
    "dateTimeMilliseconds": "ms",
    "dateTimeMicroseconds": "ntp_us",
    "dateTimeNanoseconds": "ntp_ns",
}


def converter(data_type: str, length: int) -> Converter | None:
    """How to read an element of an IANA type from a field of this length; None where it cannot have that length."""
    number = 1 <= length <= 8
    if data_type in _TYPED_TIMES:
        return time_converter(_TYPED_TIMES[data_type], length)
    if data_type in ("ipv4Address", "ipv6Address"):
        return address if length in (4, 16) else None
    if data_type == "macAddress":
        return unsigned("u8") if length == 6 else None
    if data_type.startswith("float"):
        return floating if length in (4, 8) else None
    if data_type == "boolean" or (data_type.startswith("unsigned") and data_type != "unsigned256"):
        return unsigned("u8") if number else None
    if data_type.startswith("signed"):
        return signed if number else None
    return text if data_type == "string" else opaque


def time_converter(encoding: str, length: int) -> Converter | None:
    """How to read a time of this length; None where it cannot have that length."""
    return TIME_CONVERTERS[encoding] if length <= 8 or (length == 16 and encoding.startswith("ntp")) else None


def _wire_unsigned(raw: Array) -> Array:
    """Shape (sets, records): the numbers, in the narrowest type that holds them."""
    length = raw.shape[-1]
    if length in (2, 4, 8):
        return raw.view(f">u{length}")[..., 0]
    if length == 1:
        return raw[..., 0]
    padded = np.zeros((*raw.shape[:-1], 4 if length == 3 else 8), np.uint8)
    padded[..., -length:] = raw
    return padded.view(f">u{padded.shape[-1]}")[..., 0]


def _scaled(raw: Array, factor: int) -> Values:
    values = _wire_unsigned(raw).astype(np.uint64).reshape(-1)
    limit = np.uint64((2**63 - 1) // factor)
    fits = None if not len(values) or values.max() <= limit else values <= limit
    values *= np.uint64(factor)
    return Values(values.view(np.int64), fits)


def _ntp(raw: Array, head: Head, fraction_mask: np.uint64) -> Values | None:
    if raw.shape[-1] == 16:
        # Not RFC 7011: pmacct sends two 64-bit words here, Unix seconds and microseconds.
        whole, micro = _scaled(raw[..., :8], _S), _wire_unsigned(raw[..., 8:]).astype(np.int64).reshape(-1)
        return Values(whole.data + micro * 1000, whole.known)
    if raw.shape[-1] != 8:
        return seconds(raw, head)
    values = raw.view(">u8")[..., 0].astype(np.uint64).reshape(-1)
    fraction = (values & np.uint64(0xFFFFFFFF) & fraction_mask) * np.uint64(_S) >> np.uint64(32)
    since_1900 = (values >> np.uint64(32)).astype(np.int64)
    return Values((since_1900 - NTP_EPOCH) * _S + fraction.astype(np.int64))
