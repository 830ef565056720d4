"""Rows from flows of NetObserv: JSON or MessagePack, by the names of its published flow format.

Names of Kubernetes objects come back as codes (see `names`). Of the interfaces of a flow, the first one where it came
in and the first one where it went out are kept; a DSCP is read as a TOS without ECN.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.ingest.canonical import column, place, reader
from flowagent.ingest.decoded import Decoded, finish
from flowagent.ingest.objects import Format, Table, read
from flowagent.ingest.values import Read, Values

_FLAGS = {name: 1 << i for i, name in enumerate(("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"))} | {
    "SYN_ACK": 1 << 8, "FIN_ACK": 1 << 9, "RST_ACK": 1 << 10,
}  # fmt: skip
_PLAIN = {
    "SrcAddr": "src_addr", "DstAddr": "dst_addr", "SrcPort": "src_port", "DstPort": "dst_port", "Proto": "proto",
    "SrcMac": "src_mac", "DstMac": "dst_mac", "IcmpType": "icmp_type", "IcmpCode": "icmp_code", "Bytes": "bytes",
    "Packets": "packets", "XlatSrcAddr": "nat_src_addr", "XlatDstAddr": "nat_dst_addr",
    "XlatSrcPort": "nat_src_port", "XlatDstPort": "nat_dst_port", "PktDropBytes": "dropped_bytes",
    "PktDropPackets": "dropped_packets", "AgentIP": "exporter", "Etype": "ether_type", "SamplingWeight": "weight",
    "SamplingProbability": "inclusion_prob", "RowId": "row_id", "K8S_FlowLayer": "k8s_flow_layer",
    "K8S_ClusterName": "k8s_cluster_name",
} | {
    f"{end}K8S_{part}": f"{end.lower()}_k8s_{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', part).lower()}"
    for end in ("Src", "Dst")
    for part in ("Name", "Namespace", "Type", "OwnerName", "OwnerType", "HostName", "HostIP", "Zone", "NetworkName")
} | {f"{end}SubnetLabel": f"{end.lower()}_subnet_label" for end in ("Src", "Dst")}  # fmt: skip
_TIMES = {"TimeFlowStartMs": ("start_ns", 10**6), "TimeFlowEndMs": ("end_ns", 10**6),
          "TimeReceived": ("received_ns", 10**9)}  # fmt: skip
_LONGEST = 2**63 - 1
_ALWAYS = frozenset({"weight", "inclusion_prob", "records"})


def _times(table: Table, key: str, name: str, factor: int) -> Read:
    """A time in larger units than nanoseconds; what would be too late for these is wrong."""
    found = column(table, key, _reader(name))
    fits = np.abs(found.values) <= _LONGEST // factor
    table.wrong |= ~fits
    return found._replace(values=np.where(fits, found.values, 0) * factor)


def _tos(table: Table) -> Read:
    found = column(table, "Dscp", _reader("tos"))
    table.wrong |= found.values > 63
    return found._replace(values=found.values << np.uint8(2))


def _direction(table: Table) -> Read:
    """2 is a flow within a node, of which there is no direction."""
    found = column(table, "FlowDirection", _reader("direction"))
    return found._replace(known=found.known & (found.values <= 1))


def _rate(table: Table) -> Read:
    """0 is a rate that is not known."""
    rates = table.values("Sampling", int, float) or []
    found = _reader("sampling_rate").of_numbers([rate or None for rate in rates])
    table.wrong[list(found.wrong)] = True
    return found


def _flags(table: Table) -> Read:
    """Names, or the number that older versions write."""
    values = table.values("Flags", list, int) or []
    numbers: list[int | None] = []
    for i, value in enumerate(values):
        flags = sum({_FLAGS.get(name, 0) for name in value if isinstance(name, str)}) if type(value) is list else value
        numbers.append(flags)
        if type(value) is list and not all(isinstance(name, str) for name in value):
            table.wrong[i] = True
    found = _reader("tcp_flags").of_numbers(numbers)
    table.wrong[list(found.wrong)] = True
    return found


def _interfaces(table: Table, end: int) -> tuple[list[str | None], list[int | None]]:
    """The first interface with this direction (0 in, 1 out) of each flow, as a name or else an index."""
    names: list[str | None] = [None] * len(table)
    indexes: list[int | None] = [None] * len(table)
    nothing: list[Any] = [None] * len(table)
    interfaces, ends = table.values("Interfaces", list), table.values("IfDirections", list)
    for i, (mine, of) in enumerate(zip(interfaces or nothing, ends or nothing, strict=True)):
        if mine and of and end in of[: len(mine)]:
            name = mine[of.index(end)]
            if not isinstance(name, str):
                table.wrong[i] = True
            elif name.isascii() and name.isdigit() and len(name) <= 10:
                indexes[i] = int(name)
            else:
                names[i] = name
    return names, indexes


def _reader(name: str) -> Values:
    found = reader(name)
    assert found is not None
    return found


_MADE: dict[str, tuple[str, Callable[[Table], Read]]] = {
    **{key: (name, partial(_times, key=key, name=name, factor=factor)) for key, (name, factor) in _TIMES.items()},
    "Dscp": ("tos", _tos),
    "FlowDirection": ("direction", _direction),
    "Sampling": ("sampling_rate", _rate),
    "Flags": ("tcp_flags", _flags),
}
"""Fields whose values are others in the column."""


class NetobservDecoder:
    """Messages of one or several flows."""

    name = "netobserv"

    def __init__(self, form: Format = "json") -> None:
        self._form = form
        self._wanted: frozenset[str] | None = None

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""
        self._wanted = None if columns is None else columns | _ALWAYS

    def _wants(self, name: str) -> bool:
        return self._wanted is None or name in self._wanted

    def decode(self, values: list[bytes]) -> Decoded:
        """The flows of these messages; one with a value that can be none of its field is left out."""
        errors: Counter[str] = Counter()
        rows, origin = read(values, self._form, errors)
        table = Table(rows)
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for key, name in _PLAIN.items():
            if key in table.keys and self._wants(name):
                place(columns, valid, name, column(table, key, _reader(name)))
        for key, (name, make) in _MADE.items():
            if key in table.keys and (self._wants(name) or key == "Sampling"):
                place(columns, valid, name, make(table))
        if "Interfaces" in table.keys:
            self._add_interfaces(table, columns, valid)
        kept = table.kept(errors)
        return finish(Batch(columns, len(table), valid).take(kept), origin[kept], +errors, is_weighted=True)

    def _add_interfaces(self, table: Table, columns: dict[str, Array], valid: dict[str, Array]) -> None:
        for end, name in enumerate(("in_if", "out_if")):
            if self._wants(name) or self._wants(f"{name}_name"):
                names, indexes = _interfaces(table, end)
                found = _reader(name).of_numbers(indexes)
                table.wrong[list(found.wrong)] = True
                place(columns, valid, name, found)
                place(columns, valid, f"{name}_name", _reader(f"{name}_name").of_texts(names))
