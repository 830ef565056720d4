"""Faults that are known of other collectors and analysers, each from the datagram to what the agent shows.

Two exporters with one domain, sampling rates in options, long fields, counters
above 32 bits, clocks that are wrong, endless interfaces, gauges that are called
counters, samples that are not scaled.
"""

import struct
from itertools import count

import numpy as np
import pytest
from build import FLOW, column, decode, define, feed, flow, flow_set, ipfix, options_template, v5, v5_record, variable
from build_sflow import datagram as sflow
from build_sflow import flow as flow_sample
from build_sflow import header as sampled_header

from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.config import parse
from flowagent.export.prometheus import Exposition
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.metrics import Metrics
from flowagent.outcome import Outcomes
from flowagent.pipeline import build
from flowagent.stages import Stages

NOW = 1_700_000_000 * SECOND
MINUTE = 60 * SECOND


class Bench:
    """Decoder and stages, with counters by exporter and whatever policies a test wants."""

    def __init__(self, *policies, **sections):
        self.decoder = Decoder()
        analyse = [{"type": "counters", "labels": ["exporter"]}, *({"type": "policy", **p} for p in policies)]
        config = parse({"analyse": analyse, **sections})
        self.outcomes = Outcomes()
        self.stages = Stages(config, self.outcomes, Context("test", rng=np.random.default_rng(1)))
        self.stages.analyses = [build(kind, Context("test")) for kind in config.analyse]
        self.tick(NOW)

    def feed(self, *payloads, exporter="192.0.2.1", now_ns=NOW, backlog=0.0):
        batch = self.decoder.feed(Datagrams.of(payloads, exporter=exporter, received_ns=now_ns))
        self.outcomes.decoded += len(batch)
        self.stages.process(batch, now_ns, backlog)

    def tick(self, now_ns):
        return self.stages.tick(now_ns)

    def result(self, name="p", window=1):
        policy = next(a for a in self.stages.analyses if getattr(a, "name", "") == name)
        return policy.result(window, window)

    def counter(self, name):
        families = {family.name: family for family in self.stages.families()}
        return {labels[0]: value for labels, value in families[f"flowagent_{name}"].samples.items()}


def test_two_exporters_may_use_one_domain_and_template_id():
    # A template store by domain and id alone lets the second overwrite the first.
    short, long = ((1, 4), (2, 4)), ((2, 8), (1, 8))
    bench = Bench()
    bench.feed(ipfix(define(256, *short)), exporter="192.0.2.1")
    bench.feed(ipfix(define(256, *long)), exporter="192.0.2.2")
    bench.feed(ipfix(flow_set(256, struct.pack("!II", 100, 1))), exporter="192.0.2.1")
    bench.feed(ipfix(flow_set(256, struct.pack("!QQ", 1, 200))), exporter="192.0.2.2")
    assert bench.counter("flow_bytes") == {"192.0.2.1": 100, "192.0.2.2": 200}


def test_a_sampling_rate_in_options_scales_and_has_its_variance():
    bench = Bench({"name": "p"})
    options = options_template(300, 1, (149, 4), (305, 4), (306, 4))
    bench.feed(ipfix(flow_set(3, options), flow_set(300, struct.pack("!III", 0, 1, 99)), define(256, *FLOW)))
    bench.feed(ipfix(flow_set(256, flow(octets=500, packets=1))))
    assert bench.counter("flow_bytes") == {"192.0.2.1": 50_000}
    assert bench.counter("flow_bytes_variance") == {"192.0.2.1": 100 * 99 * 500**2}
    bench.tick(NOW + MINUTE)
    assert bench.result()["groups"][0]["bytes"] == 50_000


def test_the_sampling_rate_of_netflow_5_headers_scales():
    bench = Bench()
    bench.feed(v5(v5_record(octets=400, packets=2), sampling=0x4000 | 64))
    assert bench.counter("flow_bytes") == {"192.0.2.1": 400 * 64}
    assert bench.counter("flow_packets") == {"192.0.2.1": 2 * 64}


def test_variable_lengths_in_three_bytes_do_not_shift_what_follows():
    fields = ((1, 4), (82, 65535), (2, 4))
    records = b"".join(
        struct.pack("!I", octets) + variable(b"eth0" * 3, long=long) + struct.pack("!I", 7)
        for octets, long in ((1, True), (2, False), (3, True))
    )
    found = decode(ipfix(define(256, *fields), flow_set(256, records)))
    assert column(found, "bytes") == [1, 2, 3]
    assert column(found, "packets") == [7, 7, 7]


def test_data_before_its_template_costs_nothing():
    bench = Bench()
    bench.feed(ipfix(flow_set(256, flow(octets=11)), flow_set(257, flow(octets=13))))
    bench.feed(ipfix(define(256, *FLOW)))
    bench.feed(ipfix(define(257, *FLOW)))
    assert bench.counter("flow_bytes") == {"192.0.2.1": 24}


def test_counters_and_interfaces_keep_all_their_bits():
    octets, interface, asn = 5 * 2**32 + 7, 70_000, 4_200_000_000
    template = ((1, 8), (2, 8), (10, 4), (16, 4))
    message = ipfix(define(256, *template), flow_set(256, struct.pack("!QQII", octets, 2**33, interface, asn)))
    (row,) = decode(message)
    assert (row["bytes"], row["packets"], row["in_if"], row["src_as"]) == (octets, 2**33, interface, asn)
    bench = Bench({"name": "p", "top": [{"of": "in_if"}]})
    bench.feed(message)
    bench.tick(NOW + MINUTE)
    assert bench.counter("flow_bytes") == {"192.0.2.1": octets}
    assert bench.result()["groups"][0]["top"][0]["rows"] == [{"in_if": interface, "bytes": octets}]


def test_ipv6_needs_no_version_field():
    source = bytes.fromhex("20010db8000000000000000000000001")
    (row,) = decode(ipfix(define(256, (27, 16), (1, 4)), flow_set(256, source + struct.pack("!I", 9))))
    assert row["src_addr"] == "2001:db8::1"


def test_an_exporter_whose_clock_is_wrong_holds_nobody_up():
    day = 86_400
    bench = Bench({"name": "p", "every": "60s"}, window={"every": "10s"})
    bench.feed(ipfix(define(256, *FLOW), flow_set(256, flow(octets=1)), export=NOW // SECOND + day))
    bench.feed(ipfix(define(256, *FLOW), flow_set(256, flow(octets=2)), export=NOW // SECOND - day), exporter="::2")
    rows = bench.tick(NOW + 10 * SECOND)
    assert sorted(rows["bytes"].tolist()) == [1, 2]
    bench.tick(NOW + MINUTE)
    assert bench.result()["groups"][0]["bytes"] == 3
    bench.feed(ipfix(flow_set(256, flow(octets=4))), now_ns=NOW + MINUTE)
    bench.tick(NOW + 2 * MINUTE)
    assert bench.result()["groups"][0]["bytes"] == 4


def test_forged_interfaces_do_not_cost_memory():
    bench = Bench({"name": "p", "group_by": ["exporter", "in_if"], "max_groups": 20, "top": [{"of": "src_addr"}],
                   "distinct": ["src_addr"], "memory": "4MiB"})  # fmt: skip
    numbers = count()
    for _ in range(20):
        forged = [[v5_record(in_if=next(numbers) % 65536) for _ in range(30)] for _ in range(100)]
        bench.feed(*(v5(*records) for records in forged))
    bench.tick(NOW + SECOND)
    policy = bench.stages.analyses[1]
    assert policy.nbytes <= 4 << 20
    result = bench.result(window=0)
    assert len(result["groups"]) == 21
    assert sum(group["records"] for group in result["groups"]) == 60_000


def test_counters_count_from_the_start_and_never_repeat_a_period():
    bench = Bench({"name": "p", "every": "60s"})
    seen = []
    for minute in range(4):
        bench.feed(v5(v5_record(octets=100)), now_ns=NOW + minute * MINUTE)
        # Scraped twice a period: no repetition, no loss.
        for later in (20, 40):
            bench.tick(NOW + minute * MINUTE + later * SECOND)
            seen.append(bench.counter("policy_bytes")["p"])
    assert seen == [100, 100, 200, 200, 300, 300, 400, 400]


def test_quantiles_of_merged_periods_are_those_of_all_records():
    bench = Bench({"name": "p", "quantiles": ["bytes"], "every": "60s"})
    sizes = [[100] * 99, [1_000_000] * 1]
    for minute, octets in enumerate(sizes):
        bench.feed(*(v5(v5_record(octets=n)) for n in octets), now_ns=NOW + minute * MINUTE)
        bench.tick(NOW + (minute + 1) * MINUTE)
    policy = bench.stages.analyses[1]
    merged = policy.result(1, 2)["groups"][0]["quantiles"][0]
    assert merged["p50"] == pytest.approx(100, rel=0.011)
    assert merged["count"] == 100


def test_what_a_sample_stands_for_is_what_there_was():
    # Others let one coin decide over a datagram of thirty records, and scale nothing.
    bench = Bench({"name": "p"})
    records = [v5_record(octets=100 + n % 50, sport=n % 60_000) for n in range(30_000)]
    payloads = [v5(*records[i : i + 30]) for i in range(0, len(records), 30)]
    for _ in range(4):
        bench.feed(*payloads, backlog=0.9)
    bench.tick(NOW + MINUTE)
    (group,) = bench.result()["groups"]
    assert bench.result()["lowest_inclusion_prob"] < 1
    assert group["records"] == pytest.approx(120_000, rel=0.05)
    assert group["bytes"] == pytest.approx(sum(100 + n % 50 for n in range(30_000)) * 4, rel=0.05)
    assert bench.counter("flow_records") == {"192.0.2.1": 120_000}


def test_every_ranking_shows_as_many_keys_as_were_asked_for():
    bench = Bench({"name": "p", "top": [{"of": "tos", "k": 3}, {"of": "src_port", "k": 7}]})
    bench.feed(*(v5(v5_record(tos=n % 5, sport=n)) for n in range(20)))
    bench.tick(NOW + MINUTE)
    assert [len(top["rows"]) for top in bench.result()["groups"][0]["top"]] == [3, 7]


def test_series_of_many_policies_and_groups_do_not_collide():
    # One metric, one set of labels, no series twice: the text format allows nothing else.
    bench = Bench(
        {"name": "a", "group_by": ["in_if"], "distinct": ["src_addr", "dst_addr"], "quantiles": ["bytes"]},
        {"name": "b", "group_by": ["exporter", "proto"], "top": [{"of": "dst_port"}], "entropy": [{"of": "dst_port"}]},
    )
    bench.feed(*(v5(v5_record(in_if=n, proto=n)) for n in range(5)))
    bench.tick(NOW + MINUTE)
    metrics = Metrics()
    metrics.add(bench.stages.families)
    text = Exposition(metrics).render("")[0].decode()
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
    described = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))


def test_options_do_not_become_flows():
    decoder = Decoder()
    options = options_template(300, 1, (149, 4), (305, 4))
    assert feed(decoder, ipfix(flow_set(3, options), flow_set(300, struct.pack("!II", 0, 10)))) == []
    assert decoder.stats.options_records == 1


def test_sampled_packets_are_scaled_once():
    # Some collectors leave the rate of sFlow to the reader, or take the check sequence for traffic.
    bench = Bench()
    bench.feed(sflow(*[flow_sample(sampled_header(), rate=8)] * 3))
    assert bench.counter("flow_packets") == {"198.51.100.9": 3 * 8}
    assert bench.counter("flow_bytes") == {"198.51.100.9": 3 * 8 * 154}
