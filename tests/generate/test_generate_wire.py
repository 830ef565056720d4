"""Datagrams built column by column, read back field by field: lengths, counts, sums, sequence numbers, times."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from literal_flow_decoder import BYTES, PACKETS, Decoder

from flowagent.generate import Settings, ovs, wire

PROTOCOLS = {"netflow5": wire.netflow5, "netflow9": wire.netflow9, "ipfix": wire.ipfix, "ovs": ovs.export}
NOW_MS = 1_800_000_000_678
BOOT_MS = NOW_MS - 86_400_000
FIXTURE = json.loads((Path(__file__).parents[1] / "data" / "ovs-3.1-ipfix-templates.json").read_text())
START_END = {"netflow5": (22, 21), "netflow9": (22, 21), "ipfix": (152, 153)}


def export(protocol, **changes):
    settings = Settings(**{"protocol": protocol, "ring": 24, "keys": 50} | changes)
    return PROTOCOLS[protocol](settings, np.random.default_rng(settings.seed), BOOT_MS)


def stamped(ring, sequence, now_ms=NOW_MS):
    """The next datagrams as bytes, and the sequence number after them."""
    rows = ring.take(len(ring))
    sequence = ring.stamp(rows, sequence, now_ms * 1_000_000)
    return [ring.data[i, : ring.length[i]].tobytes() for i in range(rows.start, rows.stop)], sequence


def session(protocol, rounds=1, **changes):
    """The datagrams of a start and so many rounds, decoded, and the export."""
    made = export(protocol, **changes)
    decoder, sequence, found = Decoder(), made.first_sequence, []
    if made.templates:
        datagrams, sequence = stamped(made.templates, sequence)
        found += map(decoder.decode, datagrams)
    for _ in range(rounds):
        datagrams, sequence = stamped(made.data, sequence)
        found += map(decoder.decode, datagrams)
    return found, made, decoder


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_counts_and_sums_are_those_of_the_records(protocol):
    found, made, _ = session(protocol)
    data = [message for message in found if message.records]
    sums = np.diff(made.data.sums, axis=0)
    assert len(data) == len(made.data) == 24
    assert sums[:, 0].tolist() == [1] * 24
    assert sums[:, 1].tolist() == [len(message.records) for message in data]
    assert sums[:, 2].tolist() == [message.sum(PACKETS) for message in data]
    assert sums[:, 3].tolist() == [message.sum(BYTES) for message in data]
    assert sums[:, 4].tolist() == made.data.length.tolist()


@pytest.mark.parametrize(("protocol", "records"), [("netflow5", 30), ("netflow9", 20), ("ipfix", 17), ("ovs", 1)])
def test_records_of_a_datagram(protocol, records):
    found, made, _ = session(protocol)
    assert {len(message.records) for message in found if message.records} == {records}
    assert made.data.length.max() <= 1464


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sequence_numbers_go_on_across_rounds(protocol):
    found, _, _ = session(protocol, rounds=3, sampling_rate=1 if protocol == "ovs" else 10)
    per_message = [
        1 if protocol == "netflow9" else len(message.records) + (protocol != "netflow5") * len(message.options)
        for message in found
    ]
    first = 1 if protocol == "ovs" else 0
    assert [message.sequence for message in found] == [first + sum(per_message[:i]) for i in range(len(found))]


def test_sequence_numbers_wrap():
    ring = export("ipfix").data
    start = 2**32 - 20
    datagrams, after = stamped(ring, start)
    sequences = [int.from_bytes(datagram[8:12], "big") for datagram in datagrams]
    assert sequences[:3] == [start, start + 17, start + 34 - 2**32]
    assert after == start + 24 * 17 - 2**32


@pytest.mark.parametrize("protocol", ["netflow5", "netflow9", "ipfix"])
@pytest.mark.parametrize("later_ms", [0, 3_600_000, 2**32])
def test_flow_times_lie_just_before_the_present(protocol, later_ms):
    made = export(protocol)
    decoder = Decoder()
    if made.templates:
        for datagram in stamped(made.templates, 0)[0]:
            decoder.decode(datagram)
    now_ms = NOW_MS + later_ms
    for datagram in stamped(made.data, 0, now_ms)[0]:
        message = decoder.decode(datagram)
        assert message.seconds == now_ms // 1000
        for _, values in message.records:
            fields = {element: value for _, element, value in values}
            start, end = (fields[element] for element in START_END[protocol])
            if protocol != "ipfix":  # milliseconds of uptime, 32 bits
                header_ms = now_ms if protocol == "netflow5" else message.seconds * 1000
                assert message.uptime == (header_ms - BOOT_MS) % 2**32
                start, end = (header_ms - (message.uptime - time) % 2**32 for time in (start, end))
            assert now_ms - 2000 < end <= now_ms
            assert end - 60_000 <= start <= end


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_seeds_give_equal_datagrams(protocol):
    one, two, other = (export(protocol, seed=seed).data.data for seed in (3, 3, 4))
    assert np.array_equal(one, two)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize("protocol", ["netflow9", "ipfix"])
@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.5, 0.999, 1])
def test_share_of_ipv6(protocol, share):
    found, made, decoder = session(protocol, ipv6_share=share)
    ids = [template for message in found for template, _ in message.records]
    assert abs(ids.count(wire.IPV6_TEMPLATE) / len(ids) - share) < 0.08
    assert (wire.IPV4_TEMPLATE in ids) == (share < 1)
    assert (wire.IPV6_TEMPLATE in ids) == (share > 0)
    assert sorted(decoder.templates) == [wire.IPV4_TEMPLATE, wire.IPV6_TEMPLATE]
    assert 1250 < made.data.length[0] <= wire.PAYLOAD


def test_sampling_is_announced():
    found, _, _ = session("netflow5", sampling_rate=100)
    assert {message.sampling for message in found} == {1 << 14 | 100}
    nine, ten = (session(protocol, sampling_rate=100)[0][0] for protocol in ("netflow9", "ipfix"))
    assert nine.options == [(258, [(0, 1, 1), (0, 34, 100), (0, 35, 1)])]
    assert ten.options == [(258, [(0, 149, 1), (0, 305, 1), (0, 306, 99)])]
    assert not any(session(protocol)[0][0].options for protocol in ("netflow9", "ipfix"))
    assert not session("netflow5")[0][0].sampling


def test_domain_is_in_every_header():
    for protocol in ("netflow5", "netflow9", "ipfix"):
        assert {message.domain for message in session(protocol, observation_domain=513)[0]} == {513}


# Open vSwitch


def test_ovs_templates_are_those_of_the_real_one():
    _, _, decoder = session("ovs")
    found = {
        str(number): " ".join(f"{f'{pen}:' if pen else ''}{element}/{size}" for pen, element, size in fields)
        for number, fields in decoder.templates.items()
    }
    assert len(found) == 89
    assert found == FIXTURE["templates"]


def test_ovs_messages_of_a_start_are_those_of_the_real_one():
    made = export("ovs", observation_domain=10)
    datagrams, sequence = stamped(made.templates, made.first_sequence)
    assert sequence == 2
    decoder, known = Decoder(), set()
    for datagram, real in zip(datagrams, FIXTURE["messages"], strict=True):
        message = decoder.decode(datagram)
        new, known = set(decoder.templates) - known, set(decoder.templates)
        assert (len(datagram), message.sequence, sorted(new)) == (real["length"], real["sequence"], real["templates"])
        assert message.domain == (10 if real["in_domain"] else 0)
        assert int.from_bytes(datagram[16:18], "big") == real["set"]
        assert message.seconds == NOW_MS // 1000 + 1


def ovs_records(**changes):
    found, _, _ = session("ovs", **{"ring": 2000, "keys": 500} | changes)
    return [(message, *message.records[0]) for message in found if message.records]


def by_element(values):
    fields = {}
    for _, element, value in values:
        fields.setdefault(element, []).append(value)
    return fields


def test_ovs_has_every_packet_on_its_way_in_and_out():
    records = [by_element(values) for _, _, values in ovs_records()]
    assert [r[61] for r in records] == [[0], [1]] * 1000
    same = (2, 1, 4, 7, 11, 8, 12, 27, 28, 176, 177, 178, 179, 198, 158, 159)
    for ingress, egress in zip(records[::2], records[1::2], strict=True):
        assert [ingress.get(e) for e in same] == [egress.get(e) for e in same]
        assert len(ingress[82]) == 1
        assert len(egress[82]) == 2
        assert egress[82][0] == ingress[82][0] != egress[82][1]
        assert egress[83] == [b"", b""]
        assert 14 not in ingress
        assert egress[14][0] > 0


def test_ovs_traffic_uses_many_templates():
    records = ovs_records()
    ids = {number for _, number, _ in records}
    assert len(ids) >= 24
    fields = [by_element(values) for *_, values in records]
    assert {f[4][0] for f in fields} == {1, 6, 17, 58}
    assert {len(f.get(892, [b""])[0]) for f in fields} == {0, 3}
    assert {f[240][0] for f in fields} == {14, 18}
    for f in fields:
        assert f[352][0] == f[1][0] + f[2][0] * f[240][0]
        assert (f[240][0] == 18) == (f.get(58) == [100])
        assert f[25][0] * f[2][0] <= f[1][0] <= f[26][0] * f[2][0]
        assert f[1][0] ** 2 / f[2][0] <= f[198][0] <= f[26][0] ** 2 * f[2][0]
        assert f[10] == [0] or f[82][0] != b"vx0"
        assert 1_000_000 <= f[159][0] <= f[158][0] <= 63_000_000


def test_ovs_totals_are_of_the_whole_exporter_and_go_on_across_rounds():
    found, _, _ = session("ovs", rounds=3, ring=40)
    records = [by_element(message.records[0][1]) for message in found if message.records]
    assert len(records) == 120
    packets = octets = squares = frames = incoming = 0
    for f in records:
        packets += f[2][0]
        octets += f[1][0]
        frames += f[352][0]
        squares += f[198][0]
        incoming += f[2][0] * (f[61][0] == 0)
        assert (f[86], f[85], f[353], f[199], f[354]) == ([packets], [octets], [frames], [squares], [incoming])
        assert f[357] == [packets - incoming]
    flags = [(f[222][0], f[219][0], f[218][0]) for f in records if 222 in f]
    assert all(b >= a for before, after in pairwise(flags) for a, b in zip(before, after, strict=True))
    assert flags[-1] > flags[0]


def test_ovs_ring_of_odd_length_still_has_both_directions():
    _, made, _ = session("ovs", ring=5)
    assert len(made.data) == 6
