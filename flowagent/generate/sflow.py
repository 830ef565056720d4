"""sFlow version 5: datagrams of seven samples, each the first 128 bytes of a packet, written column by column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowagent.generate.ring import Counts, Export, Header, Ring, Totals
from flowagent.generate.traffic import TCP, UDP, Traffic
from flowagent.generate.wire import write_columns

if TYPE_CHECKING:
    from flowagent.batch import Array
    from flowagent.generate.settings import Settings

SAMPLES, HEADER_BYTES = 7, 128
"""As many as fit into 1400 bytes."""
_AGENT = 0x7F000001
_SOURCE = 2 << 24 | 1000
"""Data source: a physical entity, as Open vSwitch calls its bridge."""
_CHECK_SEQUENCE = 4
_LINK_BYTES = 14

HEADER = Header(
    np.dtype([
        ("version", ">u4"), ("address_type", ">u4"), ("agent", ">u4"), ("sub_agent", ">u4"),
        ("sequence", ">u4"), ("uptime", ">u4"), ("samples", ">u4"),
    ]),
    step_ms=1,
    counts_datagrams=True,
)  # fmt: skip
_ETHERNET = [("dst_mac", ">u2", 3), ("src_mac", ">u2", 3), ("ether_type", ">u2")]
_IPV4 = [
    ("first", ">u2"), ("ip_length", ">u2"), ("id", ">u2"), ("fragment", ">u2"), ("ttl", "u1"), ("protocol", "u1"),
    ("checksum", ">u2"), ("src", "u1", 4), ("dst", "u1", 4),
]  # fmt: skip
_IPV6 = [
    ("first", ">u4"), ("payload_length", ">u2"), ("protocol", "u1"), ("ttl", "u1"), ("src", "u1", 16), ("dst", "u1", 16)
]  # fmt: skip
_TRANSPORT = [("src_port", ">u2"), ("dst_port", ">u2"), ("number", ">u4"), ("answer", ">u4"), ("flags", ">u2")]


def _sample(network: list[Any]) -> np.dtype[np.void]:
    packet = [*_ETHERNET, *network, *_TRANSPORT]
    rest = HEADER_BYTES - np.dtype(packet).itemsize
    return np.dtype([
        ("type", ">u4"), ("length", ">u4"),
        # Counters of 4 bytes that grow, and after each another number: together they are stamped as one of 8.
        ("number_source", ">u8"), ("rate", ">u4"), ("pool_drops", ">u8"),
        ("in_if", ">u4"), ("out_if", ">u4"), ("records", ">u4"),
        ("record", ">u4"), ("record_length", ">u4"), ("header_protocol", ">u4"), ("frame_length", ">u4"),
        ("stripped", ">u4"), ("header_length", ">u4"), *packet, ("rest", "u1", rest),
    ])  # fmt: skip


_DTYPES = {4: _sample(_IPV4), 6: _sample(_IPV6)}


def sflow5(settings: Settings, rng: np.random.Generator, boot_ms: int) -> Export:
    """Make datagrams of IPv4 and IPv6 samples; the sequence number counts the datagrams from 1 on."""
    n = settings.ring
    six = round(SAMPLES * settings.ipv6_share)
    counts = {version: count for version, count in ((4, SAMPLES - six), (6, six)) if count}
    layout: list[Any] = [("header", HEADER.dtype), *((f"v{v}", _DTYPES[v], count) for v, count in counts.items())]
    datagrams = np.zeros(n, np.dtype(layout))
    headers = datagrams["header"]
    headers["version"], headers["address_type"], headers["agent"] = 5, 1, _AGENT
    headers["sub_agent"], headers["samples"] = settings.observation_domain, SAMPLES
    octets = np.zeros(n, np.int64)
    for version, count in counts.items():
        keys = max(1, round(settings.keys * count / SAMPLES))
        flows = Traffic(rng, keys, settings.zipf, version).draw(n * count)
        octets += _fill(datagrams[f"v{version}"], flows, version, settings.sampling_rate).reshape(n, -1).sum(1)
    samples = np.full(n, SAMPLES)
    data = datagrams.view(np.uint8).reshape(n, -1)
    ring = Ring(
        data,
        np.full(n, datagrams.itemsize),
        HEADER,
        Counts(samples, samples, octets, np.ones(n, np.int64)),
        boot_ms=boot_ms,
        totals=_totals(data, settings),
    )
    return Export(ring, None, 1)


def _totals(data: Array, settings: Settings) -> Totals:
    """Numbers of the samples and the packets that they were chosen from, written for the first round."""
    n = len(data)
    number = np.arange(1, n * SAMPLES + 1, dtype=np.uint64).reshape(n, SAMPLES)
    rate = np.uint64(settings.sampling_rate)
    half = np.uint64(32)
    size = _DTYPES[4].itemsize  # of IPv6, too
    begin = np.arange(n)[:, None] * data.shape[1] + HEADER.dtype.itemsize + np.arange(SAMPLES) * size
    offsets = [_offset(_DTYPES[4], name) for name in ("number_source", "pool_drops")]
    values = np.stack([number << half | np.uint64(_SOURCE), number * rate << half], -1)
    steps = np.array([n * SAMPLES, n * SAMPLES * settings.sampling_rate], np.uint64) << half
    totals = Totals(
        first=np.arange(n + 1) * SAMPLES * 2,
        position=np.stack([begin + offset for offset in offsets], -1).reshape(-1),
        value=values.reshape(-1),
        per_round=np.tile(steps, n * SAMPLES),
    )
    totals.stamp(data, slice(0, n), 0)
    return totals


def _fill(samples: Array, flows: dict[str, Array], version: int, rate: int) -> Array:
    """Write a packet of each flow; its bytes on the wire without the frame check sequence."""
    protocol, size = flows["protocol"], flows["mean_size"]
    has_ports = (protocol == TCP) | (protocol == UDP)
    head = {4: 20, 6: 40}[version]
    columns = flows | {
        "ip_length": size,
        "payload_length": size - head,
        "frame_length": size + _LINK_BYTES + _CHECK_SEQUENCE,
        "src_port": np.where(has_ports, flows["src_port"], flows["dst_port"]),  # else type and code of ICMP
        "dst_port": np.where(has_ports, flows["dst_port"], 0),
        "number": np.where(protocol == UDP, size - head << 16, 1),
        "flags": np.where(protocol == TCP, 0x5000 | flows["tcp_flags"], 0),
        "first": 0x4500 | flows["tos"] if version == 4 else 6 << 28 | flows["tos"] << 20,
        "src_mac": np.stack([np.full(len(size), 0x0200), np.zeros(len(size), np.int64), flows["in_if"]], 1),
        "dst_mac": np.stack([np.full(len(size), 0x0200), np.zeros(len(size), np.int64), flows["out_if"]], 1),
    }
    write_columns(samples, columns)
    fixed = {
        "type": 1, "length": samples.dtype.itemsize - 8, "rate": rate, "records": 1,
        "record": 1, "record_length": 16 + HEADER_BYTES, "header_protocol": 1, "stripped": _CHECK_SEQUENCE,
        "header_length": HEADER_BYTES, "ether_type": 0x0800 if version == 4 else 0x86DD, "ttl": 64,
    }  # fmt: skip
    for name, value in fixed.items():
        samples[name] = value
    if version == 4:
        samples["checksum"] = _checksum(samples)
    octets: Array = size + _LINK_BYTES
    return octets


def _checksum(samples: Array) -> Array:
    """Of the IPv4 headers, whose own checksum is still 0 (RFC 1071)."""
    first, end = _offset(samples.dtype, "first"), _offset(samples.dtype, "src_port")
    words = samples.view(np.uint8).reshape(*samples.shape, -1)[..., first:end].astype(np.int64)
    total = (words[..., ::2] << 8).sum(-1) + words[..., 1::2].sum(-1)
    total = (total & 0xFFFF) + (total >> 16)
    checksum: Array = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return checksum


def _offset(dtype: np.dtype[np.void], name: str) -> int:
    assert dtype.fields is not None
    return dtype.fields[name][1]
