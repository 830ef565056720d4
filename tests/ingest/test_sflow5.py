"""sFlow datagrams, samples and interfaces; what is wrong with them costs only itself."""

import struct

import pytest
from build import rows
from build_sflow import (
    AGENT,
    FRAME,
    address,
    counters,
    datagram,
    expanded_flow,
    flow,
    header,
    interface,
    item,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.rates import Overrides

PACKET = {
    "src_mac": 0x020000000001, "dst_mac": 0x020000000002, "ether_type": 0x0800, "src_addr": "192.0.2.1",
    "dst_addr": "192.0.2.2", "src_port": 4000, "dst_port": 443, "proto": 6, "tcp_flags": 18, "tos": 0, "ttl": 64,
    "ipTotalLength": 140, "fragmentIdentification": 1, "fragmentOffset": 0, "fragmentFlags": 0,
}  # fmt: skip
NOW = 1_700_000_000_000_000_000
ORIGIN = {
    "exporter": AGENT, "observation_domain": 0, "export_protocol": 6, "sequence": 1, "received_ns": NOW,
    "start_ns": NOW, "end_ns": NOW, "sampling_rate": 100, "sampling_source": 1, "records": 1, "packets": 1,
}  # fmt: skip
ROW = PACKET | ORIGIN | {"bytes": 154, "in_if": 3, "out_if": 4, "direction": 0}


def fed(*payloads, **options):
    """Rows of these datagrams, and the decoder."""
    decoder = Decoder(ordered=True, **options)
    return rows(decoder.feed(Datagrams.of(payloads, received_ns=NOW))), decoder


def errors(*payloads):
    found, decoder = fed(*payloads)
    return len(found), {reason: n for (_, reason), n in decoder.stats.errors.items()}


def test_a_sampled_packet():
    assert fed(datagram(flow(header())))[0] == [ROW]


def test_an_expanded_sample_is_the_same():
    assert fed(datagram(expanded_flow(header())))[0] == [ROW]


def test_samples_keep_their_order_and_their_datagram():
    sent = [
        datagram(
            *(flow(header(), in_if=10 * d + i) if (d + i) % 2 else expanded_flow(header(), in_if=(0, 10 * d + i))
              for i in range(1, 4)),
            sequence=d,
        )
        for d in range(100)
    ]  # fmt: skip
    found, _ = fed(*sent)
    assert [(r["sequence"], r["in_if"]) for r in found] == [(d, 10 * d + i) for d in range(100) for i in range(1, 4)]


@pytest.mark.parametrize(
    ("agent", "exporter"),
    [("203.0.113.5", "203.0.113.5"), ("2001:db8::5", "2001:db8::5"), (None, "192.0.2.1"), ("0.0.0.0", "192.0.2.1"),
     ("::", "192.0.2.1")],
)  # fmt: skip
def test_the_exporter_is_the_agent_and_the_sender_only_of_one_without_address(agent, exporter):
    found, decoder = fed(datagram(flow(header()), agent=agent, sub_agent=7))
    assert [(r["exporter"], r["observation_domain"]) for r in found] == [(exporter, 7)]
    assert [(d.address, d.key.domain, decoder.exporters.protocol(d)) for d in decoder.exporters] == [
        (exporter, 7, "sflow5")
    ]


IF_FORMATS = {
    "index": (5, {"out_if": 5}),
    "unknown": (0, {}),
    "the agent itself": (0x3FFFFFFF, {}),
    "discarded for want of buffers": (1 << 30 | 259, {"forwardingStatus": 128}),
    "discarded by an ACL": (1 << 30 | 258, {"forwardingStatus": 129}),
    "unreachable": (1 << 30 | 1, {"forwardingStatus": 131}),
    "discarded by no reason, as Open vSwitch says": (0x40000100, {}),
    "two interfaces": (2 << 30 | 2, {}),
}


@pytest.mark.parametrize("name", IF_FORMATS)
def test_outputs(name):
    out_if, told = IF_FORMATS[name]
    expected = {k: v for k, v in ROW.items() if k != "out_if"} | told
    assert fed(datagram(flow(header(), out_if=out_if)))[0] == [expected]
    assert fed(datagram(expanded_flow(header(), out_if=(out_if >> 30, out_if & 0x3FFFFFFF))))[0] == [expected]


def test_interfaces_of_more_than_30_bits():
    assert fed(datagram(expanded_flow(header(), in_if=(0, 2**32 - 1))))[0][0]["in_if"] == 2**32 - 1


def test_the_direction_is_that_of_the_sampled_interface():
    sources = {3: 0, 4: 1, 9: None, 2 << 24 | 3: None}
    found, _ = fed(datagram(*(flow(header(), source=s) for s in sources)))
    assert [r.get("direction") for r in found] == list(sources.values())
    assert "direction" not in fed(datagram(flow(header(), in_if=3, out_if=3)))[0][0]


def test_the_rate_is_the_samples_own_and_none_is_unknown():
    found, decoder = fed(datagram(flow(header(), rate=8), flow(header(), rate=1), flow(header(), rate=0)))
    assert [(r.get("sampling_rate"), r["sampling_source"]) for r in found] == [(8, 1), (1, 1), (None, 0)]
    assert +decoder.stats.sampling == {"wire": 2, "unknown": 1}
    assert [r.get("sampling_rate") for r in fed(datagram(flow(header(), rate=0)))[0]] == [None]


def test_a_rate_that_the_user_sets_is_that_of_the_agent():
    overrides = Overrides({"198.51.100.0/24": 7.0})
    found, decoder = fed(datagram(flow(header())), datagram(flow(header()), agent="203.0.113.1"), overrides=overrides)
    assert [(r["sampling_rate"], r["sampling_source"]) for r in found] == [(7, 4), (100, 1)]
    assert +decoder.stats.sampling == {"wire": 1, "config": 1}


def test_a_sample_without_a_packet_is_one_all_the_same():
    (row,), _ = fed(datagram(flow()))
    assert (row["packets"], "bytes" in row, row["in_if"]) == (1, False, 3)


GOOD = flow(header())


def test_bad_samples_cost_only_themselves():
    short = item(1, bytes(28))
    overrun = flow(struct.pack("!II", 1, 200) + bytes(16))
    promised = flow(header(), count=3)
    assert errors(datagram(GOOD, short, overrun, GOOD, promised, item(3, bytes(40)), item(2, bytes(8)), GOOD)) == (
        3, {"bad_sample": 5},
    )  # fmt: skip
    assert errors(datagram(item(2, struct.pack("!III", 1, 3, 5)), GOOD)) == (1, {"bad_sample": 1})


def test_samples_of_others_are_counted_and_passed_by():
    assert errors(datagram(item(4413 << 12 | 1, bytes(40)), item(5, bytes(40)), GOOD)) == (
        1, {"unknown_sample_type": 2},
    )  # fmt: skip


def test_records_of_others_are_passed_by():
    assert fed(datagram(flow(item(4413 << 12 | 1, bytes(12)), header(), item(9999 << 12, b""))))[0] == [ROW]


def test_a_sample_that_runs_past_the_end_costs_the_rest_of_its_datagram():
    broken = datagram(GOOD, struct.pack("!II", 1, 5000) + bytes(100), count=3)
    assert errors(broken, datagram(GOOD)) == (2, {"bad_sample_length": 1})
    assert errors(datagram(GOOD, count=2**32 - 1)) == (1, {"bad_sample_length": 1})


def test_headers_that_are_wrong():
    bad_type = struct.pack("!II", 5, 3) + bytes(40)
    assert errors(bad_type, b"\0\0\0\5", datagram()[:27], datagram(agent="2001:db8::1")[:39]) == (
        0, {"bad_agent_address": 1, "truncated": 3},
    )  # fmt: skip


@pytest.mark.parametrize("many", [1, 100])
def test_cut_behind_any_byte(many):
    """Whether few lists or many are read, a cut datagram gives the samples that are whole."""
    whole = datagram(GOOD, expanded_flow(header()), counters(interface(3)), GOOD)
    ends = [len(datagram(*[GOOD, expanded_flow(header()), counters(interface(3)), GOOD][:k])) for k in range(5)]
    for n in range(8, len(whole)):
        found, decoder = fed(*[whole[:n]] * many)
        complete = sum(n >= end for end in ends[1:])
        assert len(found) == many * (complete - (complete >= 3))
        reason = "truncated" if n < ends[0] else "bad_sample_length"
        assert decoder.stats.errors == {("sflow5", reason): many}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12))
def test_damage_is_contained(changes):
    """Whatever happens to a datagram, its neighbours give their rows."""
    damaged = bytearray(datagram(GOOD, counters(interface(3)), GOOD))
    for at, value in changes:
        damaged[4 + at % (len(damaged) - 4)] = value
    decoder = Decoder(ordered=True)
    sent = [datagram(GOOD, sequence=7), bytes(damaged), datagram(GOOD, sequence=9)]
    found = rows(decoder.feed(Datagrams.of(sent, received_ns=NOW)))
    assert found[0] == ROW | {"sequence": 7}
    assert found[-1] == ROW | {"sequence": 9}
    assert decoder.stats.records["sflow5"] == len(found)


def test_lost_datagrams_are_lost_samples_at_their_mean():
    decoder = Decoder()
    decoder.feed(Datagrams.of([datagram(GOOD, GOOD, GOOD, sequence=n) for n in (1, 2, 5, 6)]))
    assert decoder.exporters.lost_records(final=True) == {AGENT: 6}


def test_sub_agents_and_ports_count_for_themselves():
    decoder = Decoder()
    sent = [datagram(GOOD, sub_agent=n % 2, sequence=1000 * (n % 2) + n // 2) for n in range(20)]
    decoder.feed(Datagrams.of(sent))
    decoder.feed(Datagrams.of([datagram(GOOD, sequence=n) for n in range(3)], port=5))
    assert decoder.exporters.lost_records(final=True) == {AGENT: 0}
    assert sorted((s.domain.key.domain, s.port, s.records) for s in decoder.exporters.sessions()) == [
        (0, 5, 3), (0, 4444, 10), (1, 4444, 10),
    ]  # fmt: skip


def test_only_wanted_columns():
    decoder = Decoder(wanted={"src_addr", "bytes"})
    batch = decoder.feed(Datagrams.of([datagram(GOOD)]))
    assert set(batch.columns) == {
        "src_addr", "bytes", "exporter", "observation_domain", "export_protocol", "sampling_rate", "sampling_source",
        "records",
    }  # fmt: skip


# Records


def record_rows(*records):
    return fed(datagram(flow(*records)))[0][0]


def told(*records):
    """What the records add to a sample without any."""
    bare = record_rows()
    return {k: v for k, v in record_rows(*records).items() if bare.get(k) != v}


V4, V6 = address("10.0.0.1")[4:], address("2001:db8::9")[4:]
RECORDS = {
    "ethernet": (item(2, struct.pack("!I8s8sI", 64, b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02", 0x0806)),
                 {"bytes": 64, "src_mac": 0x020000000001, "dst_mac": 0x020000000002, "ether_type": 0x0806}),
    "IPv4": (item(3, struct.pack("!II4s4sIIII", 60, 6, V4, V4, 1, 2, 0x10, 8)),
             {"bytes": 60, "ipTotalLength": 60, "proto": 6, "src_addr": "10.0.0.1", "dst_addr": "10.0.0.1",
              "src_port": 1, "dst_port": 2, "tcp_flags": 16, "tos": 8}),
    "IPv6": (item(4, struct.pack("!II16s16sIIII", 60, 17, V6, V6, 1, 2, 0, 300)),
             {"bytes": 60, "ipTotalLength": 60, "proto": 17, "src_addr": "2001:db8::9", "dst_addr": "2001:db8::9",
              "src_port": 1, "dst_port": 2, "tcp_flags": 0}),
    "switch": (item(1001, struct.pack("!IIII", 5, 0, 6, 0)), {"vlan": 5, "dst_vlan": 6}),
    "switch without VLANs": (item(1001, struct.pack("!IIII", 0, 0, 2**32 - 1, 0)), {}),
    "router": (item(1002, address("10.0.0.7") + struct.pack("!II", 24, 16)),
               {"next_hop": "10.0.0.7", "src_mask": 24, "dst_mask": 16}),
    "router, IPv6": (item(1002, address("2001:db8::7") + struct.pack("!II", 64, 300)),
                     {"next_hop": "2001:db8::7", "src_mask": 64}),
    "router, no next hop": (item(1002, address(None) + struct.pack("!II", 24, 16)), {"src_mask": 24, "dst_mask": 16}),
    "gateway": (item(1003, address("10.0.0.7")
                     + struct.pack("!IIII", 65000, 65001, 65002, 2) + struct.pack("!IIII", 2, 2, 1, 2)
                     + struct.pack("!III", 1, 1, 4200000000) + struct.pack("!II", 0, 9)),
                {"next_hop": "10.0.0.7", "src_as": 65001, "dst_as": 4200000000}),
    "gateway, here": (item(1003, address(None) + struct.pack("!IIII", 65000, 0, 0, 0)),
                      {"src_as": 65000, "dst_as": 65000}),
    "gateway, cut": (item(1003, address(None) + struct.pack("!IIIIII", 65000, 1, 0, 1, 2, 1000)), {"src_as": 1}),
    "MPLS": (item(1006, address("10.0.0.7") + struct.pack("!III", 1, 70000 << 12 | 0x1FF, 0)),
             {"next_hop": "10.0.0.7", "mpls_label": 70000}),
    "NAT": (item(1007, address("10.0.0.7") + address("2001:db8::7")),
            {"nat_src_addr": "10.0.0.7", "nat_dst_addr": "2001:db8::7"}),
    "NAT ports": (item(1020, struct.pack("!II", 7, 8)), {"nat_src_port": 7, "nat_dst_port": 8}),
    "VXLAN": (item(1024, struct.pack("!II4s4sIIII", 0, 17, V4, V4, 1, 4789, 0, 0)) + item(1030, struct.pack("!I", 5)),
              {"tunnel_src_addr": "10.0.0.1", "tunnel_dst_addr": "10.0.0.1", "tunnel_type": 1, "tunnel_key": 5}),
    "VXLAN of Open vSwitch": (item(1023, struct.pack("!II4s4sIIII", 0, 17, V4, V4, 1, 46354, 0, 0)),
                              {"tunnel_src_addr": "10.0.0.1", "tunnel_dst_addr": "10.0.0.1", "tunnel_type": 1}),
    "Geneve over IPv6": (item(1026, struct.pack("!II16s16sIIII", 0, 17, V6, V6, 1, 6081, 0, 0)),
                         {"tunnel_src_addr": "2001:db8::9", "tunnel_dst_addr": "2001:db8::9", "tunnel_type": 7}),
    "GRE": (item(1024, struct.pack("!II4s4sIIII", 0, 47, V4, V4, 0, 0, 0, 0)),
            {"tunnel_src_addr": "10.0.0.1", "tunnel_dst_addr": "10.0.0.1", "tunnel_type": 2}),
    "IP": (header(FRAME[14:], protocol=11, stripped=0), {"bytes": 140} | {k: v for k, v in PACKET.items()
           if k not in ("src_mac", "dst_mac", "ether_type")}),
    "token ring": (header(protocol=3), {"bytes": 154}),
    "a header that lies": (item(1, struct.pack("!IIII", 1, 154, 0, 5000) + FRAME[:36]),
                           {"bytes": 154} | {k: v for k, v in PACKET.items() if k not in ("dst_port", "tcp_flags")}),
    "more stripped than there was": (item(1, struct.pack("!IIII", 1, 10, 20, 0)), {"bytes": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_records(name):
    records, expected = RECORDS[name]
    count = 2 if name == "VXLAN" else 1
    bare = record_rows()
    (row,), _ = fed(datagram(flow(records, count=count)))
    assert {k: v for k, v in row.items() if k not in bare} == expected


@pytest.mark.parametrize("name", RECORDS)
def test_records_cut_behind_any_byte_tell_nothing_wrong(name):
    records, expected = RECORDS[name]
    kind, body = struct.unpack("!I", records[:4])[0], records[8:]
    bare = record_rows()
    for n in range(0, len(body), 4):
        (row,), _ = fed(datagram(flow(item(kind, body[:n]))) + b"\xff" * 64)
        assert {k: v for k, v in row.items() if k not in bare and expected.get(k) != v and k != "dst_as"} == {}


def test_a_header_counts_more_than_what_the_exporter_read_from_it():
    found = record_rows(header(), RECORDS["IPv4"][0])
    assert (found["src_addr"], found["bytes"]) == ("192.0.2.1", 154)


def test_the_router_knows_the_next_hop_and_the_switch_the_vlan():
    gateway = item(1003, address("10.0.0.1") + struct.pack("!IIII", 1, 2, 3, 0))
    assert record_rows(RECORDS["router"][0], gateway)["next_hop"] == "10.0.0.7"


def test_samples_with_and_without_a_record():
    found, _ = fed(datagram(flow(header(), RECORDS["switch"][0]), flow(header()), flow(RECORDS["switch"][0])))
    assert [(r.get("vlan"), r.get("src_port")) for r in found] == [(5, 4000), (None, 4000), (5, None)]
