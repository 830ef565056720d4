"""Words of a filter: names of columns, and values in every notation."""

import pytest

from flowagent.literals import WrongError, read_item, read_operand, read_value
from flowagent.schema import COLUMNS

V4 = 0xFFFF_0000_0000


def value(name, text):
    return read_value(read_operand(name, 0), text, 0)


def item(name, text):
    return list(read_item(read_operand(name, 0), text, 0))


def problem(read, *args):
    with pytest.raises(WrongError) as caught:
        read(*args)
    return caught.value.what


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("007", 7), ("18446744073709551615", 2**64 - 1), ("0x1F", 31), ("0xffffffffffffffff", 2**64 - 1),
        ("10k", 10_000), ("10K", 10_000), ("2M", 2_000_000), ("3G", 3 * 10**9), ("1T", 10**12),
        ("1ki", 1024), ("4Ki", 4096), ("2Mi", 2 << 20), ("1Gi", 1 << 30), ("1Ti", 1 << 40),
    ],
)  # fmt: skip
def test_numbers(text, number):
    assert value("bytes", text) == number


@pytest.mark.parametrize("text", ["", "1e3", "1_000", "0x", "1.5", "10kk", "10m", "0x1k", "--1", "٣", "9" * 41, "1 0"])
def test_what_is_no_whole_number(text):
    assert "bytes is a number" in problem(value, "bytes", text)


def test_numbers_with_a_fraction():
    assert value("sampling_rate", "1.5k") == 1500.0
    assert value("weight", "-0.25") == -0.25
    assert value("weight", "0x10") == 16.0
    assert value("sampling_rate", "9" * 40) == float("9" * 40)


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("src_addr", "192.0.2.1", V4 | 0xC0000201),
        ("src_addr", "2001:db8::1", 0x2001_0DB8 << 96 | 1),
        ("next_hop", "::ffff:192.0.2.1", V4 | 0xC0000201),
        ("dst_mac", "00:53:00:aB:cd:ef", 0x005300ABCDEF),
        ("start_ns", "-5", -5),
        ("export_protocol", "ipfix", 5),
        ("export_protocol", "IPFIX", 5),
        ("sampling_source", "unknown", 0),
        ("proto", "tcp", 6),
        ("proto", "ICMP6", 58),
        ("proto", "ipv6-icmp", 58),
        ("proto", "132", 132),
        ("tcp_flags", "syn", 2),
        ("tcp_flags", "cwr", 128),
    ],
)
def test_values_of_every_kind(name, text, number):
    assert value(name, text) == number


@pytest.mark.parametrize(
    ("name", "text", "pairs"),
    [
        ("src_port", "80", [(80, 80)]),
        ("src_port", "1024-65535", [(1024, 65535)]),
        ("end_ns", "-5--1", [(-5, -1)]),
        ("bytes", "1k-1Ki", [(1000, 1024)]),
        ("weight", "0.5-1.5", [(0.5, 1.5)]),
        ("proto", "ipv6-icmp", [(58, 58)]),
        ("src_mac", "00:53:00:00:00:00-00:53:00:ff:ff:ff", [(0x53_0000_0000, 0x53_00FF_FFFF)]),
        ("addr", "10.0.0.0/8", [(V4 | 0x0A000000, V4 | 0x0AFFFFFF)]),
        ("addr", "0.0.0.0/0", [(V4, V4 | 0xFFFFFFFF)]),
        ("addr", "192.0.2.1/32", [(V4 | 0xC0000201,) * 2]),
        ("addr", "::ffff:10.0.0.0/104", [(V4 | 0x0A000000, V4 | 0x0AFFFFFF)]),
        ("addr", "2001:db8::/32", [(0x2001_0DB8 << 96, (0x2001_0DB9 << 96) - 1)]),
        ("addr", "192.0.2.1-192.0.2.9", [(V4 | 0xC0000201, V4 | 0xC0000209)]),
        ("addr", "::/0", [(0, V4 - 1), (V4 + 2**32, 2**128 - 1)]),
        ("addr", "::1-2001:db8::", [(1, V4 - 1), (V4 + 2**32, 0x2001_0DB8 << 96)]),
    ],
)  # fmt: skip
def test_items_of_a_set(name, text, pairs):
    assert item(name, text) == pairs


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_every_column_can_be_read(name):
    operand = read_operand(name, 0)
    assert operand.columns == (name,)
    assert operand.dtype == COLUMNS[name].dtype
    least, most = operand.ends
    assert least < most


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("forwardingStatus", "u8", "int"),
        ("firewallEvent", "u8", "int"),
        ("dataRecordsReliability", "u8", "int"),  # a boolean
        ("mibObjectValueInteger", "i8", "int"),
        ("samplingProbability", "f8", "int"),
        ("collectionTimeMilliseconds", "i8", "time"),
        ("exporterIPv4Address", "u8", "addr"),
    ],
)
def test_elements_without_a_column_are_known_by_their_name(name, dtype, kind):
    operand = read_operand(name, 0)
    assert (operand.columns, operand.dtype, operand.kind) == ((name,), dtype, kind)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src_prt", "there is no column src_prt; did you mean src_port?"),
        ("forwardingstatus", "there is no column forwardingstatus; did you mean forwardingStatus?"),
        ("pen0_1", "there is no column pen0_1"),
        ("80", "expected a column such as src_port; 80 is a number"),
        ("10.0.0.0/8", "expected a column such as src_port; 10.0.0.0/8 is a prefix"),
        ("00:53:00:00:00:01", "expected a column such as src_port; 00:53:00:00:00:01 is a MAC address"),
        ("sourceTransportPort", "sourceTransportPort fills the column src_port; write src_port"),
        ("flowStartSeconds", "flowStartSeconds fills the column start_ns; write start_ns"),
        ("interfaceName", "interfaceName is text, which filters do not read"),
        ("ipHeaderPacketSection", "ipHeaderPacketSection is a string of bytes, which filters do not read"),
    ],
)
def test_names_that_are_refused(name, text):
    assert problem(read_operand, name, 0) == text


@pytest.mark.parametrize(
    ("name", "marked", "what"),
    [
        ("src_addr", "^80", "src_addr is an address; 80 is a number"),
        ("src_addr", "^10.0.0", "src_addr is an address; 10.0.0 is not"),
        ("src_addr", "^10.0.0/8", "src_addr is an address; 10.0.0 is not"),
        ("src_port", "^10.0.0.0/8", "src_port is a number; 10.0.0.0/8 is a prefix"),
        ("src_port", "^dst_port", "src_port is a number; dst_port is a column, and columns are compared with values"),
        ("src_mac", "^10.0.0.1", "src_mac is a MAC address with colons; 10.0.0.1 is an address"),
        ("src_mac", "^00:53:00:00:00", "src_mac is a MAC address with colons; 00:53:00:00:00 is not"),
        ("bytes", "^00:53:00:00:00:01", "bytes is a number; 00:53:00:00:00:01 is a MAC address"),
        ("bytes", "^1.5", "bytes is a number; 1.5 has a fraction"),
        ("start_ns", "^now", "start_ns is a time in nanoseconds; now is not"),
        ("forwardingStatus", "^::1", "forwardingStatus is a number; ::1 is an address"),
        ("export_protocol", "^5", "netflow9, ipfix, sflow5; 5 is a number"),
        ("export_protocol", "^ipfx", "netflow9, ipfix, sflow5; ipfx is not; did you mean ipfix?"),
        ("proto", "^tpc", "tpc is not; did you mean tcp?"),
        ("tcp_flags", "^sin", "fin, syn, rst, psh, ack, urg, ece, cwr; sin is not; did you mean syn?"),
        ("dst_port", "^65536", "dst_port goes from 0 to 65535; 65536 is outside"),
        ("src_mask", "^256", "src_mask goes from 0 to 255; 256 is outside"),
        ("bytes", "^18446744073709551616", "bytes goes from 0 to 18446744073709551615"),
        ("dst_port", "80-^70000", "dst_port goes from 0 to 65535; 70000 is outside"),
        ("dst_port", "80-^http", "dst_port is a number; http is not"),
        ("dst_port", "^-80", "dst_port goes from 0 to 65535; -80 is outside"),
        ("dst_port", "^80-", "dst_port is a number; 80- is not"),
        ("dst_port", "^90-80", "a range goes upwards; write 80-90"),
        ("addr", "^10.0.0.1-::1", "10.0.0.1-::1 begins in one version of IP and ends in another"),
        ("addr", "::/^129", "the length of an IPv6 prefix is a number from 0 to 128"),
        ("addr", "10.0.0.0/^33", "the length of an IPv4 prefix is a number from 0 to 32"),
        ("addr", "10.0.0.0/^", "the length of an IPv4 prefix is a number from 0 to 32"),
        ("addr", "10.0.0.0/^255.0.0.0", "the length of an IPv4 prefix is a number from 0 to 32"),
        ("addr", "^10.0.0.1/8", "10.0.0.1/8 has bits set behind its length; write 10.0.0.0/8, or 10.0.0.1 for one"),
        ("addr", "^2001:db8::1/32", "write 2001:db8::/32, or 2001:db8::1 for one address"),
    ],
)
def test_values_that_are_refused(name, marked, what):
    position = marked.index("^")
    with pytest.raises(WrongError) as caught:
        read_item(read_operand(name, 0), marked.replace("^", ""), 100)
    assert what in caught.value.what
    assert caught.value.position == 100 + position
