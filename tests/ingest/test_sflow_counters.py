"""Counters that sFlow agents send, and what a sender that invents agents can do to others."""

from build import FLOW, define, ipfix
from build_sflow import AGENT, counters, datagram, expanded_counters, flow, header, interface

from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder


def metrics(decoder):
    families = {f.name: dict(f.samples) for f in decoder.interfaces.families("udp", decoder.exporters.series)}
    return {name.removeprefix("flowagent_"): samples for name, samples in families.items()}


def reported(decoder, *records, make=counters, **options):
    decoder.feed(Datagrams.of([datagram(make(*records), **options)]))
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
    for packets, octets in ((2**32 - 10, 2**64 - 2), (90, 98), (100, 198), (5, 10), (6, 20)):
        found = reported(decoder, interface(1, in_unicast=packets, in_octets=octets))
    assert found["interface_packets"][AGENT, "1", "in", "unicast"] == 111
    assert found["interface_octets"][AGENT, "1", "in"] == 210


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


def test_interfaces_are_bounded(monkeypatch):
    monkeypatch.setattr("flowagent.ingest.sflow_counters.MAX_INTERFACES", 10)
    decoder = Decoder()
    for n in range(30):
        found = reported(decoder, interface(n))
    assert len(found["interface_up"]) == 10
    assert found["interface_evictions"] == {("udp",): 20}


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
