"""NetFlow v5 and v9 and IPFIX datagrams, whole rings of them, written column by column."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowagent.generate.ring import Counts, Export, Header, Ring, messages_ring
from flowagent.generate.traffic import Traffic

if TYPE_CHECKING:
    from flowagent.batch import Array
    from flowagent.generate.settings import Settings

PAYLOAD = 1400
"""Bytes of a NetFlow v9 or IPFIX datagram at most."""
IPV4_TEMPLATE, IPV6_TEMPLATE, OPTIONS_TEMPLATE = 256, 257, 258

_RECORDS5 = 30
DETERMINISTIC = 1  # mode of sampling: one in n packets, always the same

HEADER5 = Header(
    np.dtype([
        ("version", ">u2"), ("count", ">u2"), ("uptime", ">u4"), ("seconds", ">u4"), ("nanoseconds", ">u4"),
        ("sequence", ">u4"), ("engine", ">u2"), ("sampling", ">u2"),
    ]),
    step_ms=1,
)  # fmt: skip
HEADER9 = Header(
    np.dtype([
        ("version", ">u2"), ("count", ">u2"), ("uptime", ">u4"), ("seconds", ">u4"),
        ("sequence", ">u4"), ("domain", ">u4"),
    ]),
    step_ms=1000,
    counts_datagrams=True,
)  # fmt: skip
HEADER_IPFIX = Header(
    np.dtype([("version", ">u2"), ("length", ">u2"), ("seconds", ">u4"), ("sequence", ">u4"), ("domain", ">u4")]),
    step_ms=1000,
)
_SET = np.dtype([("id", ">u2"), ("length", ">u2")])

RECORD5 = np.dtype([
    ("src", "u1", 4), ("dst", "u1", 4), ("next_hop", "u1", 4), ("in_if", ">u2"), ("out_if", ">u2"),
    ("packets", ">u4"), ("bytes", ">u4"), ("start", ">u4"), ("end", ">u4"), ("src_port", ">u2"), ("dst_port", ">u2"),
    ("pad1", "u1"), ("tcp_flags", "u1"), ("protocol", "u1"), ("tos", "u1"), ("src_as", ">u2"), ("dst_as", ">u2"),
    ("src_mask", "u1"), ("dst_mask", "u1"), ("pad2", ">u2"),
])  # fmt: skip

# (column, element for IPv4, element for IPv6, bytes; 0 is as long as an address)
_FIELDS = (
    ("src", 8, 27, 0), ("dst", 12, 28, 0), ("src_port", 7, 7, 2), ("dst_port", 11, 11, 2), ("protocol", 4, 4, 1),
    ("bytes", 1, 1, 8), ("packets", 2, 2, 8), ("tcp_flags", 6, 6, 1), ("tos", 5, 5, 1),
    ("in_if", 10, 10, 4), ("out_if", 14, 14, 4), ("src_as", 16, 16, 4), ("dst_as", 17, 17, 4),
    ("next_hop", 15, 62, 0), ("src_mask", 9, 29, 1), ("dst_mask", 13, 30, 1),
)  # fmt: skip
_UPTIMES = (("start", 22, 4), ("end", 21, 4))
_ABSOLUTE_TIMES = (("start", 152, 8), ("end", 153, 8))


class Field(NamedTuple):
    """A field of a template: the column it is filled from, its element, its length."""

    column: str
    element: int
    size: int


class _Block(NamedTuple):
    """The like records of every datagram; set_id 0: without a set header."""

    set_id: int
    dtype: np.dtype[np.void]
    records: int

    @property
    def size(self) -> int:
        """Bytes of the set, which ends at a multiple of 4."""
        return -(-(_SET.itemsize + self.records * self.dtype.itemsize) // 4) * 4


def netflow5(settings: Settings, rng: np.random.Generator, boot_ms: int) -> Export:
    """Make datagrams of 30 IPv4 records; the sequence number counts the records before."""
    ring, datagrams = _ring(settings, rng, boot_ms, HEADER5, [_Block(0, RECORD5, _RECORDS5)])
    headers = datagrams["header"]
    headers["version"], headers["count"] = 5, _RECORDS5
    headers["engine"] = settings.observation_domain
    if settings.sampling_rate > 1:
        headers["sampling"] = DETERMINISTIC << 14 | settings.sampling_rate
    return Export(ring, None, 0)


def netflow9(settings: Settings, rng: np.random.Generator, boot_ms: int) -> Export:
    """Make datagrams of an IPv4 and an IPv6 set; the sequence number counts the datagrams before."""
    blocks = _blocks(settings, HEADER9, _UPTIMES)
    ring, datagrams = _ring(settings, rng, boot_ms, HEADER9, blocks)
    headers = datagrams["header"]
    headers["version"], headers["count"] = 9, sum(block.records for block in blocks)
    headers["domain"] = settings.observation_domain
    sets = template_set(0, _templates(_UPTIMES))
    records = 2
    if settings.sampling_rate > 1:
        sets += sampling9(settings.observation_domain, settings.sampling_rate)
        records += 2
    header = struct.pack(">HHIIII", 9, records, 0, 0, 0, settings.observation_domain)
    return Export(ring, messages_ring([header + sets], [1], HEADER9, boot_ms=boot_ms), 0)


def ipfix(settings: Settings, rng: np.random.Generator, boot_ms: int) -> Export:
    """Make datagrams of an IPv4 and an IPv6 set; the sequence number counts the data records before."""
    ring, datagrams = _ring(settings, rng, boot_ms, HEADER_IPFIX, _blocks(settings, HEADER_IPFIX, _ABSOLUTE_TIMES))
    headers = datagrams["header"]
    headers["version"], headers["length"] = 10, datagrams.itemsize
    headers["domain"] = settings.observation_domain
    sets = template_set(2, _templates(_ABSOLUTE_TIMES))
    options = settings.sampling_rate > 1
    if options:
        sets += sampling_ipfix(settings.observation_domain, settings.sampling_rate)
    message = ipfix_message(sets, settings.observation_domain)
    return Export(ring, messages_ring([message], [int(options)], HEADER_IPFIX, boot_ms=boot_ms), 0)


def sampling9(domain: int, rate: int) -> bytes:
    """Make an options template and its record: one packet in `rate` is sampled."""
    template = struct.pack(">HHHHHHHHHHHxx", 1, 24, OPTIONS_TEMPLATE, 4, 8, 1, 4, 34, 4, 35, 1)
    return template + struct.pack(">HHIIBxxx", OPTIONS_TEMPLATE, 16, domain, rate, DETERMINISTIC)


def sampling_ipfix(domain: int, rate: int) -> bytes:
    """Make an options template and its record: one packet in `rate` is sampled (RFC 5477, section 8.2)."""
    template = struct.pack(">HHHHHHHHHHH", 3, 22, OPTIONS_TEMPLATE, 3, 1, 149, 4, 305, 4, 306, 4)
    return template + struct.pack(">HHIII", OPTIONS_TEMPLATE, 16, domain, 1, rate - 1)


def ipfix_message(sets: bytes, domain: int) -> bytes:
    """Make an IPFIX message whose header is still to be stamped."""
    return struct.pack(">HHIII", 10, 16 + len(sets), 0, 0, domain) + sets


def template_set(set_id: int, templates: dict[int, list[Field]]) -> bytes:
    """Make a set of template records."""
    records = b"".join(
        struct.pack(">HH", template_id, len(fields)) + b"".join(struct.pack(">HH", f.element, f.size) for f in fields)
        for template_id, fields in templates.items()
    )
    return struct.pack(">HH", set_id, 4 + len(records)) + records


def write_columns(records: Array, columns: dict[str, Array]) -> None:
    """Fill the fields of a structured array from the columns of the same names, one row a record.

    Fields without a column stay. Addresses are cut to the field's length from the right.
    """
    for name, (dtype, *_) in (records.dtype.fields or {}).items():
        if name in columns:
            column = columns[name]
            if dtype.shape:
                column = column[:, -dtype.shape[0] :]
            records[name] = column.reshape(*records.shape, *column.shape[1:])


def _templates(times: tuple[tuple[str, int, int], ...]) -> dict[int, list[Field]]:
    fixed = [Field(*time) for time in times]
    return {
        template_id: [Field(name, pair[v6], size or width) for name, *pair, size in _FIELDS] + fixed
        for template_id, v6, width in ((IPV4_TEMPLATE, 0, 4), (IPV6_TEMPLATE, 1, 16))
    }


def record_dtype(fields: list[Field]) -> np.dtype[np.void]:
    """Lay out a record of these fields."""
    unsigned = {1: "u1", 2: ">u2", 4: ">u4", 8: ">u8"}
    addresses = ("src", "dst", "next_hop")
    return np.dtype(
        [(f.column, "u1", f.size) if f.column in addresses else (f.column, unsigned[f.size]) for f in fields]
    )


def _blocks(settings: Settings, header: Header, times: tuple[tuple[str, int, int], ...]) -> list[_Block]:
    """Fit as many records as go into a datagram, divided by the share of IPv6."""
    v4, v6 = (record_dtype(fields) for fields in _templates(times).values())
    padding = 2 * 3
    room = PAYLOAD - header.dtype.itemsize - 2 * _SET.itemsize - padding
    share = settings.ipv6_share
    count = room // v4.itemsize
    while True:
        six = round(count * share) if share in (0, 1) else min(max(round(count * share), 1), count - 1)
        if (count - six) * v4.itemsize + six * v6.itemsize <= room:
            break
        count -= 1
    blocks = (_Block(IPV4_TEMPLATE, v4, count - six), _Block(IPV6_TEMPLATE, v6, six))
    return [block for block in blocks if block.records]


def _ring(
    settings: Settings, rng: np.random.Generator, boot_ms: int, header: Header, blocks: list[_Block]
) -> tuple[Ring, Array]:
    """Make the ring and, as a view into it, its datagrams: an (n,) structured array with a field `header`."""
    n = settings.ring
    datagrams = _allocate(n, header, blocks)
    in_datagram = sum(block.records for block in blocks)
    records = np.full(n, in_datagram)
    packets, octets, times = np.zeros(n, np.int64), np.zeros(n, np.int64), []
    for block in blocks:
        keys = max(1, round(settings.keys * block.records / in_datagram))
        version = 6 if block.set_id == IPV6_TEMPLATE else 4
        flows = Traffic(rng, keys, settings.zipf, version).draw(n * block.records)
        target = datagrams[f"records{block.set_id}"]
        write_columns(target, flows)
        packets += flows["packets"].reshape(n, -1).sum(1)
        octets += flows["bytes"].reshape(n, -1).sum(1)
        times += [(target[name], flows[f"{name}_ago"].reshape(n, -1)) for name in ("start", "end")]
    units = np.ones(n, np.int64) if header.counts_datagrams else records
    ring = Ring(
        datagrams.view(np.uint8).reshape(n, -1),
        np.full(n, datagrams.itemsize),
        header,
        Counts(records, packets, octets, units),
        boot_ms=boot_ms,
    )
    for field, ago in times:
        ring.add_time(field, ago)
    return ring, datagrams


def _allocate(n: int, header: Header, blocks: list[_Block]) -> Array:
    """Lay out (n,) datagrams: header, and for each block set<id>, records<id> and padding to 4 bytes."""
    layout: list[Any] = [("header", header.dtype)]
    for block in blocks:
        records = (f"records{block.set_id}", block.dtype, block.records)
        padding = (f"padding{block.set_id}", "u1", block.size - _SET.itemsize - block.records * block.dtype.itemsize)
        layout += [(f"set{block.set_id}", _SET), records, padding] if block.set_id else [records]
    datagrams = np.zeros(n, np.dtype(layout))
    for block in blocks:
        if block.set_id:
            sets = datagrams[f"set{block.set_id}"]
            sets["id"], sets["length"] = block.set_id, block.size
    return datagrams
