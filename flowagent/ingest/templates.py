"""Templates: how an exporter says what its records look like (RFC 3954, section 5; RFC 7011, section 3.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from flowagent.elements import VARIABLE
from flowagent.errors import DecodeError

SCOPE_PEN = -1
"""Stands for the number space of NetFlow v9's scope field types (RFC 3954, section 6.1)."""
MAX_FIELDS = 1024
"""Of a template; Open vSwitch's have up to 67."""
_OVS_HEAD = ((0, 138), (0, 61), (0, 56), (0, 80), (0, 256), (0, 240))
_OVS_START = struct.pack("!H", 138)


_SAMPLING_ELEMENTS = frozenset({34, 48, 50, 302, 305, 306, 309, 310, 311})


class FieldSpec(NamedTuple):
    """One field of a template; `length` 65535 means that each record says it."""

    pen: int
    id: int
    length: int


@dataclass(frozen=True)
class Template:
    """A template as received.

    `body` is the field specifiers' bytes as they were on the wire: equal bytes
    are the same template, and thousands of templates stay small.
    """

    id: int
    version: int
    field_count: int
    scope_count: int
    body: bytes

    @property
    def is_options(self) -> bool:
        """Whether its records speak of the exporter rather than of flows."""
        return self.scope_count != 0

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields in their order."""
        return _fields(self.version, self.field_count, self.scope_count, self.body)

    @cached_property
    def min_length(self) -> int:
        """Bytes of the shortest record; a variable-length field takes at least one."""
        return sum(1 if f.length == VARIABLE else f.length for f in self.fields)

    @cached_property
    def is_variable(self) -> bool:
        """Whether records differ in length."""
        return any(f.length == VARIABLE for f in self.fields)

    @cached_property
    def is_ovs(self) -> bool:
        """Whether this is a template of Open vSwitch, whose counts are already multiplied by the sampling rate.

        Told by the head of its field list; which fields follow depends on the flow's layers.
        """
        if not self.body.startswith(_OVS_START):
            return False
        keys = [(f.pen, f.id) for f in self.fields]
        return tuple(keys[: len(_OVS_HEAD)]) == _OVS_HEAD and {(0, 158), (0, 159)} <= set(keys)

    @cached_property
    def says_sampling(self) -> bool:
        """Whether its records say their sampling rate, or which selector's rate is theirs."""
        return any(f.pen == 0 and f.id in _SAMPLING_ELEMENTS for f in self.fields)


@lru_cache(maxsize=512)
def _fields(version: int, field_count: int, scope_count: int, body: bytes) -> tuple[FieldSpec, ...]:
    specs, offset = [], 0
    for i in range(field_count):
        number, length = struct.unpack_from("!HH", body, offset)
        offset += 4
        pen = 0
        if version == 10 and number & 0x8000:
            (pen,) = struct.unpack_from("!I", body, offset)
            number &= 0x7FFF
            offset += 4
        elif version == 9 and i < scope_count:
            pen = SCOPE_PEN
        specs.append(FieldSpec(pen, number, length))
    return tuple(specs)


def parse_template_set(body: bytes, version: int, *, options: bool) -> Iterator[Template]:
    """The templates of one (options) template set, in order; one of zero fields is a withdrawal.

    Raises DecodeError("bad_template") where the set ends inside a template;
    the ones before it have been yielded. Up to three bytes of padding are
    allowed (and zeros, which some exporters fill up with).
    """
    offset = 0
    while len(body) - offset >= 4:
        template_id, count = struct.unpack_from("!HH", body, offset)
        if version == 10 and template_id == (3 if options else 2) and count == 0:
            yield Template(template_id, version, 0, 0, b"")  # withdraws all (RFC 7011, section 8.1)
            offset += 4
            continue
        if template_id < 256:
            if any(body[offset:]):
                raise DecodeError("bad_template", f"template id {template_id} is below 256")
            return
        offset += 4
        scope = 0
        if options and (count or version == 9):
            if len(body) - offset < 2:
                raise DecodeError("bad_template", "set ends inside a template header")
            (second,) = struct.unpack_from("!H", body, offset)
            offset += 2
            if version == 9:
                # Lengths in bytes: of the scope fields, then of the option fields.
                count, scope = (count + second) // 4, count // 4
            else:
                scope = second
            if scope > count:
                raise DecodeError("bad_template", f"{scope} scope fields of {count}")
        if count > MAX_FIELDS:
            raise DecodeError("bad_template", f"{count} fields")
        start = offset
        offset = _skip_fields(body, offset, count, version)
        # Options without scope fields (some exporters send them) are marked by a scope count of -1.
        yield Template(template_id, version, count, scope or -int(options and count > 0), body[start:offset])


def _skip_fields(body: bytes, offset: int, count: int, version: int) -> int:
    if version == 9:
        end = offset + 4 * count
    else:
        end = offset
        for _ in range(count):
            if end >= len(body):
                raise DecodeError("bad_template", "set ends inside a template")
            end += 8 if body[end] & 0x80 else 4
    if end > len(body):
        raise DecodeError("bad_template", "set ends inside a template")
    return end
