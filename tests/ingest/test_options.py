"""Options records: sampling rates by every element and scope, boot times, the exporter's own losses."""

import struct

import pytest
from build import (
    FLOW,
    MS,
    OVS,
    column,
    decode,
    define,
    feed,
    flow,
    flow_set,
    ipfix,
    options_template,
    options_template9,
    ovs_flow,
    template,
    v9,
)  # fmt: skip

from flowagent.ingest.decoder import Decoder
from flowagent.ingest.rates import Overrides


def options(number, scopes, fields, *records, domain=0):
    """A message that defines an options template and brings records of it."""
    return ipfix(
        flow_set(3, options_template(number, scopes, *fields)), flow_set(number, b"".join(records)), domain=domain
    )


def flows(*extra, domain=0, records=None):
    """A message with flows; `extra` fields go before those of FLOW."""
    return ipfix(define(300, *extra, *FLOW), flow_set(300, b"".join(records or [flow()])), domain=domain)


def sampling(rows):
    return list(zip(column(rows, "sampling_rate"), column(rows, "sampling_source"), strict=True))


UNKNOWN, WIRE, PRESCALED, CONFIG = 0, 1, 3, 4


@pytest.mark.parametrize(
    ("fields", "record", "rate"),
    [
        ([(34, 4)], struct.pack("!I", 100), 100),
        ([(50, 4)], struct.pack("!I", 64), 64),
        ([(35, 1), (34, 2)], struct.pack("!BH", 2, 10), 10),
        ([(304, 2), (305, 4), (306, 4)], struct.pack("!HII", 1, 1, 99), 100),
        ([(305, 4)], struct.pack("!I", 128), 128),
        ([(309, 4), (310, 4)], struct.pack("!II", 2, 50), 25),
        ([(311, 8)], struct.pack("!d", 0.125), 8),
        ([(311, 4)], struct.pack("!f", 0.5), 2),
    ],
)
@pytest.mark.parametrize("in_record", [False, True])
def test_every_element_pair(fields, record, rate, in_record):
    if in_record:
        rows = decode(flows(*fields, records=[record + flow()]))
    else:
        rows = decode(options(256, 1, [(144, 4), *fields], bytes(4) + record), flows())
    assert sampling(rows) == [(rate, WIRE)]


def test_without_any_word_the_rate_is_unknown():
    decoder = Decoder()
    assert sampling(feed(decoder, flows())) == [(None, UNKNOWN)]
    assert decoder.stats.sampling == {"unknown": 1}


def test_a_nonsense_rate_is_unknown():
    rows = decode(options(256, 1, [(144, 4), (34, 4)], bytes(8)), flows())
    assert sampling(rows) == [(None, UNKNOWN)]


@pytest.mark.parametrize(("element", "size"), [(302, "!Q"), (48, "!B")])
def test_a_selector_has_its_own_rate(element, size):
    field = (element, struct.calcsize(size))
    records = [struct.pack(size, n) + struct.pack("!I", n * 10) for n in (1, 2)]
    rows = decode(
        options(256, 1, [field, (34, 4)], *records),
        options(257, 1, [(144, 4), (34, 4)], struct.pack("!II", 0, 5)),
        flows(field, records=[struct.pack(size, n) + flow() for n in (2, 1, 3, 2)]),
    )
    assert sampling(rows) == [(20, WIRE), (10, WIRE), (5, WIRE), (20, WIRE)]


def test_an_unknown_selector_without_a_default_is_unknown():
    decoder = Decoder(ordered=True)
    rows = feed(
        decoder,
        options(256, 1, [(302, 1), (34, 4)], struct.pack("!BI", 1, 10)),
        flows((302, 1), records=[b"\1" + flow(), b"\7" + flow()]),
    )
    assert sampling(rows) == [(10, WIRE), (None, UNKNOWN)]
    assert decoder.stats.sampling == {"wire": 1, "unknown": 1}


def test_an_interface_has_its_own_rate():
    rows = decode(
        options(256, 1, [(10, 4), (34, 4)], struct.pack("!II", 7, 70), struct.pack("!II", 8, 80)),
        flows((10, 2), records=[struct.pack("!H", n) + flow() for n in (8, 9, 7)]),
    )
    assert sampling(rows) == [(80, WIRE), (None, UNKNOWN), (70, WIRE)]


@pytest.mark.parametrize(("scope", "rates"), [((1, 4), [30, 30]), ((2, 4), [30, None]), ((3, 4), [30, 30])])
def test_v9_scopes(scope, rates):
    head = v9(flow_set(1, options_template9(256, [scope], (34, 4))), flow_set(256, struct.pack("!II", 7, 30)))
    records = flow_set(300, b"".join(struct.pack("!I", n) + flow() for n in (7, 8)))
    rows = decode(head, v9(define(300, (10, 4), *FLOW, version=9), records))
    assert column(rows, "sampling_rate") == rates


def test_v9_options_without_a_scope():
    head = v9(flow_set(1, options_template9(256, [], (34, 4), (36, 2))), flow_set(256, struct.pack("!IH", 30, 60)))
    rows = decode(head, v9(define(300, *FLOW, version=9), flow_set(300, flow())))
    assert sampling(rows) == [(30, WIRE)]


def test_domain_0_speaks_for_domains_that_say_nothing():
    whole = options(256, 1, [(144, 4), (34, 4)], struct.pack("!II", 0, 5))
    own = options(256, 1, [(144, 4), (34, 4)], struct.pack("!II", 0, 9), domain=2)
    rows = decode(whole, own, flows(domain=1), flows(domain=2))
    assert sampling(rows) == [(5, WIRE), (9, WIRE)]


def test_options_may_speak_of_another_domain():
    rows = decode(options(256, 1, [(149, 4), (34, 4)], struct.pack("!II", 6, 5)), flows(domain=6), flows(domain=7))
    assert sampling(rows) == [(5, WIRE), (None, UNKNOWN)]


def test_rates_belong_to_one_exporter():
    decoder = Decoder()
    feed(decoder, options(256, 1, [(144, 4), (34, 4)], struct.pack("!II", 0, 5)))
    assert sampling(feed(decoder, flows(), exporter="192.0.2.99")) == [(None, UNKNOWN)]
    assert sampling(feed(decoder, flows())) == [(5, WIRE)]


def test_options_hold_for_what_follows_them_and_not_for_what_came_before():
    head = options(256, 1, [(144, 4), (34, 4)])
    first, second = (ipfix(flow_set(256, struct.pack("!II", 0, n))) for n in (5, 6))
    data = ipfix(flow_set(300, flow()))
    rows = decode(head, flows(), data, first, data, data, second, data)
    assert column(rows, "sampling_rate") == [None, None, 5, 5, 6]


def test_options_in_the_middle_of_a_datagram():
    both = ipfix(flow_set(300, flow()), flow_set(256, struct.pack("!II", 0, 5)), flow_set(300, flow()))
    rows = decode(options(256, 1, [(144, 4), (34, 4)]), flows(), both)
    assert column(rows, "sampling_rate") == [None, None, 5]


def test_the_users_word_goes_before_all_but_open_vswitch():
    decoder = Decoder(ordered=True, overrides=Overrides({"192.0.2.0/24": 1000}))
    ovs = ipfix(define(400, *OVS), flow_set(400, ovs_flow()))
    rows = feed(decoder, options(256, 1, [(144, 4), (34, 4)], struct.pack("!II", 0, 5)), flows(), ovs)
    # What Open vSwitch counts is multiplied already, whatever the user says.
    assert sampling(rows) == [(1000, CONFIG), (None, PRESCALED)]
    assert sampling(feed(decoder, flows(), exporter="198.51.100.1")) == [(None, UNKNOWN)]


def test_open_vswitch_has_scaled_already():
    decoder = Decoder()
    rows = feed(decoder, ipfix(define(400, *OVS), flow_set(400, ovs_flow())))
    assert sampling(rows) == [(None, PRESCALED)]
    assert decoder.stats.sampling == {"prescaled": 1}


@pytest.mark.parametrize("element", [34, 50, 305, 309, 310, 311, 302, 48, 10, 149, 160, 167])
@pytest.mark.parametrize("length", [9, 16, 3])
def test_fields_of_odd_lengths_teach_nothing_wrong(element, length):
    """One that cannot have this length is as if it were not there."""
    rows = decode(options(256, 1, [(144, 4), (element, length)], bytes(range(200, 204 + length))), flows())
    assert len(rows) == 1


def test_boot_time_for_uptimes_in_ipfix():
    boot = 1_600_000_000_000
    rows = decode(
        ipfix(define(300, (22, 4), (21, 4), (1, 4)), flow_set(300, struct.pack("!III", 5, 6, 7))),
        options(256, 1, [(143, 4), (160, 8)], struct.pack("!IQ", 0, boot)),
        ipfix(flow_set(300, struct.pack("!III", 5, 6, 7))),
    )
    assert column(rows, "start_ns") == [None, (boot + 5) * MS]
    assert column(rows, "end_ns") == [None, (boot + 6) * MS]


def test_packets_that_the_exporter_could_not_send():
    decoder = Decoder()
    feed(decoder, options(256, 1, [(144, 4), (167, 8)], struct.pack("!IQ", 1, 42)))
    (domain,) = decoder.exporters
    assert domain.not_sent_packets == 42
    assert decoder.stats.options_records == 1


def test_options_that_teach_nothing_are_counted_only():
    decoder = Decoder()
    assert feed(decoder, options(256, 1, [(10, 4), (82, 8)], bytes(4) + b"eth0\0\0\0\0", bytes(12))) == []
    assert (decoder.stats.options_records, decoder.stats.options_templates) == (2, 1)
    assert not decoder.stats.errors


def test_several_options_templates_at_once():
    message = ipfix(
        flow_set(3, options_template(256, 1, (144, 4), (34, 4)) + options_template(257, 1, (302, 8), (50, 4))),
        flow_set(256, struct.pack("!II", 0, 5)),
        flow_set(257, struct.pack("!QI", 1, 6)),
        flow_set(2, template(300, *FLOW)),
        flow_set(300, flow()),
    )
    assert sampling(decode(message)) == [(5, WIRE)]
