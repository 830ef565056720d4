"""Export datagrams built byte by byte, and what a decoder makes of them as plain values."""

import struct
from collections.abc import Iterable

from flowagent.addresses import address_text
from flowagent.batch import Batch
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder

EXPORT = 1_700_000_000
"""Export time of the datagrams, in seconds."""
SECOND, MS, US = 10**9, 10**6, 10**3
FLOW = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 4), (2, 4))
"""Fields of a small template: the 5-tuple, bytes, packets."""
FLOW_SIZE = 21
OVS = ((138, 4), (61, 1), (56, 6), (80, 6), (256, 2), (240, 1), (158, 4), (159, 4), (1, 8), (2, 8))
"""Head and tail of Open vSwitch's templates."""
OVS_SIZE = 44


def ipfix(*sets: bytes, sequence=0, domain=0, export=EXPORT, length=None) -> bytes:
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body) if length is None else length, export, sequence, domain) + body


def v9(*sets: bytes, sequence=0, domain=0, export=EXPORT, uptime=0, count=None) -> bytes:
    count = len(sets) if count is None else count
    return struct.pack("!HHIIII", 9, count, uptime, export, sequence, domain) + b"".join(sets)


def flow_set(number: int, body: bytes, length=None) -> bytes:
    """A set of any id."""
    return struct.pack("!HH", number, 4 + len(body) if length is None else length) + body


def template(number: int, *fields: tuple[int, ...]) -> bytes:
    """A template record; a field is (id, length) or (enterprise, id, length)."""
    return struct.pack("!HH", number, len(fields)) + b"".join(map(_field, fields))


def _field(field: tuple[int, ...]) -> bytes:
    if len(field) == 2:
        return struct.pack("!HH", *field)
    pen, number, length = field
    return struct.pack("!HHI", number | 0x8000, length, pen)


def options_template(number: int, scopes: int, *fields: tuple[int, ...]) -> bytes:
    """IPFIX: the first `scopes` fields are the scope."""
    body = template(number, *fields)
    return body[:4] + struct.pack("!H", scopes) + body[4:]


def options_template9(number: int, scopes: Iterable[tuple[int, int]], *fields: tuple[int, int]) -> bytes:
    scope, options = b"".join(map(_field, scopes)), b"".join(map(_field, fields))
    return struct.pack("!HHH", number, len(scope), len(options)) + scope + options


def define(number: int, *fields: tuple[int, ...], version=10) -> bytes:
    """A set with one template."""
    return flow_set(2 if version == 10 else 0, template(number, *fields))


def flow(src="10.0.0.1", dst="10.0.0.2", sport=1, dport=2, proto=6, octets=100, packets=1) -> bytes:
    """A record of the template FLOW."""
    return address(src) + address(dst) + struct.pack("!HHBII", sport, dport, proto, octets, packets)


def ovs_flow(octets=100, packets=1, direction=0, start=2_000_000, end=1_000_000) -> bytes:
    """A record of the template OVS; times in microseconds before the export."""
    head = struct.pack("!IB6s6sHB", 7, direction, b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", 0x800, 14)
    return head + struct.pack("!IIQQ", start, end, octets, packets)


def address(text: str) -> bytes:
    """IPv4 only."""
    return bytes(map(int, text.split(".")))


def variable(content: bytes, *, long=False) -> bytes:
    """A variable-length field, with its length in one byte or in three."""
    head = b"\xff" + struct.pack("!H", len(content)) if long else bytes([len(content)])
    return head + content


def v5(
    *records: bytes, version=5, count=None, uptime=0, export=EXPORT, ns=0, sequence=0, engine=0, sampling=0
) -> bytes:
    count = len(records) if count is None else count
    head = struct.pack("!HHIII", version, count, uptime, export, ns)
    if version != 1:
        head += struct.pack("!IHH", sequence, engine, sampling)
    return head + b"".join(records)


def v5_record(
    src="10.0.0.1", dst="10.0.0.2", hop="0.0.0.0", in_if=1, out_if=2, packets=3, octets=400, first=0, last=0,
    sport=5, dport=6, flags=0x12, proto=6, tos=8, src_as=64512, dst_as=64513, src_mask=24, dst_mask=16,
) -> bytes:  # fmt: skip
    head = address(src) + address(dst) + address(hop)
    counts = struct.pack("!HHIIIIHH", in_if, out_if, packets, octets, first, last, sport, dport)
    return head + counts + struct.pack("!xBBBHHBBxx", flags, proto, tos, src_as, dst_as, src_mask, dst_mask)


def feed(decoder: Decoder, *payloads: bytes, **origin) -> list[dict]:
    """The rows of these datagrams, fed together; `origin` as for `Datagrams.of`."""
    return rows(decoder.feed(Datagrams.of(payloads, **origin)))


def decode(*payloads: bytes, **origin) -> list[dict]:
    """The rows that a new decoder makes of these datagrams."""
    return feed(Decoder(ordered=True), *payloads, **origin)


def errors(*payloads: bytes) -> dict[str, int]:
    """What a new decoder counts as wrong in these datagrams, by reason."""
    decoder = Decoder()
    feed(decoder, *payloads)
    return {reason: count for (_, reason), count in decoder.stats.errors.items()}


def rows(batch: Batch) -> list[dict]:
    """Rows as dicts of what is known; addresses as text, the rest as Python has it."""
    out: list[dict] = [{} for _ in range(len(batch))]
    for name in batch.columns:
        for row, value, known in zip(out, plain(batch, name), batch.is_known(name).tolist(), strict=True):
            if known:
                row[name] = value
    return out


def plain(batch: Batch, name: str) -> list:
    values = batch[name]
    if values.ndim == 2:
        return [address_text(high, low) for high, low in values.T.tolist()]
    return values.tolist()


def column(found: list[dict], name: str) -> list:
    """One column of rows; None where unknown."""
    return [row.get(name) for row in found]
