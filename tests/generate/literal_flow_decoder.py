"""A decoder as literal as can be: one field after the other, for comparison with what was built column by column."""

import struct
from dataclasses import dataclass, field

VARIABLE = 65535
PACKETS, BYTES = 2, 1


@dataclass
class Decoded:
    version: int
    seconds: int
    sequence: int
    domain: int
    uptime: int = 0
    sampling: int = 0
    records: list = field(default_factory=list)
    """Flow records: (template id, [(enterprise, element, value)]); addresses and texts are bytes."""
    options: list = field(default_factory=list)

    def sum(self, element):
        return sum(value for _, values in self.records for _, number, value in values if number == element)


class Decoder:
    def __init__(self):
        self.templates = {}
        self.option_ids = set()

    def decode(self, data):
        version = struct.unpack_from(">H", data)[0]
        if version == 5:
            return _netflow5(data)
        if version == 9:
            _, count, uptime, seconds, sequence, domain = struct.unpack_from(">HHIIII", data)
            message, at = Decoded(9, seconds, sequence, domain, uptime), 20
        else:
            _, length, seconds, sequence, domain = struct.unpack_from(">HHIII", data)
            assert length == len(data)
            message, at = Decoded(10, seconds, sequence, domain), 16
        templates_before = len(self.templates)
        while at < len(data):
            set_id, length = struct.unpack_from(">HH", data, at)
            assert length >= 4
            assert at + length <= len(data)
            self._set(message, set_id, data[at + 4 : at + length])
            at += length
        if version == 9:
            new = len(self.templates) - templates_before
            assert count in (new + len(message.records) + len(message.options), len(message.records) or count)
        return message

    def _set(self, message, set_id, body):
        if set_id in (0, 2):
            self._templates(body)
        elif set_id == 1:
            template_id, scope, options = struct.unpack_from(">HHH", body)
            self._template(template_id, (scope + options) // 4, body, 6)
            self.option_ids.add(template_id)
        elif set_id == 3:
            template_id, fields, _scope = struct.unpack_from(">HHH", body)
            self._template(template_id, fields, body, 6)
            self.option_ids.add(template_id)
        else:
            target = message.options if set_id in self.option_ids else message.records
            at = 0
            while len(body) - at >= 4:
                values, at = self._record(self.templates[set_id], body, at)
                target.append((set_id, values))

    def _templates(self, body):
        at = 0
        while at < len(body):
            template_id, fields = struct.unpack_from(">HH", body, at)
            at = self._template(template_id, fields, body, at + 4)

    def _template(self, template_id, count, body, at):
        fields = []
        for _ in range(count):
            element, size = struct.unpack_from(">HH", body, at)
            at += 4
            enterprise = 0
            if element & 0x8000:
                (enterprise,) = struct.unpack_from(">I", body, at)
                at += 4
            fields.append((enterprise, element & 0x7FFF, size))
        self.templates[template_id] = fields
        return at

    def _record(self, fields, body, at):
        values = []
        for enterprise, element, size in fields:
            length = size
            if size == VARIABLE:
                length, at = body[at], at + 1
            raw = body[at : at + length]
            assert len(raw) == length
            number = size in (1, 2, 4, 8) and element not in (8, 12, 15)
            values.append((enterprise, element, int.from_bytes(raw, "big") if number else raw))
            at += length
        return values, at


def _netflow5(data):
    _, count, uptime, seconds, _nanoseconds, sequence, engine, sampling = struct.unpack_from(">HHIIIIHH", data)
    assert len(data) == 24 + 48 * count
    message = Decoded(5, seconds, sequence, engine, uptime, sampling)
    elements = (8, 12, 15, 10, 14, 2, 1, 22, 21, 7, 11, 0, 6, 4, 5, 16, 17, 9, 13, 0)
    for i in range(count):
        values = struct.unpack_from(">4s4s4sHHIIIIHHBBBBHHBBH", data, 24 + 48 * i)
        message.records.append((0, [(0, element, value) for element, value in zip(elements, values, strict=True)]))
    return message
