"""The decoder as a whole: protocols told apart, sets that wait, any chunking the same, time passing."""

import struct
from itertools import pairwise

import build_sflow
import numpy as np
import pytest
from build import (
    FLOW,
    OVS,
    column,
    decode,
    define,
    feed,
    flow,
    flow_set,
    ipfix,
    options_template,
    ovs_flow,
    rows,
    v5,
    v5_record,
    v9,
)  # fmt: skip
from captured import NAMES, payloads
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.exporters import MAX_SERIES as MAX_EXPORTER_SERIES
from flowagent.ingest.exporters import TEMPLATE_LIFETIME_NS
from flowagent.ingest.held import LIFETIME_NS
from flowagent.ingest.report import decoder_families, describe_exporters

V9 = v9(define(300, *FLOW, version=9), flow_set(300, flow()))
IPFIX = ipfix(define(300, *FLOW), flow_set(300, flow()))
SFLOW = struct.pack("!II", 5, 1) + bytes(40)
SAMPLES = build_sflow.datagram(build_sflow.flow(build_sflow.header()), sequence=3)


def test_protocols_are_told_apart_and_rows_keep_their_order():
    messages = [IPFIX, v5(v5_record()), SFLOW, V9, v5(v5_record().ljust(52, b"\0"), version=1), b"\0\0\0\6" + bytes(30),
                v5(v5_record().ljust(52, b"\0"), version=7), b"ab", b"", b"\xff\xff" + bytes(50), IPFIX]  # fmt: skip
    decoder = Decoder(ordered=True)
    found = feed(decoder, *messages)
    assert column(found, "export_protocol") == [5, 2, 4, 1, 3, 5]
    stats = decoder.stats
    assert stats.datagrams == {"ipfix": 2, "netflow5": 1, "netflow9": 1, "netflow1": 1, "netflow7": 1, "sflow5": 1,
                               "unknown": 4}  # fmt: skip
    assert stats.errors == {("unknown", "unknown_version"): 2, ("unknown", "truncated"): 2}
    assert stats.datagrams.total() == len(messages)


@pytest.mark.parametrize("messages", [[], [b""], [b"abc"] * 3])
def test_nothing_to_decode(messages):
    assert decode(*messages) == []


def test_only_wanted_columns_and_those_that_cost_nothing():
    decoder = Decoder(wanted=frozenset({"bytes", "start_ns"}))
    always = {"records", "exporter", "observation_domain", "export_protocol", "sampling_source"}
    assert {frozenset(row) for row in feed(decoder, IPFIX, V9)} == {frozenset(always | {"bytes"})}
    decoder.want(None)
    assert {"src_addr", "received_ns", "sequence"} <= set(feed(decoder, IPFIX)[0])


def test_the_buffer_may_be_used_again():
    data = bytearray(IPFIX)
    decoder = Decoder()
    whole = Datagrams.of([bytes(data)])
    buffer = whole.data.copy()
    batch = decoder.feed(Datagrams(buffer, whole.offset, whole.length, whole.exporter, whole.port, whole.received_ns))
    before = rows(batch)
    buffer[:] = 0xFF
    assert rows(batch) == before


# Sets that wait


@pytest.mark.parametrize(("make", "version"), [(ipfix, 10), (v9, 9)])
@pytest.mark.parametrize("together", [True, False])
def test_sets_before_their_template(make, version, together):
    decoder = Decoder(ordered=True)
    messages = [make(flow_set(300, flow(octets=i) * 2), sequence=i, export=100 + i) for i in range(3)]
    messages.append(make(define(300, *FLOW, version=version), flow_set(300, flow(octets=9)), sequence=8))
    found = feed(decoder, *messages) if together else [row for m in messages for row in feed(decoder, m)]
    assert column(found, "bytes") == [0, 0, 1, 1, 2, 2, 9]
    assert column(found, "sequence") == [0, 0, 1, 1, 2, 2, 8]
    assert (decoder.stats.held, decoder.stats.replayed, decoder.stats.expired) == (3, 3, 0)
    assert len(decoder.held) == 0


def test_a_held_set_keeps_the_times_of_its_datagram():
    decoder = Decoder()
    fields = ((22, 4), (1, 4))
    feed(decoder, v9(flow_set(300, struct.pack("!II", 4000, 1)), uptime=5000, export=1000), received_ns=77)
    (row,) = feed(decoder, v9(define(300, *fields, version=9), uptime=9000, export=2000), received_ns=88)
    assert (row["start_ns"], row["received_ns"]) == (999 * 10**9, 77)


def test_held_options_are_learnt_when_their_template_comes():
    decoder = Decoder()
    feed(decoder, ipfix(flow_set(256, struct.pack("!II", 0, 50))))
    feed(decoder, ipfix(flow_set(3, options_template(256, 1, (144, 4), (34, 4)))))
    assert decoder.stats.options_records == 1
    assert column(feed(decoder, IPFIX), "sampling_rate") == [50]


def test_held_sets_expire_and_so_do_templates():
    decoder = Decoder()
    feed(decoder, ipfix(flow_set(301, flow())), IPFIX)
    decoder.expire(LIFETIME_NS + 1)
    assert decoder.stats.expired == 1
    decoder.expire(TEMPLATE_LIFETIME_NS + 1)
    assert decoder.stats.evicted_templates == 1
    assert feed(decoder, ipfix(flow_set(300, flow()))) == []


def test_the_end_gives_up_what_waits():
    decoder = Decoder()
    feed(decoder, ipfix(flow_set(301, flow()), flow_set(302, flow())))
    decoder.close()
    assert (decoder.stats.held, decoder.stats.expired) == (2, 2)


def test_boot_times_in_records_of_many_templates_at_once():
    decoder = Decoder(wanted=frozenset({"start_ns"}), ordered=True)
    fields = ((22, 4), (160, 8))
    sets = [
        (define(300 + i, *fields, (1, 1 + i)), flow_set(300 + i, struct.pack("!IQ", 5, i) + bytes(1 + i)))
        for i in range(8)
    ]
    found = feed(decoder, *(ipfix(*both) for both in sets))
    assert column(found, "start_ns") == [(5 + i) * 10**6 for i in range(8)]


# Any chunking is the same


def outcome(messages, cuts, senders):
    """Rows in order and everything counted, where the stream is cut at these places."""
    decoder = Decoder(ordered=True)
    edges = [0, *sorted(c for c in cuts if c < len(messages)), len(messages)]
    found = []
    for start, stop in pairwise(edges):
        found += feed(
            decoder, *messages[start:stop], exporter=senders[start:stop], received_ns=list(range(start, stop))
        )
    decoder.close()
    stats = decoder.stats
    counts = [
        getattr(stats, name)
        for name in ("templates", "options_templates", "options_records", "held", "replayed", "expired")
    ]
    return found, counts, +stats.datagrams, +stats.records, +stats.errors, +stats.sampling


SWAPPED = (FLOW[1], FLOW[0], *FLOW[2:])
BIFLOW = (*FLOW, (29305, 1, 4))
TEMPLATES = [define(300, *FLOW), define(300, *SWAPPED), define(301, *FLOW, (82, 65535)), define(302, *OVS),
             define(303, *BIFLOW), flow_set(2, struct.pack("!HH", 300, 0)), flow_set(2, struct.pack("!HH", 2, 0)),
             flow_set(3, options_template(400, 1, (144, 4), (34, 4))),
             flow_set(3, options_template(401, 1, (302, 1), (160, 8)))]  # fmt: skip
DATA = [flow_set(300, flow()), flow_set(300, flow(octets=7) * 3), flow_set(301, flow() + b"\4name" + flow() + b"\0"),
        flow_set(302, ovs_flow()), flow_set(302, ovs_flow() + bytes(9)), flow_set(303, (flow() + b"\0\0\0\5") * 2),
        flow_set(400, struct.pack("!II", 0, 10)), flow_set(400, struct.pack("!II", 0, 20)),
        flow_set(401, struct.pack("!BQ", 1, 10**12)), flow_set(300, b"short"), flow_set(5, b"")]  # fmt: skip
MESSAGE = st.builds(
    lambda sets, domain, sequence: ipfix(*sets, domain=domain, sequence=sequence),
    st.lists(st.sampled_from(TEMPLATES + DATA * 2), min_size=1, max_size=4),
    st.integers(0, 1),
    st.integers(0, 9),
)
OTHERS = st.sampled_from(
    [v5(v5_record()), v5(v5_record(), v5_record(), count=9), V9, v9(flow_set(300, flow())), SFLOW, SAMPLES, b"x"]
)


@settings(deadline=None)
@given(st.lists(st.one_of(MESSAGE, MESSAGE, MESSAGE, OTHERS), min_size=2, max_size=25), st.data())
def test_any_chunking_gives_the_same_rows_and_counts(messages, data):
    senders = data.draw(
        st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), min_size=len(messages), max_size=len(messages))
    )
    whole = outcome(messages, [], senders)
    assert outcome(messages, range(1, len(messages)), senders) == whole
    assert outcome(messages, data.draw(st.sets(st.integers(1, len(messages)))), senders) == whole


@pytest.mark.parametrize("name", [n for n in NAMES if len(payloads(n)) > 1])
def test_any_chunking_of_a_capture_gives_the_same(name):
    messages = payloads(name)[:400]
    senders = ["10.0.0.1"] * len(messages)
    whole = outcome(messages, [], senders)
    assert outcome(messages, range(1, len(messages)), senders) == whole
    cuts = np.random.default_rng(1).integers(1, len(messages), 9).tolist()
    assert outcome(messages, cuts, senders) == whole


# What is told of it


def test_families():
    decoder = Decoder()
    feed(decoder, IPFIX, v5(v5_record()), b"x", ipfix(flow_set(999, b"x")))
    families = {f.name: f for f in decoder_families(decoder, "udp")}
    assert families["flowagent_ingest_records"].samples["udp", "ipfix"] == 1
    assert families["flowagent_ingest_datagrams"].samples["udp", "unknown"] == 1
    assert families["flowagent_ingest_errors"].samples == {("udp", "unknown", "truncated"): 1}
    assert families["flowagent_ingest_waiting_sets"].samples == {("udp",): 1}
    assert families["flowagent_ingest_held_sets"].samples == {("udp",): 1}
    assert families["flowagent_ingest_lost_records"].samples == {("192.0.2.1",): 0}


def test_exporters_beyond_a_number_share_one_series():
    decoder = Decoder()
    count = MAX_EXPORTER_SERIES + 50
    for sequence in (0, 11, 12, 13):
        messages = [v5(v5_record(), sequence=sequence)] * count
        feed(decoder, *messages, exporter=[f"10.1.{i // 250}.{i % 250}" for i in range(count)])
    lost = next(f for f in decoder_families(decoder, "udp") if f.name == "flowagent_ingest_lost_records").samples
    assert len(lost) == MAX_EXPORTER_SERIES + 1
    assert lost["other",] == 50 * 10
    assert sum(lost.values()) == count * 10


def test_exporters_as_the_api_shows_them():
    decoder = Decoder()
    feed(decoder, IPFIX, ipfix(define(302, *OVS), flow_set(302, ovs_flow())), received_ns=5)
    (one,) = describe_exporters(decoder, "udp")
    assert one["exporter"] == "192.0.2.1"
    assert (one["protocol"], one["templates"], one["is_ovs"], one["records"], one["datagrams"]) == (
        "ipfix",
        2,
        True,
        2,
        2,
    )
    assert one["last_seen_ns"] == 5
