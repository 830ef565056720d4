"""Filters: every operator row by row against a naive reader of the same expression, and every mistake at its place."""

import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filter_rows import PAIRS, batches, expressions, make
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent import names
from flowagent.batch import Batch, is_constant
from flowagent.errors import ConfigError
from flowagent.filters import MAX_DEPTH, MAX_TEXT, FilterError, parse_filter
from flowagent.schema import COLUMNS


def matches(text, batch):
    found = parse_filter(text, "filter")(batch)
    assert found.dtype == np.bool_
    assert found.shape == (len(batch),)
    return "".join("01"[int(row)] for row in found)


PORTS = make(src_port=[79, 80, 81, None, 443], dst_port=[80, 443, None, None, 80])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("src_port == 80", "01000"),
        ("src_port = 80", "01000"),
        ("src_port != 80", "10101"),
        ("src_port < 80", "10000"),
        ("src_port <= 80", "11000"),
        ("src_port > 80", "00101"),
        ("src_port >= 80", "01101"),
        ("src_port >= 0", "11101"),
        ("src_port <= 0xFFFF", "11101"),
        ("src_port in 80-81", "01100"),
        ("src_port in 443", "00001"),
        ("src_port in {79, 81-100}", "10100"),
        ("src_port in [79,443]", "10001"),
        ("src_port in (79)", "10000"),
        ("src_port not in {79, 80}", "00101"),
        ("src_port !in {79, 80}", "00101"),
        ("src_port is known", "11101"),
        ("src_port is unknown", "00010"),
        ("src_port & 2", "10001"),
        ("src_port has 3", "10001"),
        ("port == 80", "11001"),
        ("port != 80", "00000"),
        ("port != 443", "10000"),
        ("port < 80", "10000"),
        ("port in {443}", "01001"),
        ("port not in {443}", "10000"),
        ("port is known", "11101"),
        ("port is unknown", "00010"),
        ("not port == 443", "10110"),
        ("not src_port == 80", "10111"),
        ("!(src_port != 80)", "01010"),
        ("src_port == 80 or dst_port == 80", "11001"),
        ("src_port == 80 || dst_port == 80", "11001"),
        ("src_port == 80 and dst_port == 443", "01000"),
        ("src_port == 80 && dst_port == 80", "00000"),
        ("dst_port == 80 or src_port == 80 and dst_port == 443", "11001"),
        ("(dst_port == 80 or src_port == 80) and dst_port == 443", "01000"),
        ("not src_port == 80 and dst_port == 80", "10001"),
        ("NOT src_port = 80 AND dst_port IS Known", "10001"),
        ("src_port\n  in\t{80}", "01000"),
    ],
)
def test_truth_of_every_operator(text, rows):
    assert matches(text, PORTS) == rows


ADDRESSES = make(
    src_addr=["10.1.2.3", "192.0.2.1", "2001:db8::1", None], dst_addr=["192.0.2.1", "::1", "11.0.0.0", None]
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("src_addr == 10.1.2.3", "1000"),
        ("src_addr != 10.1.2.3", "0110"),
        ("src_addr in 10.0.0.0/8", "1000"),
        ("src_addr in {10.0.0.0/8, 2001:db8::/32}", "1010"),
        ("src_addr not in 10.0.0.0/8", "0110"),
        ("src_addr in 0.0.0.0/0", "1100"),
        ("src_addr in ::/0", "0010"),
        ("src_addr in {::/0, 0.0.0.0/0}", "1110"),
        ("src_addr in 10.1.2.0-10.1.2.3", "1000"),
        ("dst_addr in 10.0.0.0/8", "0000"),
        ("addr == 192.0.2.1", "1100"),
        ("addr != 192.0.2.1", "0010"),
        ("addr not in {10.0.0.0/8, ::1}", "0010"),
    ],
)
def test_addresses_and_prefixes(text, rows):
    assert matches(text, ADDRESSES) == rows


OTHERS = make(
    proto=[6, 17, 58], tcp_flags=[0x12, 0, 2], export_protocol=[5, 2, 0], src_mac=[0x5300000001, 0, 2**48 - 1],
    bytes=[2**64 - 1, 2**63 + 1, 10_000], start_ns=[-1, 0, 1_700_000_000_000_000_000],
    sampling_rate=[1.5, math.nan, None], forwardingStatus=[64, 128, None],
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("proto == tcp", "100"),
        ("proto in {udp, ipv6-icmp}", "011"),
        ("tcp_flags has syn and not tcp_flags has ack", "001"),
        ("tcp_flags has 0x12", "100"),
        ("tcp_flags & 0x12", "101"),
        ("tcp_flags == syn", "001"),
        ("export_protocol == ipfix", "100"),
        ("export_protocol in {unknown, netflow5}", "011"),
        ("export_protocol != unknown", "110"),
        ("src_mac == 00:53:00:00:00:01", "100"),
        ("src_mac in {00:00:00:00:00:00, ff:ff:ff:ff:ff:ff}", "011"),
        ("bytes == 18446744073709551615", "100"),
        ("bytes == 9223372036854775809", "010"),
        ("bytes > 9223372036854775808", "110"),
        ("bytes >= 10k and bytes < 10001", "001"),
        ("start_ns < 0", "100"),
        ("start_ns >= 1700000000G", "001"),
        ("sampling_rate == 1.5", "100"),
        ("sampling_rate > 1", "100"),
        ("sampling_rate < 1.5", "000"),
        ("sampling_rate != 1", "100"),
        ("forwardingStatus >= 128", "010"),
        ("forwardingStatus != 64", "010"),
        ("firewallEvent == 3 or firewallEvent != 3", "000"),
        ("firewallEvent is unknown", "111"),
        ("not vlan == 1", "111"),
    ],
)
def test_columns_of_every_kind(text, rows):
    assert matches(text, OTHERS) == rows


def test_a_filter_is_its_text():
    one, same, other = (
        parse_filter(text, path) for text, path in [("port == 1", "a"), ("port == 1", "b"), ("port==1", "a")]
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one.text == "port == 1"
    with pytest.raises(AttributeError):
        one.text = ""


def test_the_columns_read_are_known():
    text = "port == 1 and not (proto == tcp or forwardingStatus is known) and addr in ::1"
    expected = {"src_port", "dst_port", "proto", "forwardingStatus", "src_addr", "dst_addr"}
    assert parse_filter(text, "").columns == expected


def test_constant_columns_are_looked_at_once():
    batch = make(1000, proto=6, src_addr="10.0.0.1", in_if=None)
    for text in ("proto == tcp", "src_addr in {10.0.0.0/8}", "not in_if == 1 or proto in {1, 3, 5, 7, 9}", "vlan == 1"):
        assert is_constant(parse_filter(text, "")(batch))
    assert matches("proto == tcp and src_addr in 10.0.0.0/8 and in_if is unknown", batch) == "1" * 1000


def test_a_batch_without_rows():
    for batch in (Batch({}), make(src_port=[], proto=[]), make(0, proto=6)):
        assert matches("not proto == tcp or src_port in {1, 3, 5, 7, 9}", batch) == ""


def test_long_sets():
    hosts = ", ".join(f"10.0.{i}.1" for i in range(0, 256, 2))
    batch = make(src_addr=[f"10.0.{i}.1" for i in range(256)], src_port=list(range(256)))
    assert matches(f"src_addr in {{{hosts}}}", batch) == "10" * 128
    assert matches(f"src_port in [{', '.join(str(i) for i in range(0, 256, 2))}]", batch) == "10" * 128


@settings(max_examples=300, deadline=None)
@given(expressions, batches())
def test_random_expressions_match_the_rows_they_should(expression, drawn):
    (text, test), (batch, rows) = expression, drawn
    assert matches(text, batch) == "".join("01"[test(row)] for row in rows)


# Mistakes. The mark ^ stands before the character that is wrong.


def refused(text):
    with pytest.raises(FilterError) as caught:
        parse_filter(text, "export.file.filter")
    return caught.value


@pytest.mark.parametrize(
    ("marked", "what"),
    [
        ("^", "the filter is empty"),
        ("^  ", "the filter is empty"),
        ("src_port ==^", "expected a value after =="),
        ("src_port ==^  ", "expected a value after =="),
        ("src_port == ^and proto == 6", "expected a value after ==, not and"),
        ("src_port^", "expected a comparison such as == or in after src_port"),
        ("dst ^port 80", "expected a comparison such as == or in after dst, not port"),
        ("src_port == 80 and^", "expected a condition such as proto == tcp after and"),
        ("^and", "expected a condition such as proto == tcp, not and"),
        ("src_port == 80 ^443", "expected and, or or the end after 80, not 443"),
        ("src_port == 80^)", "expected and, or or the end after 80, not )"),
        ("(src_port == 80 ^443)", "expected and, or or ) after 80, not 443"),
        ("proto == 6 and ^(src_port == 80", "expected ): this ( is never closed"),
        ("src_port in ^{80, 443", "expected }: this { is never closed"),
        ("(src_port in ^[80", "expected ]: this [ is never closed"),
        ("src_port in {80^]", "expected a comma or } after 80, not ]"),
        ("src_port in {80 ^443}", "expected a comma or } after 80, not 443"),
        ("src_port in {80,^}", "expected a value after a comma, not }"),
        ("src_port in {^}", "expected a value after {, not }"),
        ("src_port in^", "expected a value, a range or a set such as {80, 443} after in"),
        ("src_port not ^80", "expected in after not, not 80"),
        ("src_port is^", "expected known or unknown after is"),
        ("src_port is ^there", "expected known or unknown after is, not there"),
        ("src_port == ^'80'", 'unexpected character "\'"; texts stand in "'),
        ('src_city == ^"Bonn', "unexpected character '\"'; this \" is never closed"),
        ('src_port == ^"80-90"', "src_port is a number; 80-90 is not"),
        ('^"src_port" == 80', 'expected a column such as src_port; "src_port" is not'),
        ("src_port == 80 ^| dst_port == 80", "unexpected character '|'; or is written or or ||"),
        ("src_port == ^é", "unexpected character 'é'"),
        ("^src_prt == 80", "there is no column src_prt; did you mean src_port?"),
        ("^80 == src_port", "expected a column such as src_port; 80 is a number"),
        ("src_port == ^dst_port", "src_port is a number; dst_port is a column"),
        ("src_port == ^10.0.0.1", "src_port is a number; 10.0.0.1 is an address"),
        ("dst_port == ^70000", "dst_port goes from 0 to 65535; 70000 is outside"),
        ("dst_port in {80, ^-1}", "dst_port goes from 0 to 65535; -1 is outside"),
        ("dst_port < ^0", "dst_port goes from 0 to 65535; < 0 never matches"),
        ("bytes > ^18446744073709551615", "> 18446744073709551615 never matches"),
        ("src_port == ^80-90", "== takes one value; ranges and prefixes go with in: src_port in 80-90"),
        ("src_addr != ^10.0.0.0/8", "!= takes one value; ranges and prefixes go with in: src_addr in 10.0.0.0/8"),
        ("src_addr ^< 10.0.0.1", "src_addr is an address, which has no order"),
        ("sampling_source ^>= wire", "which has no order"),
        ("src_addr in 10.0.0.0/^33", "the length of an IPv4 prefix is a number from 0 to 32"),
        ("src_addr in ^10.0.0.1/8", "write 10.0.0.0/8, or 10.0.0.1 for one address"),
        ("src_addr ^& 1", "& looks at the bits of a whole number; src_addr is an address"),
        ("sampling_rate ^has 1", "has looks at the bits of a whole number; sampling_rate is a number"),
        ("tcp_flags & ^0", "0 has no bits to look for"),
        ("proto == 6 and\n^src_prt == 80", "there is no column src_prt"),
    ],
)
def test_a_mistake_is_shown_where_it_is(marked, what):
    position = marked.index("^")
    text = marked[:position] + marked[position + 1 :]
    error = refused(text)
    message, shown, caret = str(error).rsplit("\n", 2)
    assert message.startswith("export.file.filter: ")
    assert what in message
    assert shown == f"  {text}".replace("\n", " ")
    assert caret == f"  {' ' * position}^"
    assert error.position == position
    assert isinstance(error, ConfigError)


def test_of_a_long_text_the_part_with_the_mistake_is_shown():
    start = " or ".join(["src_port == 1"] * 30) + " or "
    error = refused(start + "src_prt == 2 or " + start + "src_port == 1")
    _, shown, caret = str(error).split("\n")
    assert error.position == len(start)
    assert len(shown) < 130
    assert shown[2] == shown[-1] == "…"
    assert shown[caret.index("^") :].startswith("src_prt == 2")


def test_a_text_has_an_end():
    text = "src_port == 1".ljust(MAX_TEXT)
    assert matches(text, PORTS) == "00000"
    error = refused(text + " ")
    assert "at most 4096 characters; this one has 4097" in str(error)
    assert error.position == MAX_TEXT


@pytest.mark.parametrize(("opener", "closer"), [("(", ")"), ("not ", ""), ("!", ""), ("!(", ")")])
def test_nesting_has_an_end(opener, closer):
    levels = MAX_DEPTH // (2 if opener == "!(" else 1)
    text = f"{opener * levels}src_port == 80{closer * levels}"
    assert matches(text, PORTS) == "01000"
    error = refused(f"!{text}")
    assert "more than 64 parentheses and not within one another" in str(error)
    assert error.position == 1 + len(opener * levels) - (len(opener) if opener != "!(" else 1)


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_TEXT, "not " * (MAX_TEXT // 4), "!" * (MAX_TEXT - 11) + "src_port==1", "({" * 2048, "a" * MAX_TEXT,
        "9" * MAX_TEXT, "bytes == " + "9" * 4000, "port in {" + "1," * 2040 + "}", "src_port in " + "1-" * 2000,
        "src_addr in 10.0.0.0/" + "1" * 4000, ":" * MAX_TEXT, "(" * 2000 + "src_port == 1" + ")" * 2000,
    ],
)  # fmt: skip
def test_hostile_texts_are_refused_quickly(text):
    parse_filter("port == 1 and forwardingStatus == 1", "")  # the grammar and the elements are read once
    began = time.perf_counter()
    refused(text)
    assert time.perf_counter() - began < 2


WORDS = [
    "src_port", "addr", "proto", "tcp", "80", "1-9", "10.0.0.0/8", "::1", "==", "=", "!=", "<", "and", "or", "not",
    "in", "(", ")", "{", "}", "[", "]", ",", "has", "&", "is", "known", "tcp_flags", "forwardingStatus", "|", "'", "\n",
    "\ud800", "-", "/", "00:53:00:00:00:01", "7000000",
]  # fmt: skip
words = st.lists(st.sampled_from(WORDS), max_size=20)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40) | words.map(" ".join) | words.map("".join))
def test_any_text_is_a_filter_or_a_filter_error(text):
    try:
        found = parse_filter(text, "")
    except FilterError as wrong:
        found = wrong
    if isinstance(found, FilterError):
        assert 0 <= found.position <= len(text)
        assert str(found).count("\n") == 2
    else:
        assert found(OTHERS).shape == (3,)


def test_the_grammar_is_loaded_with_the_first_filter():
    code = """
import sys, flowagent.filters
print("lark" in sys.modules)
flowagent.filters.parse_filter("port == 1", "")
print("lark" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_no_column_is_named_like_an_operator():
    assert not {"and", "or", "not", "in", "has", "is", *PAIRS} & COLUMNS.keys()


def test_the_page_about_filters_is_right():
    page = (Path(__file__).parents[1] / "docs" / "filters.md").read_text("utf-8")
    examples, mistake = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    for text in examples.splitlines():
        assert parse_filter(text, "").columns
    error = refused(mistake.splitlines()[1].strip())
    assert error.problem == mistake.rstrip("\n")


@pytest.mark.parametrize(
    ("written", "meant"),
    [('"New York"', "New York"), ('"Bonn"', "Bonn"), (r'"a \"b\" \\c"', r'a "b" \c'), ('"in"', "in"),
     ('"a-b, c"', "a-b, c"), ('"Zürich/ZH"', "Zürich/ZH")],
)  # fmt: skip
def test_texts_in_quotes_are_what_they_say(written, meant):
    batch = Batch({"src_city": names.codes([meant, "elsewhere", ""])})
    assert parse_filter(f"src_city == {written}", "x")(batch).tolist() == [True, False, False]
    assert parse_filter(f"src_city not in {{{written}, x}}", "x")(batch).tolist() == [False, True, True]


def test_numbers_may_stand_in_quotes():
    batch = Batch({"dst_port": np.array([80, 443], np.uint16), "proto": np.array([6, 17], np.uint8)})
    assert parse_filter('dst_port == "443" and proto == "udp"', "x")(batch).tolist() == [False, True]
