"""Rows from objects that nfdump prints (`nfdump -o json`), by its names: lines, one object each.

Its times have no zone: print them in UTC (`TZ=UTC nfdump …`). A field that says 0 for what is not there, as all do,
is taken at its word only where 0 is a value of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.ingest.canonical import column, place, reader
from flowagent.ingest.decoded import Decoded, finish
from flowagent.ingest.objects import Table, read
from flowagent.ingest.values import Read, Values

_PLAIN = {
    "in_packets": "packets", "in_bytes": "bytes", "proto": "proto", "src_port": "src_port", "dst_port": "dst_port",
    "src4_addr": "src_addr", "dst4_addr": "dst_addr", "src6_addr": "src_addr", "dst6_addr": "dst_addr",
    "src_tos": "tos", "icmp_type": "icmp_type", "icmp_code": "icmp_code", "input_snmp": "in_if",
    "output_snmp": "out_if", "src_as": "src_as", "dst_as": "dst_as", "src_mask": "src_mask", "dst_mask": "dst_mask",
    "direction": "direction", "ip4_next_hop": "next_hop", "ip6_next_hop": "next_hop", "ip4_router": "exporter",
    "ip6_router": "exporter", "src_vlan": "vlan", "dst_vlan": "dst_vlan", "in_src_mac": "src_mac",
    "out_dst_mac": "dst_mac", "aggr_flows": "records", "src4_xlt_ip": "nat_src_addr", "dst4_xlt_ip": "nat_dst_addr",
    "src_xlt_port": "nat_src_port", "dst_xlt_port": "nat_dst_port",
}  # fmt: skip
_TIMES = {"first": "start_ns", "t_first": "start_ns", "last": "end_ns", "t_last": "end_ns", "received": "received_ns",
          "t_received": "received_ns"}  # fmt: skip
_FLAGS = "CEUAPRSF"
"""As nfdump prints them, the highest bit first; a dot is one that is not set."""
_NEVER_ZERO = frozenset({"in_if", "out_if", "src_as", "dst_as", "src_mask", "dst_mask", "vlan", "dst_vlan", "src_mac",
                         "dst_mac", "next_hop"})  # fmt: skip
_ALWAYS = frozenset({"records"})


class NfdumpDecoder:
    """Lines that are objects of nfdump each."""

    name = "nfdump"

    def __init__(self) -> None:
        self._wanted: frozenset[str] | None = None

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""
        self._wanted = None if columns is None else columns | _ALWAYS

    def decode(self, values: list[bytes]) -> Decoded:
        """The rows of these lines; one with a value that can be none of its field is left out."""
        errors: Counter[str] = Counter()
        rows, origin = read(values, "json", errors)
        table = Table(rows)
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        makers: dict[str, tuple[str, Callable[[Table], Read]]] = {
            key: (name, partial(column, key=key, values=_reader(name))) for key, name in _PLAIN.items()
        }
        makers |= {key: (name, partial(_times, key=key)) for key, name in _TIMES.items()}
        makers["tcp_flags"] = ("tcp_flags", _flags)
        for key, (name, make) in makers.items():
            if key in table.keys and (self._wanted is None or name in self._wanted):
                found = make(table)
                if name in _NEVER_ZERO:
                    zero = found.values == 0 if found.values.ndim == 1 else (found.values[1] & 0xFFFFFFFF) == 0
                    found = found._replace(known=found.known & ~zero)
                _merge(columns, valid, name, found)
        kept = table.kept(errors)
        return finish(Batch(columns, len(table), valid).take(kept), origin[kept], +errors, is_weighted=False)


def _merge(columns: dict[str, Array], valid: dict[str, Array], name: str, found: Read) -> None:
    """Two fields may fill one column, such as addresses of IPv4 and IPv6."""
    if name in columns:
        known = valid.pop(name, np.ones(len(found.known), np.bool_))
        found = found._replace(values=np.where(found.known, found.values, columns[name]), known=found.known | known)
    place(columns, valid, name, found)


def _reader(name: str) -> Values:
    found = reader(name)
    assert found is not None
    return found


def _times(table: Table, key: str) -> Read:
    texts = table.values(key, str) or []
    times = [_time(text) for text in texts]
    for i, (text, time) in enumerate(zip(texts, times, strict=True)):
        if text is not None and time is None:
            table.wrong[i] = True
    known = np.array([time is not None for time in times], np.bool_)
    return Read(np.array([time or 0 for time in times], np.int64), known, {})


def _time(text: str | None) -> int | None:
    """Nanoseconds since 1970 of a text such as 2026-11-24T20:15:59.000."""
    try:
        time = np.datetime64(text, "ms") if text and "T" in text else None
    except ValueError:
        return None
    return None if time is None else int(time.astype(np.int64)) * 10**6


def _flags(table: Table) -> Read:
    def bits(text: Any) -> int | None:
        if text is None or len(text) != len(_FLAGS):
            return None
        return sum(1 << 7 - i for i, letter in enumerate(text) if letter == _FLAGS[i])

    return _reader("tcp_flags").of_numbers([bits(text) for text in table.values("tcp_flags", str) or []])
