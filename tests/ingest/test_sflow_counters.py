"""Counters that sFlow agents send, and what a sender that invents agents can do to others."""

import pytest
from build import FLOW, define, ipfix
from build_sflow import AGENT, counters, datagram, datapath, expanded_counters, flow, header, interface

from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder


def metrics(decoder):
    families = {f.name: dict(f.samples) for f in decoder.interfaces.families("udp", decoder.exporters.series)}
    return {name.removeprefix("flowagent_"): samples for name, samples in families.items()}


def reported(decoder, *records, make=counters, number=1, sender="192.0.2.1", **options):
    decoder.feed(Datagrams.of([datagram(make(*records, number=number), **options)], exporter=sender))
    return metrics(decoder)


def test_counters_begin_with_the_first_report():
    decoder = Decoder()
    first = reported(decoder, interface(3, in_octets=1000, out_errors=5))
    assert first["interface_octets"] == {(AGENT, "3", "in"): 0, (AGENT, "3", "out"): 0}
    then = reported(decoder, interface(3, in_octets=1500, out_octets=7, in_multicast=2, out_errors=6, status=1),
                    make=expanded_counters)  # fmt: skip
    assert then["interface_octets"] == {(AGENT, "3", "in"): 500, (AGENT, "3", "out"): 7}
    assert then["interface_packets"][AGENT, "3", "in", "multicast"] == 2
    assert then["interface_errors"][AGENT, "3", "out"] == 1
    assert (first["interface_up"], then["interface_up"]) == ({(AGENT, "3"): 1}, {(AGENT, "3"): 0})


def test_counters_wrap_and_begin_anew():
    decoder = Decoder()
    for number, packets, octets in (
        (2**32 - 1, 2**32 - 10, 2**64 - 2), (0, 90, 98), (1, 100, 198), (2, 5, 10), (3, 6, 20),
    ):  # fmt: skip
        found = reported(decoder, interface(1, in_unicast=packets, in_octets=octets), number=number)
    assert found["interface_packets"][AGENT, "1", "in", "unicast"] == 111
    assert found["interface_octets"][AGENT, "1", "in"] == 210


def test_an_agent_that_began_anew_did_not_wrap():
    decoder = Decoder()
    for number, packets in ((77, 3_000_000_000), (78, 3_000_000_100), (1, 60), (2, 70)):
        found = reported(decoder, interface(1, in_unicast=packets, in_octets=packets), number=number)
    assert found["interface_packets"][AGENT, "1", "in", "unicast"] == 110


def test_numbers_that_begin_anew_beside_counters_that_go_on_cost_nothing():
    decoder = Decoder()
    for number, packets in ((77, 100), (1, 150), (2, 170)):
        found = reported(decoder, interface(1, in_unicast=packets), number=number)
    assert found["interface_packets"][AGENT, "1", "in", "unicast"] == 70


def test_counters_that_an_agent_does_not_keep_are_not_told():
    decoder = Decoder()
    found = reported(decoder, interface(1, in_unicast=2**32 - 1, in_octets=2**64 - 1))
    assert (AGENT, "1", "in", "unicast") not in found["interface_packets"]
    assert (AGENT, "1", "in") not in found["interface_octets"]
    found = reported(decoder, interface(1, in_unicast=5, in_octets=7))
    assert found["interface_packets"][AGENT, "1", "in", "unicast"] == 0


def test_of_many_reports_at_once_the_newest_counts():
    decoder = Decoder()
    reported(decoder, interface(1), interface(2))
    sent = [datagram(counters(interface(1, in_octets=n)), counters(interface(2, in_octets=2 * n))) for n in range(200)]
    decoder.feed(Datagrams.of(sent))
    assert metrics(decoder)["interface_octets"][AGENT, "1", "in"] == 199
    assert metrics(decoder)["interface_octets"][AGENT, "2", "in"] == 398
    assert decoder.interfaces.reports == 402


@pytest.mark.parametrize("what", ["MAX_INTERFACES", "MAX_DATAPATHS"])
def test_what_a_sender_tells_of_takes_no_room_of_others(monkeypatch, what):
    monkeypatch.setattr(f"flowagent.ingest.sflow_counters.{what}", 10)
    decoder = Decoder()
    told = (interface(1), datapath(1, 2, 3, 4, 5, 6))
    reported(decoder, *told)
    for n in range(30):
        found = reported(decoder, *told, agent=f"10.0.0.{n}", sender="192.0.2.66")
    samples = found["interface_up" if what == "MAX_INTERFACES" else "datapath_flows"]
    assert {name[0] for name in samples} == {AGENT, *(f"10.0.0.{n}" for n in range(21, 30))}
    assert found["interface_evictions"] == {("udp",): 21}


def test_an_interface_whose_state_is_not_known_is_neither_up_nor_down():
    assert reported(Decoder(), interface(1, status=2**32 - 1))["interface_up"] == {}


def test_datapaths_of_open_vswitch():
    decoder = Decoder()
    reported(decoder, datapath(10, 5, 2**32 - 1, 2**32 - 1, 3, 2**32 - 1), number=1)
    found = reported(decoder, datapath(30, 6, 0, 2**32 - 1, 4, 2**32 - 1), number=2)
    assert found["datapath_lookups"] == {(AGENT, "hit"): 20, (AGENT, "missed"): 1}
    assert (found["datapath_flows"], found["datapath_lost_packets"]) == ({(AGENT,): 4}, {(AGENT,): 0})
    assert (found["datapath_masks"], found["datapath_mask_lookups"]) == ({}, {})


def test_dropped_samples_are_counted_by_exporter():
    decoder = Decoder()
    for drops in (10, 15, 2**32 - 5, 3):
        decoder.feed(Datagrams.of([datagram(flow(header(), drops=drops), flow(header(), source=9, drops=drops + 1))]))
    assert metrics(decoder)["sampler_drops"] == {(AGENT,): 2 * (5 + 8)}
    decoder.feed(Datagrams.of([datagram(flow(header(), drops=8))]))
    assert metrics(decoder)["sampler_drops"] == {(AGENT,): 2 * (5 + 8) + 5}


# A sender that invents agents


def test_invented_agents_take_the_room_of_their_sender_only(monkeypatch):
    monkeypatch.setattr("flowagent.ingest.exporters.MAX_EXPORTER_BYTES", 20_000)
    monkeypatch.setattr("flowagent.ingest.exporters.MAX_BYTES", 60_000)
    monkeypatch.setattr("flowagent.ingest.exporters.MAX_SENDER_SERIES", 5)
    decoder = Decoder()
    decoder.feed(Datagrams.of([ipfix(define(300, *FLOW))], exporter="192.0.2.7"))
    for n in range(100):
        decoder.feed(Datagrams.of([datagram(flow(header()), agent=f"10.0.0.{n}")], exporter="192.0.2.66"))
    decoder.feed(Datagrams.of([datagram(flow(header()), agent="10.1.0.1")], exporter="192.0.2.8"))
    known = {domain.address for domain in decoder.exporters}
    assert "192.0.2.7" in known  # with its template
    assert len(known) == 2 + 5
    assert decoder.stats.evicted_sessions == 95
    named = {decoder.exporters.series(f"10.0.0.{n}") for n in range(100)}
    assert named == {"other", *(f"10.0.0.{n}" for n in range(5))}
    assert decoder.exporters.series("10.1.0.1") == "10.1.0.1"


def test_dropped_samples_of_agents_beyond_the_bound_are_counted_together(monkeypatch):
    monkeypatch.setattr("flowagent.ingest.sflow_counters.MAX_SOURCES", 3)
    decoder = Decoder()
    for n in range(5):
        for drops in (1, 2 + n):
            decoder.feed(Datagrams.of([datagram(flow(header(), drops=drops), agent=f"10.0.0.{n}")]))
    assert metrics(decoder)["sampler_drops"] == {("10.0.0.0",): 1, ("10.0.0.1",): 2, ("10.0.0.2",): 3, ("other",): 9}
