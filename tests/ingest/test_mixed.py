"""Reading columns without regard to templates gives what reading template by template gives."""

import struct
from pathlib import Path

import numpy as np
import pytest
from build import define, flow_set, ipfix
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.batch import Batch
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.layout import layout_of
from flowagent.ingest.mixed import can_mix
from flowagent.ingest.pcap import captures
from flowagent.ingest.templates import Template
from flowagent.schema import COLUMNS

DATA = Path(__file__).parent.parent / "data" / "captures"
WANTED = frozenset(COLUMNS)
FIELDS = [
    (1, 8), (1, 4), (2, 8), (4, 1), (7, 2), (8, 4), (12, 4), (27, 16), (28, 16), (10, 4), (14, 2), (61, 1), (58, 2),
    (152, 8), (153, 8), (158, 4), (159, 4), (176, 1), (177, 1), (6, 2), (82, 65535), (83, 65535), (6876, 892, 65535),
    (132, 8), (56, 6), (80, 6), (5, 1), (1234, 7, 3),
]  # fmt: skip


def rows(decoder: Decoder, chunks: list[Datagrams]) -> Batch:
    return Batch.concat([decoder.feed(chunk) for chunk in chunks])


def assert_same(one: Batch, other: Batch) -> None:
    assert len(one) == len(other)
    for name in WANTED & (set(one.columns) | set(other.columns)):
        known = one.is_known(name)
        np.testing.assert_array_equal(known, other.is_known(name), err_msg=name)
        if name in one and name in other:
            np.testing.assert_array_equal(one[name][..., known], other[name][..., known], err_msg=name)


def assert_mixing_changes_nothing(chunks: list[Datagrams]) -> None:
    # With all columns wanted, extra ones too, records are read template by template.
    apart, together = Decoder(wanted=None, ordered=True), Decoder(wanted=WANTED, ordered=True)
    assert_same(rows(apart, chunks), rows(together, chunks))
    assert apart.stats == together.stats


@pytest.mark.parametrize("path", sorted(DATA.glob("*.pcap")), ids=lambda path: path.stem)
def test_captures(path):
    (capture,) = captures([path])
    assert_mixing_changes_nothing(list(capture.datagrams()))


def is_mixed(monkeypatch, chunks: list[Datagrams]) -> int:
    """How many sets are decoded regardless of their template."""
    from flowagent.ingest.ipfix import Ipfix

    counts = []
    original = Ipfix.decode_mixed

    def counting(self, data, header, cohorts, which, sets):
        counts.append(len(sets.rows))
        return original(self, data, header, cohorts, which, sets)

    monkeypatch.setattr(Ipfix, "decode_mixed", counting)
    rows(Decoder(wanted=WANTED), chunks)
    return sum(counts)


def test_open_vswitch_is_mixed(monkeypatch):
    (capture,) = captures([DATA / "ovs-ipfix-s1.pcap"])
    assert is_mixed(monkeypatch, list(capture.datagrams())) == 238


def value(draw, length: int) -> bytes:
    if length == 65535:
        body = draw(st.binary(max_size=12))
        long = draw(st.booleans())
        return (struct.pack("!BH", 255, len(body)) if long else bytes([len(body)])) + body
    return draw(st.binary(min_size=length, max_size=length))


@st.composite
def streams(draw) -> list[bytes]:
    """Templates of random fields, then sets of a few records under any of them, some damaged."""
    templates = draw(st.lists(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=9), min_size=4, max_size=8))
    out = [ipfix(*(define(300 + i, *fields) for i, fields in enumerate(templates)))]
    for _ in range(draw(st.integers(1, 12))):
        i = draw(st.integers(0, len(templates) - 1))
        count = draw(st.integers(1, 3))
        body = b"".join(value(draw, field[-1]) for _ in range(count) for field in templates[i])
        body = body[: len(body) - draw(st.sampled_from([0, 0, 0, 0, 1, 5]))] + bytes(
            draw(st.sampled_from([0, 0, 2, 9]))
        )
        out.append(ipfix(flow_set(300 + i, body)))
    return out


@settings(max_examples=150, deadline=None)
@given(streams())
def test_random_templates(payloads):
    assert_mixing_changes_nothing([Datagrams.of(payloads)])


@settings(max_examples=60, deadline=None)
@given(streams())
def test_sets_of_another_domain(payloads):
    # The template may not be meant for these: only what it explains to the end is decoded.
    other = [payloads[0]] + [p[:12] + struct.pack("!I", 9) + p[16:] for p in payloads[1:]]
    assert_mixing_changes_nothing([Datagrams.of(other)])


def spec(*fields: tuple[int, ...]) -> Template:
    body = define(300, *fields)[8:]
    return Template(300, 10, len(fields), 0, body)


def test_what_can_be_mixed():
    assert can_mix(spec((8, 4), (1, 8)))
    assert can_mix(spec((82, 65535), (1, 8)))
    assert not can_mix(spec((8, 4), (27, 16), (1, 8)))  # either address may hold
    assert not can_mix(spec((1, 8), (29305, 1, 8)))  # two directions
    assert not can_mix(spec((8, 0)))  # no bytes


def test_layouts_are_shared():
    assert layout_of(spec((8, 4))) is layout_of(spec((8, 4)))
