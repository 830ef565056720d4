"""IPFIX: message lengths, template management, variable length, biflows, borrowed templates, Open vSwitch."""

import struct

import pytest
from build import (
    EXPORT,
    FLOW,
    OVS,
    OVS_SIZE,
    SECOND,
    US,
    column,
    decode,
    define,
    errors,
    feed,
    flow,
    flow_set,
    ipfix,
    options_template,
    ovs_flow,
    template,
    variable,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st

from flowagent.elements import VARIABLE
from flowagent.ingest.decoder import Decoder

WITHDRAW = struct.pack("!HH", 300, 0)


def test_several_templates_and_sets_in_one_message():
    message = ipfix(
        flow_set(2, template(300, *FLOW) + template(301, (1, 4), (2, 4))),
        flow_set(300, flow(octets=1) + flow(octets=2)),
        flow_set(301, struct.pack("!II", 3, 1) + bytes(3)),
        flow_set(300, flow(octets=4) + bytes(1)),
    )
    assert column(decode(message), "bytes") == [1, 2, 3, 4]


@pytest.mark.parametrize(("claim", "rows", "reasons"), [
    (None, 1, {}), (0, 0, {"bad_message_length": 1}), (15, 0, {"bad_message_length": 1}),
    (65535, 1, {"bad_message_length": 1}),
])  # fmt: skip
def test_message_lengths_that_lie(claim, rows, reasons):
    message = ipfix(define(300, *FLOW), flow_set(300, flow()), length=claim)
    assert (len(decode(message)), errors(message)) == (rows, reasons)


def test_what_is_behind_the_message_is_not_read():
    whole = ipfix(define(300, *FLOW), flow_set(300, flow()))
    assert len(decode(whole + flow_set(300, flow()))) == 1


def test_a_withdrawn_template_is_gone():
    decoder = Decoder()
    data = ipfix(flow_set(300, flow()))
    assert len(feed(decoder, ipfix(define(300, *FLOW)), data, ipfix(flow_set(2, WITHDRAW)), data)) == 1
    assert (decoder.stats.held, len(decoder.held)) == (1, 1)
    assert len(feed(decoder, ipfix(define(300, *FLOW)))) == 1
    assert decoder.stats.replayed == 1


def test_withdrawal_of_all_templates_leaves_the_options():
    decoder = Decoder()
    options = flow_set(3, options_template(400, 1, (144, 4), (34, 4)))
    both = (flow_set(300, flow()), flow_set(301, flow()))
    feed(decoder, ipfix(define(300, *FLOW), define(301, *FLOW), options))
    assert feed(decoder, ipfix(flow_set(2, struct.pack("!HH", 2, 0))), ipfix(*both)) == []
    feed(decoder, ipfix(flow_set(400, struct.pack("!II", 0, 9))))
    assert (decoder.stats.held, decoder.stats.options_records) == (2, 1)
    feed(decoder, ipfix(flow_set(3, struct.pack("!HH", 3, 0))), ipfix(flow_set(400, bytes(8))))
    assert decoder.stats.held == 3
    assert not decoder.stats.errors


@pytest.mark.parametrize("together", [True, False])
def test_a_redefinition_takes_effect_in_its_place(together):
    swapped = (FLOW[1], FLOW[0], *FLOW[2:])
    data = ipfix(flow_set(300, flow()))
    messages = [ipfix(define(300, *FLOW)), data, ipfix(define(300, *swapped)), data, ipfix(define(300, *FLOW)), data]
    decoder = Decoder(ordered=True)
    rows = feed(decoder, *messages) if together else [row for m in messages for row in feed(decoder, m)]
    assert column(rows, "src_addr") == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]


def test_a_redefinition_between_two_sets_of_one_message():
    swapped = define(300, FLOW[1], FLOW[0], *FLOW[2:])
    message = ipfix(define(300, *FLOW), flow_set(300, flow()), swapped, flow_set(300, flow()))
    assert column(decode(message), "src_addr") == ["10.0.0.1", "10.0.0.2"]


def test_variable_lengths_in_a_feed_of_many():
    fields = ((82, VARIABLE), (1, 4), (83, VARIABLE))
    names = [b"eth0", b"", b"tap0123456789", b"x" * 254, b"y" * 300]
    records = [
        variable(n, long=len(n) > 254 or i % 2) + struct.pack("!I", i) + variable(n[:2]) for i, n in enumerate(names)
    ]
    rows = decode(
        ipfix(define(300, *fields)),
        *(ipfix(flow_set(300, r)) for r in records),
        ipfix(flow_set(300, b"".join(records[:3]))),
    )
    assert column(rows, "bytes") == [0, 1, 2, 3, 4, 0, 1, 2]
    assert [row.get("interfaceName", b"") for row in rows] == [n[:256] for n in (*names, *names[:3])]
    assert [row.get("interfaceDescription", b"") for row in rows] == [n[:2] for n in (*names, *names[:3])]


def test_unknown_elements_travel_as_bytes():
    (row,) = decode(ipfix(define(300, (1234, 56, 3), (1, 4)), flow_set(300, b"abc" + bytes(4))))
    assert row["pen1234_56"] == b"abc"


def test_structured_data_is_passed_over():
    basic_list = bytes([3]) + struct.pack("!HH", 82, VARIABLE) + variable(b"eth0")
    fields = ((1, 4), (291, VARIABLE), (2, 4))
    record = struct.pack("!I", 7) + variable(basic_list, long=True) + struct.pack("!I", 8)
    (row,) = decode(ipfix(define(300, *fields), flow_set(300, record)))
    assert (row["bytes"], row["packets"], row["basicList"]) == (7, 8, basic_list)


def test_a_template_without_bytes_is_an_error_of_its_data():
    message = ipfix(define(300, (8, 0), (12, 0)), flow_set(300, bytes(8)))
    assert decode(message) == []
    assert errors(message) == {"zero_length_template": 1}


@pytest.mark.parametrize("number", [4, 5, 255])
def test_reserved_sets_are_passed_over(number):
    message = ipfix(flow_set(number, bytes(12)), define(300, *FLOW), flow_set(300, flow()))
    assert len(decode(message)) == 1
    assert errors(message) == {"reserved_set_id": 1}


@pytest.mark.parametrize("length", [0, 1, 3, 65535])
def test_a_set_length_that_lies_costs_the_rest_of_its_message(length):
    message = ipfix(define(300, *FLOW), flow_set(300, flow()), flow_set(300, flow(), length=length))
    other = ipfix(flow_set(300, flow()))
    assert errors(message) == {"bad_set_length": 1}
    assert len(decode(message, other)) == 2


def test_a_record_too_short_for_its_template():
    message = ipfix(define(300, *FLOW), flow_set(300, flow()[:-1]), flow_set(300, flow()))
    assert len(decode(message)) == 1
    assert errors(message) == {"bad_record_length": 1}


# Biflows

BIFLOW = (*FLOW, (29305, 1, 4), (29305, 2, 4), (29305, 6, 1))


def biflow(octets, packets, flags=2):
    return flow() + struct.pack("!IIB", octets, packets, flags)


def test_a_biflow_is_two_rows_where_anything_came_back():
    rows = decode(ipfix(define(300, *BIFLOW), flow_set(300, biflow(7, 1) + biflow(0, 0) + biflow(9, 2))))
    assert column(rows, "bytes") == [100, 7, 100, 100, 9]
    assert column(rows, "packets") == [1, 1, 1, 1, 2]
    there, back = rows[:2]
    assert (back["src_addr"], back["dst_addr"]) == (there["dst_addr"], there["src_addr"])
    assert (back["src_port"], back["dst_port"], back["proto"], back["tcp_flags"]) == (2, 1, 6, 2)
    assert (back["exporter"], back["sequence"], back["received_ns"]) == ("192.0.2.1", 0, 0)
    assert "tcp_flags" not in there


@pytest.mark.parametrize("wanted", [{"src_addr"}, {"src_port", "bytes"}, {"dst_addr", "packets"}])
def test_a_biflow_is_two_rows_whatever_is_wanted(wanted):
    decoder = Decoder(wanted=wanted, ordered=True)
    rows = feed(decoder, ipfix(define(300, *BIFLOW), flow_set(300, biflow(7, 1) + biflow(0, 0))))
    assert len(rows) == 3
    assert all(wanted <= set(row) for row in rows)


# Templates of other domains and ports


def test_another_domains_template_is_used_where_it_fits_to_the_byte():
    decoder = Decoder()
    feed(decoder, ipfix(define(300, *FLOW), domain=1))
    assert len(feed(decoder, ipfix(flow_set(300, flow() * 2 + bytes(3)), domain=2))) == 2
    for body in (flow() + bytes(4), flow()[:-1], flow() * 2 + bytes(20)):
        assert feed(decoder, ipfix(flow_set(300, body), domain=2)) == []
    assert decoder.stats.held == 3
    assert not decoder.stats.errors


def test_a_sets_own_template_goes_before_anothers():
    decoder = Decoder()
    swapped = (FLOW[1], FLOW[0], *FLOW[2:])
    feed(decoder, ipfix(define(300, *FLOW), domain=1), ipfix(define(300, *swapped), domain=2))
    rows = [
        *feed(decoder, ipfix(flow_set(300, flow()), domain=1)),
        *feed(decoder, ipfix(flow_set(300, flow()), domain=2)),
    ]
    assert column(rows, "src_addr") == ["10.0.0.1", "10.0.0.2"]


def test_a_new_port_keeps_the_templates_as_long_as_they_fit():
    decoder = Decoder()
    feed(decoder, ipfix(define(300, *FLOW)), port=1000)
    assert len(feed(decoder, ipfix(flow_set(300, flow())), port=2000)) == 1
    assert feed(decoder, ipfix(flow_set(300, flow() + bytes(5))), port=2000) == []
    rows = feed(decoder, ipfix(define(300, *FLOW, (136, 5))), port=2000)
    assert (len(rows), decoder.stats.replayed) == (1, 1)


# Open vSwitch


def test_open_vswitch_times_and_scaling():
    (row,) = decode(ipfix(define(300, *OVS), flow_set(300, ovs_flow(start=2_500_000, end=1))))
    assert (row["start_ns"], row["end_ns"]) == (EXPORT * SECOND - 2_500_000 * US, EXPORT * SECOND - US)
    assert (row["sampling_source"], "sampling_rate" in row) == (3, False)
    assert (row["observation_point"], row["direction"], row["ether_type"]) == (7, 0, 0x800)


def test_a_changed_virtual_obs_id_never_decodes_wrong():
    """It makes records longer under the same ids, without new templates."""
    decoder = Decoder()
    feed(decoder, ipfix(define(300, *OVS)))
    for port in (4444, 5555):
        for extra in (4, 7, OVS_SIZE - 1):
            assert feed(decoder, ipfix(flow_set(300, ovs_flow() + bytes(extra))), port=port) == []
    assert decoder.stats.held == 6
    (first, *_) = rows = feed(decoder, ipfix(define(300, *OVS, (6876, 898, 7))), port=5555)
    assert (len(rows), decoder.stats.replayed) == (1, 1)
    assert first["bytes"] == 100
    assert len(decoder.held) == 5


def test_a_virtual_obs_id_of_variable_length():
    decoder = Decoder(ordered=True)
    longer = (*OVS, (6876, 898, VARIABLE))
    feed(decoder, ipfix(define(300, *longer)))
    rows = feed(decoder, *(ipfix(flow_set(300, ovs_flow() + variable(n))) for n in (b"a", b"node-17", b"")))
    assert column(rows, "pen6876_898") == [b"a", b"node-17", None]
    assert feed(decoder, ipfix(flow_set(300, ovs_flow()))) == []
    assert decoder.stats.held == 1


def test_all_domains_of_open_vswitch_share_one_sequence():
    decoder = Decoder()
    feed(decoder, ipfix(define(300, *OVS), domain=1), ipfix(define(300, *OVS), domain=2))
    feed(decoder, *(ipfix(flow_set(300, ovs_flow()), domain=1 + i % 3 // 2, sequence=i) for i in range(40) if i != 9))
    assert decoder.exporters.lost_records(final=True) == {"192.0.2.1": 1}


# Round trips

NUMBERS = st.integers(0, 2**64 - 1)


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from([1, 2, 85, 86, 132, 133, 138, 352])),
        min_size=1,
        max_size=8,
        unique_by=lambda f: f[1],
    ),
    st.lists(st.tuples(NUMBERS, st.binary(max_size=20), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_reduced_sizes_and_variable_lengths_come_out_as_they_went_in(fields, records, per_message):
    names = {1: "bytes", 2: "packets", 85: "octetTotalCount", 86: "packetTotalCount", 132: "dropped_bytes",
             133: "dropped_packets", 138: "observation_point", 352: "layer2OctetDeltaCount"}  # fmt: skip
    specs = [(number, size) for size, number in fields]
    encoded = [
        b"".join((n % 256**size).to_bytes(size, "big") for _, size in specs) + variable(text, long=long)
        for n, text, long in records
    ]
    sets = [flow_set(300, b"".join(encoded[i : i + per_message])) for i in range(0, len(encoded), per_message)]
    rows = decode(ipfix(define(300, *specs, (999, 1, VARIABLE))), *map(ipfix, sets))
    for number, size in specs:
        assert column(rows, names[number]) == [n % 256**size for n, _, _ in records]
    assert [row.get("pen999_1", b"") for row in rows] == [text for _, text, _ in records]
