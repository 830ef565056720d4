"""Random exports of NetFlow v9 and IPFIX, built with scapy, and the truth about them."""

import random
import time
from typing import NamedTuple

from live.agent import Sums
from live.generate import Sent
from scapy.layers.netflow import (
    NetflowDataflowsetV9,
    NetflowFlowsetV9,
    NetflowHeader,
    NetflowHeaderV9,
    NetflowHeaderV10,
    NetflowTemplateFieldV9,
    NetflowTemplateV9,
)
from scapy.packet import Packet, Raw

BYTES, PACKETS = 1, 2
ADDRESSES = ([(8, 4), (12, 4)], [(27, 16), (28, 16)])
"""Elements and lengths, of IPv4 and IPv6."""
OTHERS = (
    (4, 1), (5, 1), (6, 1), (7, 2), (9, 1), (10, 2), (10, 4), (11, 2), (13, 1), (14, 2), (14, 4), (16, 2), (16, 4),
    (17, 2), (17, 4), (21, 4), (22, 4), (56, 6), (58, 2), (61, 1), (80, 6),
)  # fmt: skip
"""Elements that every decoder has known for long, in the lengths that they come in."""
LARGEST = 1 << 31


class Template(NamedTuple):
    """Elements and their lengths."""

    number: int
    fields: list[tuple[int, int]]

    @classmethod
    def draw(cls, rng: random.Random, number: int) -> "Template":
        """Addresses, counters and some others, in any order."""
        others = dict(rng.sample(OTHERS, rng.randrange(len(OTHERS))))
        counters = [(BYTES, rng.choice((4, 8))), (PACKETS, rng.choice((4, 8)))]
        fields = [*rng.choice(ADDRESSES), *counters, *others.items()]
        rng.shuffle(fields)
        return cls(number, fields)

    def described(self) -> NetflowTemplateV9:
        fields = [NetflowTemplateFieldV9(fieldType=element, fieldLength=length) for element, length in self.fields]
        return NetflowTemplateV9(templateID=self.number, template_fields=fields)

    def record(self, rng: random.Random, sums: Sums) -> bytes:
        """A record of anything but for the counters."""
        known = {BYTES: sums.bytes, PACKETS: sums.packets}
        return b"".join(
            known[element].to_bytes(length, "big") if element in known else rng.randbytes(length)
            for element, length in self.fields
        )


def random_exports(version: int, seed: int, datagrams: int = 40) -> tuple[list[bytes], Sent]:
    """Datagrams of NetFlow v9 or IPFIX (version 10) with new templates in the middle.

    New ones have new numbers, as tshark does not take a changed template for an old number.
    """
    rng = random.Random(seed)
    records, sums, payloads = 0, Sums(), []
    for number in range(datagrams):
        sets: list[Packet] = []
        count = 0
        if number in (0, datagrams // 2):
            templates = [Template.draw(rng, 256 + 10 * number + i) for i in range(rng.randrange(2, 7))]
            described = [template.described() for template in templates]
            sets.append(NetflowFlowsetV9(flowSetID=0 if version == 9 else 2, templates=described))
            count += len(templates)
        for template in rng.sample(templates, rng.randrange(1, len(templates) + 1)):
            flows = [Sums(rng.randrange(1, LARGEST), rng.randrange(1, LARGEST)) for _ in range(rng.randrange(1, 6))]
            content = b"".join(template.record(rng, flow) for flow in flows)
            sets.append(NetflowDataflowsetV9(templateID=template.number, records=[Raw(content)]))
            count += len(flows)
            records += len(flows)
            sums = sum(flows, sums)
        payloads.append(_datagram(version, sets, count, number))
    return payloads, Sent(records, sums, datagrams)


def _datagram(version: int, sets: list[Packet], count: int, number: int) -> bytes:
    now = int(time.time())  # noqa: TID251
    if version == 9:
        packet = NetflowHeaderV9(count=count, sysUptime=3_600_000, unixSecs=now, packageSequence=number, SourceID=7)
    else:
        length = 16 + sum(map(len, map(bytes, sets)))
        packet = NetflowHeaderV10(length=length, ExportTime=now, ObservationDomainID=7)
    for one in sets:
        packet /= one
    return bytes(NetflowHeader(version=version) / packet)
