"""IPFIX information elements: names and types, and which column each one fills.

The names and types come from `data/ipfix-elements.csv` (made by
`tools/elements.py` from IANA's registry); NetFlow v9 shares the numbers below
32768. This module says what the elements mean to flowagent.
"""

from __future__ import annotations

import csv
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

from flowagent.schema import COLUMNS, Kind

REVERSE_PEN = 29305
"""Elements of the reverse direction of a biflow (RFC 5103, section 6.1)."""
VMWARE_PEN = 6876
"""Open vSwitch sends its tunnel elements under this number."""
VARIABLE = 65535
"""Field length that says: the length stands in the record (RFC 7011, section 7)."""


class Element(NamedTuple):
    """An element as registered; `type` is IANA's abstract data type."""

    pen: int
    id: int
    name: str
    type: str


class Time(NamedTuple):
    """A time element: the column it fills and how its number is meant (see `ingest/fields.py`)."""

    column: str
    encoding: str


COLUMN: dict[tuple[int, int], str] = {
    (0, 1): "bytes", (0, 2): "packets", (0, 4): "proto", (0, 5): "tos", (0, 6): "tcp_flags",
    (0, 7): "src_port", (0, 8): "src_addr", (0, 9): "src_mask", (0, 10): "in_if", (0, 11): "dst_port",
    (0, 12): "dst_addr", (0, 13): "dst_mask", (0, 14): "out_if", (0, 15): "next_hop", (0, 16): "src_as",
    (0, 17): "dst_as", (0, 27): "src_addr", (0, 28): "dst_addr", (0, 29): "src_mask", (0, 30): "dst_mask",
    (0, 56): "src_mac", (0, 58): "vlan", (0, 59): "dst_vlan", (0, 61): "direction", (0, 62): "next_hop",
    (0, 80): "dst_mac", (0, 132): "dropped_bytes", (0, 133): "dropped_packets", (0, 136): "flow_end_reason",
    (0, 138): "observation_point", (0, 176): "icmp_type", (0, 177): "icmp_code", (0, 178): "icmp_type",
    (0, 179): "icmp_code", (0, 192): "ttl", (0, 225): "nat_src_addr", (0, 226): "nat_dst_addr",
    (0, 227): "nat_src_port", (0, 228): "nat_dst_port", (0, 230): "nat_event", (0, 243): "vlan",
    (0, 254): "dst_vlan", (0, 256): "ether_type", (0, 281): "nat_src_addr", (0, 282): "nat_dst_addr",
    (VMWARE_PEN, 891): "tunnel_type", (VMWARE_PEN, 892): "tunnel_key",
    (VMWARE_PEN, 893): "tunnel_src_addr", (VMWARE_PEN, 894): "tunnel_dst_addr",
}  # fmt: skip
"""Elements with a column of their own.

`*TotalCount` elements have none: Open vSwitch counts the whole exporter in them.
"""

MPLS_TOP_LABEL = (0, 70)
ICMP_TYPE_CODE = ((0, 32), (0, 139))

TIMES: dict[tuple[int, int], Time] = {
    (0, 156): Time("start_ns", "ntp_ns"), (0, 157): Time("end_ns", "ntp_ns"),
    (0, 154): Time("start_ns", "ntp_us"), (0, 155): Time("end_ns", "ntp_us"),
    (0, 152): Time("start_ns", "ms"), (0, 153): Time("end_ns", "ms"),
    (0, 150): Time("start_ns", "s"), (0, 151): Time("end_ns", "s"),
    (0, 158): Time("start_ns", "delta_us"), (0, 159): Time("end_ns", "delta_us"),
    (0, 22): Time("start_ns", "uptime"), (0, 21): Time("end_ns", "uptime"),
}  # fmt: skip
"""Flow start and end; where a template has several, the first of this order is used."""

_KINDS: dict[str, Kind] = {
    "macAddress": "mac", "ipv4Address": "addr", "ipv6Address": "addr", "string": "text",
    "dateTimeSeconds": "time", "dateTimeMilliseconds": "time",
    "dateTimeMicroseconds": "time", "dateTimeNanoseconds": "time",
}  # fmt: skip
_NUMBERS = ("unsigned", "signed", "float", "boolean")


@cache
def _registry() -> dict[tuple[int, int], Element]:
    text = resources.files("flowagent").joinpath("data/ipfix-elements.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    found = (Element(int(row["pen"]), int(row["id"]), row["name"], row["type"]) for row in rows)
    return {(e.pen, e.id): e for e in found}


@cache
def _by_name() -> dict[str, Element]:
    return {e.name: e for e in _registry().values() if e.pen == 0}


def element(pen: int, number: int) -> Element:
    """The element; one that nobody registered is called pen{PEN}_{number} and is opaque bytes."""
    known = _registry().get((pen, number))
    if known is None:
        return Element(pen, number, f"pen{pen}_{number}", "octetArray")
    return known


def extra_name(e: Element) -> str:
    """The name of an element's column where it has no canonical one."""
    return e.name if e.pen == 0 else f"pen{e.pen}_{e.id}"


def type_kind(data_type: str) -> Kind:
    """The kind of column that holds values of an IANA abstract data type."""
    number = data_type.startswith(_NUMBERS) and data_type != "unsigned256"
    return "int" if number else _KINDS.get(data_type, "bytes")


@lru_cache(maxsize=4096)
def column_kind(name: str) -> Kind:
    """The kind of a column, canonical or extra (repeated elements end in _2, _3, …)."""
    if name in COLUMNS:
        return COLUMNS[name].kind
    known = _by_name().get(name)
    base, _, suffix = name.rpartition("_")
    if known is None and suffix.isdigit():
        if base in COLUMNS:
            return COLUMNS[base].kind
        known = _by_name().get(base)
    if known is None and name.startswith("pen"):
        pen, _, number = name[3:].partition("_")
        if pen.isdigit() and number.split("_")[0].isdigit():
            known = element(int(pen), int(number.split("_")[0]))
    return type_kind(known.type) if known else "int"
