"""The flow cache: what ends a flow and why, and the same records however packets come in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.ingest.flowcache import ACTIVE, ENDED, FORCED, IDLE, LACK, FlowCache, Limits

SYN, FIN, RST, ACK = 2, 1, 4, 16
A, B, C = "10.0.0.1", "10.0.0.2", "fd00::3"
T0 = 1_700_000_000 * SECOND


def packet(s, src=A, dst=B, sport=1000, dport=80, proto=6, flags=ACK, size=100):
    """One packet, `s` seconds after T0."""
    return (T0 + round(s * SECOND), src, dst, sport, dport, proto, flags if proto == 6 else None, size)


def back(s, **options):
    """One of the other direction."""
    return packet(s, **{"src": B, "dst": A, "sport": 80, "dport": 1000, **options})


def batch(packets):
    """Columns and times of packets; ports are unknown where they are None."""
    ns, src, dst, sport, dport, proto, flags, size = zip(*packets, strict=True)
    addresses = {
        name: np.array([address_words(a) for a in values], np.uint64).T for name, values in zip(
            ("src_addr", "dst_addr"), (src, dst), strict=True)
    }  # fmt: skip
    maybe = {"src_port": (sport, np.uint16), "dst_port": (dport, np.uint16), "tcp_flags": (flags, np.uint16)}
    # A value where nothing is known must not matter.
    columns = {
        name: np.array([77 if v is None else v for v in values], dtype) for name, (values, dtype) in maybe.items()
    }
    valid = {name: np.array([v is not None for v in values]) for name, (values, _) in maybe.items()}
    columns |= {"proto": np.array(proto, np.uint8), "bytes": np.array(size, np.uint64)}
    return Batch({**addresses, **columns}, valid=valid), np.array(ns, np.int64)


def rows(batches):
    """Records as a sorted list of tuples."""
    found = []
    for b in batches:
        known = {name: b.is_known(name) for name in ("src_port", "dst_port", "tcp_flags")}
        for i in range(len(b)):
            ports = [int(b[n][i]) if known[n][i] else None for n in ("src_port", "dst_port")]
            flags = int(b["tcp_flags"][i]) if known["tcp_flags"][i] else 0
            words = (*b["src_addr"][:, i].tolist(), *b["dst_addr"][:, i].tolist())
            found.append((
                int(b["start_ns"][i]), int(b["end_ns"][i]), words, str(ports), int(b["proto"][i]),
                int(b["packets"][i]), int(b["bytes"][i]), flags, int(b["flow_end_reason"][i]),
                int(b["received_ns"][i]),
            ))  # fmt: skip
    return sorted(found)


def run(packets, *, limits=None, every=None):
    """All records of these packets."""
    cache = FlowCache(limits)
    out = []
    for start in range(0, len(packets), every or len(packets) or 1):
        out += cache.add(*batch(packets[start : start + (every or len(packets))]))
    return rows([*out, *cache.flush()])


def short(found):
    """Of each record, in the order of their beginning: seconds from T0, packets, why it ended."""
    return [((r[0] - T0) / SECOND, (r[1] - T0) / SECOND, r[5], r[8]) for r in found]


def test_both_directions_are_flows_of_their_own():
    found = run([packet(0, flags=SYN), back(0.1, flags=SYN | ACK), packet(0.2, size=1500), back(0.3)])
    assert [(r[5], r[6], r[7]) for r in found] == [(2, 1600, SYN | ACK), (2, 200, SYN | ACK)]
    assert short(found) == [(0, 0.2, 2, FORCED), (0.1, 0.3, 2, FORCED)]


def test_a_quiet_flow_is_idle():
    found = run([packet(0), packet(14), packet(40), packet(41)])
    assert short(found) == [(0, 14, 2, IDLE), (40, 41, 2, FORCED)]
    assert found[0][-1] == T0 + 40 * SECOND


def test_a_long_flow_is_cut():
    found = run([packet(s) for s in range(130)])
    assert short(found) == [(0, 59, 60, ACTIVE), (60, 119, 60, ACTIVE), (120, 129, 10, FORCED)]


def test_a_conversation_is_closed_by_fin_from_both():
    closing = [packet(0), back(0.1, flags=FIN | ACK), packet(0.2, flags=FIN | ACK), back(0.3)]
    found = run([*closing, packet(3, flags=SYN), packet(3, src=C)])
    assert short(found) == [(0, 0.2, 2, ENDED), (0.1, 0.3, 2, ENDED), (3, 3, 1, FORCED), (3, 3, 1, FORCED)]


def test_fin_from_one_side_closes_nothing():
    found = run([packet(0), back(0.1, flags=FIN | ACK), packet(5)])
    assert {r[8] for r in found} == {FORCED}


@pytest.mark.parametrize("other", [back(0.1), back(0.1, flags=FIN)])
def test_a_reset_closes_both_directions(other):
    found = run([packet(0, flags=SYN), other, packet(0.2, flags=RST), packet(5, src=C)])
    assert short(found) == [(0, 0.2, 2, ENDED), (0.1, 0.1, 1, ENDED), (5, 5, 1, FORCED)]


def test_a_reset_answers_a_conversation_only():
    found = run([packet(0, flags=RST), packet(0, sport=1001), back(0, dport=1001, proto=17), packet(5, src=C)])
    assert [r[8] for r in found].count(ENDED) == 1


def test_late_acknowledgements_belong_to_what_was_closed():
    found = run([packet(0, flags=RST), packet(0.9), packet(1.5), packet(2.2), packet(9)])
    assert short(found) == [(0, 2.2, 4, ENDED), (9, 9, 1, FORCED)]


def test_time_without_packets_ends_flows_too():
    cache = FlowCache()
    assert list(cache.add(*batch([packet(0)]))) == []
    assert list(cache.expire(T0 + 14 * SECOND)) == []
    assert short(rows(cache.expire(T0 + 15 * SECOND))) == [(0, 0, 1, IDLE)]
    assert len(cache) == 0


def test_the_table_is_bounded_and_the_oldest_go():
    cache = FlowCache(Limits(most=10))
    out = [r for i in range(30) for r in cache.add(*batch([packet(i / 100, sport=i)]))]
    assert len(cache) == 10
    assert cache.evicted == 20
    assert [r[0] for r in rows(out)] == [T0 + i * SECOND // 100 for i in range(20)]
    assert {r[8] for r in rows(out)} == {LACK}


def test_a_clock_that_was_set_back_ends_all_flows():
    found = run([packet(1000), packet(1001), packet(0), packet(20)])
    assert short(found) == [(0, 0, 1, IDLE), (20, 20, 1, FORCED), (1000, 1001, 2, FORCED)]


def test_packets_out_of_order_are_of_one_flow():
    assert short(run([packet(5), packet(3), packet(4)])) == [(3, 5, 3, FORCED)]


def test_unknown_is_a_key_value_of_its_own():
    found = run([packet(0, proto=17), packet(0, proto=17, sport=None, dport=None), packet(0, proto=17, sport=0)])
    assert len(found) == 3


def test_what_is_not_part_of_the_key_is_that_of_the_first_packet():
    packets, ns = batch([packet(0), packet(1), packet(2)])
    cache = FlowCache()
    ttl = {"ttl": np.array([9, 8, 7], np.uint8), "vlan": np.array([5, 5, 6], np.uint16)}
    (out,) = [*cache.add(packets.with_columns(ttl, {"ttl": np.array([False, True, True])}), ns), *cache.flush()]
    assert out["vlan"].tolist() == [5, 6]
    assert out.is_known("ttl").tolist() == [False, True]
    assert out["ttl"][1] == 7


def test_a_direction_and_its_interfaces_are_turned_for_the_answer():
    packets, ns = batch([packet(0, flags=RST), back(0.1), packet(9, src=C)])
    direction = np.array([0, 1, 0], np.uint8)
    more = {"direction": direction, "in_if": np.array([3, 0, 3], np.uint32), "out_if": np.array([0, 3, 0], np.uint32)}
    cache = FlowCache()
    valid = {"in_if": direction == 0, "out_if": direction == 1}
    (closed,) = cache.add(packets.with_columns(more, valid), ns)
    assert closed["flow_end_reason"].tolist() == [ENDED, ENDED]
    assert closed["direction"].tolist() == [0, 1]
    assert closed.is_known("in_if").tolist() == [True, False]


def test_no_packets_are_no_records():
    cache = FlowCache()
    empty, ns = batch([packet(0)])
    assert list(cache.add(empty.rows(0, 0), ns[:0])) == list(cache.flush()) == list(cache.expire(T0)) == []


class Naive:
    """The same rules, one packet at a time."""

    def __init__(self, limits):
        self.limits, self.flows, self.clock, self.out = limits, {}, None, []

    def add(self, p):
        ns, src, dst, sport, dport, proto, flags, size = p
        now = max(ns, self.clock or 0)
        if self.clock is not None and now - ns > 60 * SECOND:
            self.end(dict.fromkeys(self.flows, FORCED), self.clock)
            now = ns
        elif self.clock is not None and now // SECOND > self.clock // SECOND:
            self.tick(now // SECOND * SECOND)
        self.clock = now
        key = (src, dst, sport, dport, proto)
        first, last, packets, size_before, seen = self.flows.get(key, (ns, ns, 0, 0, 0))
        self.flows[key] = (min(first, ns), max(last, ns), packets + 1, size_before + size, seen | (flags or 0))

    def tick(self, now):
        over = {}
        for key, (first, last, *_) in self.flows.items():
            if last <= now - self.limits.idle_ns:
                over[key] = IDLE
            elif first <= now - self.limits.active_ns:
                over[key] = ACTIVE
        for key in self.flows:
            other = (key[1], key[0], key[3], key[2], key[4])
            pair = [self.flows[k] for k in (key, other) if k in self.flows]
            reset = any(flow[4] & RST for flow in pair)
            closed = reset or (len(pair) == 2 and all(flow[4] & FIN for flow in pair))
            if key[4] == 6 and closed and max(flow[1] for flow in pair) <= now - SECOND:
                over[key] = ENDED
        self.end(over, now)

    def end(self, over, now):
        for key, reason in over.items():
            first, last, packets, size, seen = self.flows.pop(key)
            words = (*address_words(key[0]), *address_words(key[1]))
            ports = str([key[2], key[3]])
            self.out.append((first, last, words, ports, key[4], packets, size, seen, reason, now))

    def all(self, packets):
        for p in packets:
            self.add(p)
        self.end(dict.fromkeys(self.flows, FORCED), self.clock)
        return sorted(self.out)


@st.composite
def traffic(draw):
    """Packets of a few flows whose time goes on in steps, sometimes back."""
    ends = [(A, B, 1000, 80), (B, A, 80, 1000), (A, C, 1, 80), (C, A, 80, 1), (A, A, 5, 5)]
    packets, s = [], 100.0
    steps = st.sampled_from([0, 0, 0.001, 0.3, 0.7, 1, 2.5, 16, -0.4, -2, -300])
    for step in draw(st.lists(steps, max_size=60)):
        s = max(0.0, s + step)
        src, dst, sport, dport = draw(st.sampled_from(ends))
        flags = draw(st.sampled_from([ACK, ACK, SYN, FIN, RST]))
        proto = draw(st.sampled_from([6, 6, 17]))
        packets.append(packet(s, src, dst, sport, dport, proto, flags, draw(st.integers(20, 65535))))
    return packets


@settings(max_examples=300, deadline=None)
@given(traffic(), st.integers(1, 70))
def test_the_records_are_those_of_a_cache_that_takes_packets_one_by_one(packets, every):
    limits = Limits(idle_ns=3 * SECOND, active_ns=5 * SECOND)
    assert run(packets, limits=limits, every=every) == Naive(limits).all(packets)


@settings(max_examples=100, deadline=None)
@given(traffic(), st.integers(1, 70), st.integers(1, 3))
def test_no_packet_and_no_byte_is_lost_when_the_table_is_full(packets, every, most):
    found = run(packets, limits=Limits(most=most), every=every)
    assert sum(r[5] for r in found) == len(packets)
    assert sum(r[6] for r in found) == sum(p[-1] for p in packets)
