"""A template with every field's place known: turns records into columns.

Records of one layout have equal length, so a column is a strided view of their
bytes. A template with variable-length fields has one layout for each
combination of lengths met (`records.py` sorts records by it).
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array
from flowagent.elements import (
    COLUMN,
    ICMP_TYPE_CODE,
    MPLS_TOP_LABEL,
    REVERSE_PEN,
    TIMES,
    element,
    extra_name,
)
from flowagent.ingest import fields as f
from flowagent.ingest.templates import SCOPE_PEN, Template
from flowagent.schema import COLUMNS

SCOPE_NAMES = {1: "scopeSystem", 2: "scopeInterface", 3: "scopeLineCard", 4: "scopeCache", 5: "scopeTemplate"}
_SYSTEM_INIT = "systemInitTimeMilliseconds"
_TIME_ORDER = {key: rank for rank, key in enumerate(TIMES)}
_ICMP_PROTOCOLS = (1, 58)
_EITHER_VERSION = frozenset({"src_mask", "dst_mask", "icmp_type", "icmp_code"})
"""Columns that IPv4 and IPv6 have separate elements for, like the addresses."""
_SWAPPED = {"src_addr": "dst_addr", "src_port": "dst_port", "src_mask": "dst_mask", "src_as": "dst_as",
            "src_mac": "dst_mac", "in_if": "out_if", "vlan": "dst_vlan"}  # fmt: skip
_REVERSE_NAME = {**_SWAPPED, **{b: a for a, b in _SWAPPED.items()}}
_SHARED = ("proto", "start_ns", "end_ns", "ether_type", "observation_point", "flow_end_reason")


class Piece(NamedTuple):
    """Where one field lies in the record, and how to read it."""

    offset: int
    length: int
    convert: f.Converter

    def read(self, records: Array, head: f.Head) -> f.Values | None:
        return self.convert(records[..., self.offset : self.offset + self.length], head)


class _Pieces(dict[str, list[Piece]]):
    """The pieces of one direction by column; several for one column are alternatives, one for each IP version."""

    def __init__(self) -> None:
        super().__init__()
        self._time_ranks: dict[str, int] = {}

    def place(self, key: tuple[int, int], offset: int, length: int, *, extras: bool) -> None:
        """Add the field of an element; without `extras` only where it fills a canonical column."""
        if key in TIMES:
            self._place_time(key, offset, length)
        elif key in ICMP_TYPE_CODE and length == 2:
            self.setdefault("icmp_type", []).append(Piece(offset, 1, f.unsigned("u1")))
            self.setdefault("icmp_code", []).append(Piece(offset + 1, 1, f.unsigned("u1")))
        elif key == MPLS_TOP_LABEL and length >= 3:
            self[self._free_name("mpls_label")] = [Piece(offset, length, f.mpls_label)]
        elif key in COLUMN:
            self._place_column(key, offset, length, extras=extras)
        elif extras:
            self._place_extra(extra_name(element(*key)), key, offset, length)

    def _place_time(self, key: tuple[int, int], offset: int, length: int) -> None:
        """The most exact of several elements for one moment stays."""
        column, encoding = TIMES[key]
        convert, rank = f.time_converter(encoding, length), _TIME_ORDER[key]
        if convert is not None and rank < self._time_ranks.get(column, len(TIMES)):
            self._time_ranks[column] = rank
            self[column] = [Piece(offset, length, convert)]

    def _place_column(self, key: tuple[int, int], offset: int, length: int, *, extras: bool) -> None:
        name = COLUMN[key]
        convert = _column_converter(name, length)
        if convert is None:
            return
        if name not in self or COLUMNS[name].kind == "addr" or name in _EITHER_VERSION:
            self.setdefault(name, []).append(Piece(offset, length, convert))
        elif extras:
            self._place_extra(name, key, offset, length)

    def _place_extra(self, name: str, key: tuple[int, int], offset: int, length: int) -> None:
        convert = f.converter(element(*key).type, length)
        if convert is not None:
            self[self._free_name(name)] = [Piece(offset, length, convert)]

    def _free_name(self, name: str) -> str:
        """Repeated elements keep their order: interfaceName, interfaceName_2 and so on."""
        count, free = 1, name
        while free in self:
            count += 1
            free = f"{name}_{count}"
        return free


class Layout:
    """Columns of the records of one template, given the length of every field."""

    def __init__(self, template: Template, lengths: Sequence[int], prefixes: Sequence[int]) -> None:
        """`lengths` and `prefixes`: each field's bytes, and how many bytes before it say its length."""
        self._pieces, self._reverse = _Pieces(), _Pieces()
        offset = 0
        for spec, length, prefix in zip(template.fields, lengths, prefixes, strict=True):
            offset += prefix
            if length and spec.pen == SCOPE_PEN:
                self._place_scope(spec.id, offset, length)
            elif length and spec.pen == REVERSE_PEN:
                self._reverse.place((0, spec.id), offset, length, extras=False)
            elif length:
                self._pieces.place((spec.pen, spec.id), offset, length, extras=True)
            offset += length
        self.record_length = offset
        boot = self._pieces.get(_SYSTEM_INIT)
        self._system_init = boot[0] if boot else None
        self.names = frozenset(self._pieces)
        """Columns that these records can fill."""
        plain = boot is None and not self._reverse and all(len(pieces) == 1 for pieces in self._pieces.values())
        self.places = {name: pieces[0] for name, pieces in self._pieces.items()} if plain else None
        """Where each column lies; None where that is not all there is to say."""
        self.last_asked: tuple[frozenset[str], list[tuple[str, tuple[int, f.Converter], int]]] | None = None

    def _place_scope(self, number: int, offset: int, length: int) -> None:
        convert = f.converter("unsigned64", length)
        if convert is not None:
            self._pieces.setdefault(SCOPE_NAMES.get(number, f"scope{number}"), [Piece(offset, length, convert)])

    def columns(self, records: Array, head: f.Head, wanted: Set[str] | None) -> dict[str, f.Values]:
        """Columns of `records`, uint8 (sets, records, record_length): those in `wanted`, all where it is None."""
        return self._read(self._pieces, records, self._own_boot_time(records, head), wanted)

    def reverse_columns(self, records: Array, head: f.Head, wanted: Set[str] | None) -> dict[str, f.Values] | None:
        """The other direction of biflows as flows of their own (RFC 5103); None where the template has none."""
        if not self._reverse:
            return None
        head = self._own_boot_time(records, head)
        back = self._read(self._reverse, records, head, wanted)
        own = {_REVERSE_NAME.get(name, name) for name in wanted} if wanted is not None else None
        forward = self._read(self._pieces, records, head, own)
        for name, values in forward.items():
            if name in _REVERSE_NAME:
                back.setdefault(_REVERSE_NAME[name], values)
            elif name in _SHARED:
                back.setdefault(name, values)
        return back

    def _read(
        self, pieces: dict[str, list[Piece]], records: Array, head: f.Head, wanted: Set[str] | None
    ) -> dict[str, f.Values]:
        out: dict[str, f.Values] = {}
        for name, choices in pieces.items():
            if wanted is not None and name not in wanted:
                continue
            values = choices[0].read(records, head)
            for other in choices[1:]:
                values = _coalesce(values, other.read(records, head))
            if values is not None:
                out[name] = values
        if "icmp_type" in out or "icmp_code" in out:
            proto = pieces.get("proto") or self._pieces.get("proto")
            only_icmp(out, proto[0].read(records, head) if proto else None)
        return out

    def _own_boot_time(self, records: Array, head: f.Head) -> f.Head:
        boot = self._system_init.read(records, head) if self._system_init is not None else None
        if boot is None or boot.known is not None:
            return head
        return f.Head(head.export_ns, head.uptime_ms, boot.data.reshape(records.shape[:2]))


def only_icmp(columns: dict[str, f.Values], proto: f.Values | None) -> None:
    """Exporters with one template for all protocols send ICMP type 0 with TCP: that is unknown, not 0."""
    if proto is None:
        return
    icmp = np.isin(proto.data, _ICMP_PROTOCOLS)
    if proto.known is not None:
        icmp &= proto.known
    if bool(icmp.all()):
        return
    for name in ("icmp_type", "icmp_code"):
        if name in columns:
            data, known = columns[name]
            columns[name] = f.Values(data, icmp if known is None else icmp & known)


def _column_converter(column: str, length: int) -> f.Converter | None:
    """How to read a field of this length into a canonical column; None where its length makes no sense there."""
    kind = COLUMNS[column].kind
    if kind == "addr":
        return f.address if length in (4, 16) else None
    if kind == "mac":
        return f.unsigned("u8") if length == 6 else None
    return f.unsigned(COLUMNS[column].dtype) if length <= 8 else None


def _coalesce(values: f.Values | None, other: f.Values | None) -> f.Values | None:
    """Of two values for one column (a template for both IP versions) the one that is not all zeros."""
    if values is None or other is None:
        return other if values is None else values
    words, known = values
    unset = words == 0 if words.ndim == 1 else (words[0] == 0) & ((words[1] & np.uint64(0xFFFFFFFF)) == 0)
    if not bool(unset.any()):
        return values
    if known is not None or other.known is not None:
        known = np.where(unset, *(np.ones_like(unset) if k is None else k for k in (other.known, known)))
    return f.Values(np.where(unset, other.data, words), known)


class _Kept:
    """Layouts already made, with so many fields in all; the oldest half goes where there are more."""

    MAX_FIELDS = 200_000  # a field takes some 350 bytes

    def __init__(self) -> None:
        self.layouts: dict[tuple[Template, tuple[int, ...] | None], Layout] = {}
        self._fields = 0

    def add(self, template: Template, lengths: tuple[int, ...] | None, layout: Layout) -> None:
        self._fields += template.field_count + 1
        if self._fields > self.MAX_FIELDS:
            for key in list(self.layouts)[: len(self.layouts) // 2 + 1]:
                self._fields -= key[0].field_count + 1
                del self.layouts[key]
        self.layouts[template, lengths] = layout


_kept = _Kept()


def layout_of(template: Template, lengths: tuple[int, ...] | None = None) -> Layout:
    """The layout of a template's records; `lengths` of its variable-length fields, in order, where it has any."""
    layout = _kept.layouts.get((template, lengths))
    if layout is None:
        layout = _make(template, lengths)
        _kept.add(template, lengths, layout)
    return layout


def _make(template: Template, lengths: tuple[int, ...] | None) -> Layout:
    if lengths is None:
        sizes = [spec.length for spec in template.fields]
        return Layout(template, sizes, [0] * len(sizes))
    rest = iter(lengths)
    sizes, prefixes = [], []
    for spec in template.fields:
        variable = spec.length == 65535
        size = next(rest) if variable else spec.length
        # Lengths are kept as length * 4 + bytes of the prefix (1 or 3).
        sizes.append(size >> 2 if variable else size)
        prefixes.append(size & 3 if variable else 0)
    return Layout(template, sizes, prefixes)
