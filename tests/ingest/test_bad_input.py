"""Bad input costs only itself: no exception, memory in bounds, other exporters undisturbed, no long pause."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
from build import (
    FLOW,
    column,
    define,
    feed,
    flow,
    flow_set,
    ipfix,
    options_template,
    template,
    v5,
    v5_record,
    v9,
    variable,
)
from captured import NAMES, payloads
from hypothesis import given
from hypothesis import strategies as st

from flowagent.elements import VARIABLE
from flowagent.export.encode import json_lines
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.exporters import MAX_BYTES, MAX_DOMAIN_TEMPLATES, MAX_DOMAINS, MAX_EXPORTER_BYTES
from flowagent.ingest.state import MAX_EXTRA_COLUMNS

MB = 1 << 20
GOOD = ipfix(flow_set(300, flow()))


@pytest.fixture
def decoder():
    """One that knows a good exporter's template."""
    made = Decoder(ordered=True)
    feed(made, ipfix(define(300, *FLOW)), exporter="10.9.9.9")
    return made


def assert_good_exporter_is_decoded(decoder):
    assert column(feed(decoder, GOOD, exporter="10.9.9.9"), "bytes") == [100]


def swallow(decoder, messages, **origin):
    """Feed and encode; returns seconds."""
    began = time.perf_counter()
    batch = decoder.feed(Datagrams.of(messages, **origin))
    json_lines(batch.rows(0, min(50, len(batch))))
    return time.perf_counter() - began


def grown(work):
    """Bytes that are still held after some work."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
def test_real_datagrams_cut_at_every_byte(decoder, name):
    """The first ones of every kind, one after the other, so that templates of the whole ones are known."""
    for payload in {p[:2] + p[16:24]: p for p in payloads(name)[:60]}.values():
        swallow(decoder, [payload])
        swallow(decoder, [payload[:end] for end in range(min(len(payload), 1500))])
    assert_good_exporter_is_decoded(decoder)


@pytest.mark.parametrize("name", NAMES[::3])
def test_every_byte_of_real_datagrams_replaced(decoder, name):
    payload = max(payloads(name)[:30], key=len)[:700]
    for value in (b"\0", b"\xff"):
        swallow(decoder, [payload[:i] + value + payload[i + 1 :] for i in range(len(payload))])
    assert_good_exporter_is_decoded(decoder)


@given(
    st.lists(st.binary(max_size=120), max_size=10),
    st.sampled_from([b"", b"\0\x01", b"\0\x05", b"\0\x07", b"\0\x09", b"\0\x0a"]),
)
def test_random_bytes(bodies, version):
    decoder = Decoder()
    swallow(decoder, [version + body for body in bodies])
    assert decoder.stats.datagrams.total() == len(bodies)


SET = st.builds(
    flow_set,
    st.sampled_from([0, 1, 2, 3, 256, 257, 300]),
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda fields: template(256, *fields),
            st.lists(
                st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 3, 4, 5, 8, 9, 16, 17, VARIABLE])), max_size=6
            ),
        ),
        st.builds(
            lambda fields: options_template(257, 1, *fields),
            st.lists(
                st.tuples(
                    st.sampled_from([34, 50, 48, 302, 305, 306, 309, 310, 311, 160, 149, 10]), st.integers(0, 17)
                ),
                max_size=4,
            ),
        ),
    ),
    st.sampled_from([None] * 12 + [0, 3, 4, 5, 65535]),
)


@given(st.lists(st.tuples(st.booleans(), st.lists(SET, max_size=5)), max_size=6))
def test_sound_headers_with_anything_behind(messages):
    decoder = Decoder(ordered=True)
    for is_v9, sets in messages:
        swallow(decoder, [(v9 if is_v9 else ipfix)(*sets)])
    decoder.exporters.lost_records(final=True)


@pytest.mark.parametrize("number", range(1, 534))
def test_every_element_in_every_odd_length(number):
    """As a flow's field and as an option, twice in a template, beside a field of another length."""
    decoder = Decoder(ordered=True)
    for length in (1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 40):
        record = bytes(range(1, 2 * length + 1)) + b"\7"
        fields = ((number, length), (number, length), (4, 1))
        sets = [flow_set(2, template(256, *fields)), flow_set(3, options_template(257, 1, *fields))]
        assert swallow(decoder, [ipfix(*sets, flow_set(257, record), flow_set(256, record))]) < 5
    one_batch = [ipfix(define(300 + n, (number, n), (4, 1)), flow_set(300 + n, bytes(n + 1))) for n in (4, 5, 6, 8, 16)]
    swallow(decoder, one_batch)
    assert decoder.stats.records["ipfix"] == 11 + 5
    assert not decoder.stats.errors


@pytest.mark.parametrize("export", [0, 2**31, 2**32 - 1])
def test_clocks_years_off(decoder, export):
    fields = ((22, 4), (158, 8), (152, 8), (150, 8), (154, 8), (156, 8), (159, 4))
    record = b"\xff" * sum(n for _, n in fields)
    for each in (fields, fields[:1], fields[1:2], fields[3:4], fields[4:5], fields[5:6]):
        swallow(
            decoder,
            [
                make(define(400, *each, version=n), flow_set(400, record), export=export)
                for make, n in ((ipfix, 10), (v9, 9))
            ],
        )
    swallow(decoder, [v5(v5_record(first=2**32 - 1), export=export, ns=2**32 - 1)])
    assert_good_exporter_is_decoded(decoder)


# Floods


def test_ten_thousand_templates_of_one_exporter(decoder):
    messages = [
        ipfix(flow_set(2, b"".join(template(256 + 100 * k + i, (8, 4), (1, 4)) for i in range(100))))
        for k in range(100)
    ]
    assert grown(lambda: swallow(decoder, messages)) < 8 * MB
    assert sum(len(d.templates) for d in decoder.exporters) == 1 + MAX_DOMAIN_TEMPLATES
    assert_good_exporter_is_decoded(decoder)


def test_templates_as_large_as_they_may_be():
    """Their definitions and the layouts made of them stay within bounds, and so does the time."""
    decoder = Decoder(wanted=frozenset({"bytes"}))
    wide = [(i + 1, 4) for i in range(340)]
    messages = [
        ipfix(define(256 + k, *wide, (1, 1 + k % 8)), flow_set(256 + k, bytes(1360 + 1 + k % 8))) for k in range(500)
    ]
    began = time.perf_counter()
    assert grown(lambda: [swallow(decoder, messages[i : i + 100]) for i in range(0, 500, 100)]) < 128 * MB
    assert time.perf_counter() - began < 60
    assert all(d.size < MAX_EXPORTER_BYTES for d in decoder.exporters)


def test_more_fields_than_a_template_may_have(decoder):
    message = v9(flow_set(0, template(400, *[(8, 1)] * 16000)))
    assert swallow(decoder, [message] * 50) < 5
    assert decoder.stats.errors == {("netflow9", "bad_template"): 50}


def test_ten_thousand_exporters(decoder):
    k = 10_000
    senders = [f"10.{i >> 14}.{i >> 7 & 127}.{i & 127}" for i in range(k)]
    seconds = swallow(decoder, [ipfix(define(300, *FLOW), flow_set(300, flow()))] * k, exporter=senders)
    assert seconds < 20
    assert sum(1 for _ in decoder.exporters) == k + 1
    assert decoder.stats.records["ipfix"] == k
    assert_good_exporter_is_decoded(decoder)


def test_more_exporters_than_fit_in_one_feed(decoder):
    k = MAX_DOMAINS + 500
    senders = [f"10.{i >> 14}.{i >> 7 & 127}.{i & 127}" for i in range(k)]
    swallow(decoder, [ipfix(flow_set(300, flow()))] * k, exporter=senders)
    assert sum(1 for _ in decoder.exporters) <= MAX_DOMAINS
    assert decoder.stats.held == k
    assert sum(d.size for d in decoder.exporters) <= MAX_BYTES


def test_options_that_name_more_domains_than_fit():
    decoder = Decoder()
    head = ipfix(flow_set(3, options_template(256, 1, (149, 4), (34, 4))))
    records = [b"".join(struct.pack("!II", k * 8000 + i, 7) for i in range(8000)) for k in range(3)]
    swallow(
        decoder,
        [head, *(ipfix(flow_set(256, r), domain=1) for r in records), ipfix(define(300, *FLOW), flow_set(300, flow()))],
    )
    assert sum(1 for _ in decoder.exporters) <= MAX_DOMAINS
    assert sum(d.size for d in decoder.exporters) <= MAX_EXPORTER_BYTES


def test_sets_without_a_template_from_many_domains(decoder):
    messages = [ipfix(flow_set(256 + i % 5000, bytes(200)), domain=i) for i in range(6000)]
    assert grown(lambda: swallow(decoder, messages)) < 40 * MB
    assert decoder.stats.held == 6000
    assert decoder.stats.expired > 0
    assert_good_exporter_is_decoded(decoder)


def test_a_template_repeated_does_not_decode_what_cannot_fit_again_and_again(decoder):
    ovs = ((138, 4), (61, 1), (56, 6), (80, 6), (256, 2), (240, 1), (158, 4), (159, 4))
    feed(decoder, ipfix(define(256, *ovs)))
    swallow(decoder, [ipfix(flow_set(256, bytes(28 + 9)))] * 3000)
    assert len(decoder.held) > 2000
    assert swallow(decoder, [ipfix(*[define(256, *ovs)] * 30)] * 10) < 1


def test_one_long_text_does_not_widen_every_row(decoder):
    feed(decoder, ipfix(define(400, (82, VARIABLE), (1, 4))))
    short = ipfix(flow_set(400, (variable(b"eth0") + bytes(4)) * 100))
    long = ipfix(flow_set(400, variable(b"x" * 60_000, long=True) + bytes(4)))
    batch = decoder.feed(Datagrams.of([short] * 500 + [long]))
    assert len(batch) == 50_001
    assert sum(c.nbytes for c in batch.columns.values() if c.strides[-1]) < 40 * MB


def test_elements_that_nobody_knows_do_not_widen_every_row(decoder):
    """A thousand templates of a hundred made-up elements each: their rows stay, most of their columns go."""
    messages = [
        ipfix(define(256 + k, *((1000 + k, i, 1) for i in range(100)), (1, 4)), flow_set(256 + k, bytes(104)))
        for k in range(1000)
    ]
    batch = decoder.feed(Datagrams.of(messages))
    assert len(batch) == 1000
    assert len(batch.columns) < MAX_EXTRA_COLUMNS + 60
    assert decoder.stats.errors == {("ipfix", "too_many_columns"): 1000 - MAX_EXTRA_COLUMNS // 100}
    assert swallow(decoder, [messages[-1]]) < 1
    assert decoder.stats.errors["ipfix", "too_many_columns"] == 1000 - MAX_EXTRA_COLUMNS // 100


@pytest.mark.parametrize("fill", [b"\0", b"\1", b"\xff", b"\xff\xff\xff", b"\x01a"])
def test_a_datagram_of_the_shortest_records(decoder, fill):
    feed(decoder, ipfix(define(400, (82, VARIABLE))))
    body = (fill * 65000)[:65000]
    assert swallow(decoder, [ipfix(flow_set(400, body))]) < 5
    assert_good_exporter_is_decoded(decoder)


def test_a_datagram_of_the_shortest_sets(decoder):
    sets = [flow_set(256 + i, b"") for i in range(16_000)]
    assert swallow(decoder, [ipfix(*sets)]) < 5
    assert_good_exporter_is_decoded(decoder)


def test_claims_of_65535_everywhere(decoder):
    top = b"\xff\xff"
    messages = [
        struct.pack("!HH", version, 65535) + fill * 40
        for version in (1, 5, 7, 9, 10)
        for fill in (b"\0", top, struct.pack("!HH", 256, 65535), struct.pack("!HH", 2, 65535))
    ]
    swallow(decoder, messages)
    assert_good_exporter_is_decoded(decoder)


def test_a_bad_exporter_costs_nothing_but_itself_in_the_same_feed(decoder):
    rng = np.random.default_rng(3)
    bad = [b"\0\x0a" + rng.bytes(200) for _ in range(300)]
    messages = [m for one in bad for m in (one, GOOD)]
    found = feed(decoder, *messages, exporter=["10.6.6.6", "10.9.9.9"] * 300)
    assert column(found, "exporter").count("10.9.9.9") == 300
