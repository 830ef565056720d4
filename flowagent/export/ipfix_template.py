"""Templates of the IPFIX that is sent: rows that know the same columns share one.

A record has no way to say that a value is unknown, so rows are grouped by what
they know, and each group gets a template with just that. IPv4 and IPv6 have
elements of their own, so they get templates of their own, too.

Elements: IANA's registry; RFC 7011 (sections 3.4 and 6), RFC 5477 (selectors),
RFC 7015 (deltaFlowCount), RFC 7119 (originalObservationDomainId).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.elements import COLUMN, Element, element
from flowagent.export.text import is_v4
from flowagent.grouping import group_rows
from flowagent.schema import COLUMNS

SELECTOR = "selector"
"""A column made for the export: the number of the row's sampling rate, which options records explain."""
OPTIONS_ID, FALLBACK_IDS, FIRST_ID = 256, {4: 257, 6: 258}, 259
"""Numbers of the templates of rates, of rows when there are too many templates, and of others."""
MAX_TEMPLATES = 1000
_ORDER = {name: i for i, name in enumerate((SELECTOR, *COLUMNS))}
_CORE = ("src_addr", "dst_addr", "src_port", "dst_port", "proto", "bytes", "packets", "start_ns", "end_ns")
_HEADER_AND_SET = 20
_MS = 1_000_000
_OWN: dict[tuple[str, int], tuple[int, int]] = {
    (SELECTOR, 0): (0, 302), ("records", 0): (0, 3), ("received_ns", 0): (0, 258),
    ("start_ns", 0): (0, 152), ("end_ns", 0): (0, 153), ("mpls_label", 0): (0, 70),
    ("exporter", 4): (0, 130), ("exporter", 6): (0, 131), ("observation_domain", 0): (0, 405),
}  # fmt: skip
_KINDS = {"unsigned": "u", "signed": "i", "float": "f"}


class Form(NamedTuple):
    """How values are written: the dtype of the bytes, and what makes them of a column."""

    dtype: np.dtype[np.void] | np.dtype[np.generic]
    write: Callable[[Array], Array]


def _number(dtype: np.dtype[np.generic]) -> Form:
    """Big-endian; an integer that does not fit becomes the nearest that does."""

    def write(values: Array) -> Array:
        if dtype.kind == "f" or values.dtype.itemsize <= dtype.itemsize:
            return values
        limits = np.iinfo(dtype.str)
        return np.clip(values, limits.min, limits.max)

    return Form(dtype.newbyteorder(">"), write)


def _time(dtype: np.dtype[np.generic], unit_ns: int) -> Form:
    return Form(dtype.newbyteorder(">"), lambda values: np.maximum(values, 0) // unit_ns)


def _last_bytes(size: int, shift: int = 0) -> Form:
    """The lower bytes of an integer."""

    def write(values: Array) -> Array:
        words = (values.astype(np.uint64) << np.uint64(shift)).astype(">u8")
        return words.view(np.uint8).reshape(-1, 8)[:, -size:]

    return Form(np.dtype(("u1", size)), write)


def _ipv6(words: Array) -> Array:
    out = np.empty(words.shape[-1], _PAIR)
    out["high"], out["low"] = words
    return out


_PAIR = np.dtype([("high", ">u8"), ("low", ">u8")])
_IPV4 = Form(np.dtype(">u4"), lambda words: words[1] & np.uint64(0xFFFF_FFFF))
_IPV6 = Form(_PAIR, _ipv6)


class Field(NamedTuple):
    """A field of a template: what it is filled from, its element and its form."""

    column: str
    pen: int
    number: int
    form: Form

    def specifier(self) -> bytes:
        """As a template record has it (RFC 7011, section 3.2)."""
        size = self.form.dtype.itemsize
        if not self.pen:
            return struct.pack(">HH", self.number, size)
        return struct.pack(">HHI", self.number | 0x8000, size, self.pen)


class Template:
    """A template of data records."""

    def __init__(self, number: int, fields: Iterable[Field]) -> None:
        self.number = number
        self.fields = tuple(fields)
        self.dtype = np.dtype([(f.column, f.form.dtype) for f in self.fields])

    def record(self) -> bytes:
        """The template record."""
        return struct.pack(">HH", self.number, len(self.fields)) + b"".join(f.specifier() for f in self.fields)

    def records(self, rows: Batch) -> Array:
        """Data records (n,) of the template's dtype, of rows that all know the same; zero where they know nothing."""
        known = [f for f in self.fields if f.column in rows and _is_known(rows, f.column)]
        out = np.empty(len(rows), self.dtype) if len(known) == len(self.fields) else np.zeros(len(rows), self.dtype)
        with np.errstate(over="ignore"):  # of floats
            for f in known:
                out[f.column] = f.form.write(rows[f.column])
        return out


class Templates:
    """All templates that were needed so far; their number is bounded, and so is the length of their records."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of a message at most."""
        self._room = limit - _HEADER_AND_SET
        self._known: dict[tuple[tuple[str, int, str], ...], Template] = {}
        self._fallbacks = {
            version: Template(number, self._fields({name: _model(name, version) for name in _CORE}))
            for version, number in FALLBACK_IDS.items()
        }
        self.narrowed = 0
        """Rows that were sent with the core columns only: there were too many templates."""

    def __iter__(self) -> Iterator[Template]:
        return iter((*self._known.values(), *self._fallbacks.values()) if self.narrowed else self._known.values())

    def groups(self, batch: Batch) -> Iterator[tuple[Template, Batch]]:
        """The rows, those of one template together."""
        flags = [mask for name in batch.columns if (mask := batch.valid.get(name)) is not None]
        flags += [is_v4(values) for values in batch.columns.values() if values.ndim == 2]
        if not len(batch):
            return
        groups = group_rows(flags or [np.zeros(len(batch), np.bool_)])
        if len(groups.starts) == 1:
            yield self._template(batch), batch
            return
        stops = [*groups.starts[1:].tolist(), len(batch)]
        for start, stop in zip(groups.starts.tolist(), stops, strict=True):
            rows = batch.take(groups.order[start:stop])
            yield self._template(rows), rows

    def _template(self, rows: Batch) -> Template:
        """That of rows that all know the same."""
        known = {name: values for name, values in rows.columns.items() if _is_known(rows, name)}
        versions = {name: _version(values) if values.ndim == 2 else 0 for name, values in known.items()}
        key = tuple((name, versions[name], values.dtype.str) for name, values in known.items())
        template = self._known.get(key)
        if template is None and len(self._known) < MAX_TEMPLATES and (fields := self._fields(known)):
            template = self._known[key] = Template(FIRST_ID + len(self._known), fields)
        if template is None:
            self.narrowed += len(rows)
            return self._fallbacks[max(4, *(versions.get(name, 0) for name in _CORE[:2]))]
        return template

    def _fields(self, known: Mapping[str, Array]) -> list[Field]:
        """Those of the columns that have an element, in canonical order and as many as there is room for."""
        addresses = [known[name] for name in ("src_addr", "dst_addr") if name in known]
        version = _version(addresses[0]) if addresses else 4
        fields: list[Field] = []
        record = described = 0
        taken = set()
        for name in sorted(known, key=lambda name: _ORDER.get(name, len(_ORDER))):
            f = _field(name, known[name], version)
            if f is None or (f.pen, f.number) in taken:
                continue
            record += f.form.dtype.itemsize
            described += len(f.specifier())
            if max(record, described + 4) > self._room:
                break
            fields.append(f)
            taken.add((f.pen, f.number))
        return fields


def _model(name: str, version: int) -> Array:
    """A column of one row."""
    if COLUMNS[name].kind != "addr":
        return np.zeros(1, COLUMNS[name].dtype)
    return np.array([[0], [0xFFFF_0000_0000 if version == 4 else 0]], np.uint64)


def _is_known(rows: Batch, name: str) -> bool:
    """Of rows that all know the same."""
    return name not in rows.valid or bool(rows.valid[name][0])


def _version(words: Array) -> int:
    return 4 if bool(is_v4(words[:, :1])[0]) else 6


def _field(name: str, values: Array, version: int) -> Field | None:
    """The field of a column; None where no element of fixed length says it. `version` is that of the flow."""
    if values.ndim == 2:
        version = _version(values)
    key = _by_column().get((name, version)) or _by_column().get((name, 0)) or _by_name().get(name)
    if key is None:
        return None
    form = _form(name, element(*key), values)
    return None if form is None else Field(name, *key, form)


def _form(name: str, what: Element, values: Array) -> Form | None:
    if values.ndim == 2:
        version = _version(values)
        return (_IPV4 if version == 4 else _IPV6) if what.type == f"ipv{version}Address" else None
    if values.dtype.kind not in _KINDS.values():
        return None
    if name == "mpls_label":
        return _last_bytes(3, shift=4)
    match what.type:
        case "macAddress":
            return _last_bytes(6)
        case "dateTimeMilliseconds":
            return _time(np.dtype("u8"), _MS)
        case "dateTimeSeconds":
            return _time(np.dtype("u4"), 1000 * _MS)
    if name in COLUMNS:
        return _number(np.dtype(COLUMNS[name].dtype))
    kind = what.type.rstrip("0123456789")
    bits = what.type.removeprefix(kind)
    if _KINDS.get(kind) != values.dtype.kind or bits not in ("8", "16", "32", "64"):
        return None
    return _number(np.dtype(f"{_KINDS[kind]}{int(bits) // 8}"))


@cache
def _by_column() -> dict[tuple[str, int], tuple[int, int]]:
    """Elements by canonical column and IP version; version 0 where that does not matter."""
    found = dict(_OWN)
    for key, column in COLUMN.items():
        name = element(*key).name
        version = 4 if "IPv4" in name else 6 if "IPv6" in name else 0
        found.setdefault((column, version), key)
    return found


@cache
def _by_name() -> dict[str, tuple[int, int]]:
    """IANA's elements that columns are named after."""
    known = (element(0, number) for number in range(1, 1024))
    return {e.name: (e.pen, e.id) for e in known}
