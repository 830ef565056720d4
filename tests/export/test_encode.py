"""Rows as lines of JSON: what people and programs read."""

import ipaddress
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.addresses import address_words
from flowagent.batch import Batch, constant
from flowagent.export.encode import json_lines, parts
from flowagent.names import codes
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS, SAMPLING_SOURCES


def opaque(*values):
    column = np.empty(len(values), object)
    column[:] = values
    return column


def one(name, value, dtype=None):
    """The JSON text of one value of a column."""
    array = np.array([value], dtype or COLUMNS[name].dtype).T
    line = json_lines(Batch({name: array})).decode()
    assert line.startswith('{"' + name + '":')
    assert line.endswith("}\n")
    return line[len(name) + 4 : -2]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("proto", 6, "6"),
        ("bytes", 2**64 - 1, "18446744073709551615"),
        ("start_ns", 1_700_000_000_123_456_789, "1700000000123456789"),
        ("end_ns", -1, "-1"),
        ("src_addr", address_words("192.0.2.1"), '"192.0.2.1"'),
        ("src_addr", address_words("0.0.0.0"), '"0.0.0.0"'),
        ("src_addr", address_words("2001:db8::1"), '"2001:db8::1"'),
        ("src_addr", address_words("::"), '"::"'),
        ("src_mac", 0x02_00_5E_00_00_0A, '"02:00:5e:00:00:0a"'),
        ("export_protocol", 5, '"ipfix"'),
        ("sampling_source", 0, '"unknown"'),
        ("sampling_rate", 1000.0, "1000"),
        ("sampling_rate", 1.5, "1.5"),
    ],
)
def test_every_kind(name, value, text):
    assert one(name, value) == text


def test_text_and_opaque_bytes_of_extra_columns():
    batch = Batch(
        {
            "interfaceName": np.array([b"eth0", b"caf\xc3\xa9", b"\xff\x00x"], "S8"),
            "pen6876_898": opaque(b"\x00\xff", b"", None),
            "ipHeaderPacketSection": opaque(b"\x45", b"\x46", b"\x47"),
        }
    )
    assert [json.loads(line) for line in json_lines(batch).splitlines()] == [
        {"interfaceName": "eth0", "pen6876_898": "00ff", "ipHeaderPacketSection": "45"},
        {"interfaceName": "café", "pen6876_898": "", "ipHeaderPacketSection": "46"},
        {"interfaceName": "\ufffd\x00x", "ipHeaderPacketSection": "47"},
    ]


def test_golden_lines():
    batch = Batch(
        {
            "packets": np.array([1, 2], "u8"),
            "bytes": np.array([64, 1500], "u8"),
            "dst_addr": np.array([address_words("198.51.100.9"), address_words("2001:db8::9")], "u8").T,
            "src_addr": constant(address_words("192.0.2.1"), 2, "u8"),
            "ipClassOfService": np.array([7, 8], "u8"),
            "proto": constant(17, 2, "u1"),
            "tcp_flags": np.array([0, 2], "u2"),
            "start_ns": np.array([1_700_000_000_000_000_000, 0], "i8"),
        },
        valid={"tcp_flags": np.array([False, True]), "start_ns": np.array([True, False])},
    )
    first = (
        '{"start_ns":1700000000000000000,"src_addr":"192.0.2.1","dst_addr":"198.51.100.9","proto":17,'
        '"bytes":64,"packets":1,"ipClassOfService":7}\n'
    )
    second = (
        '{"src_addr":"192.0.2.1","dst_addr":"2001:db8::9","proto":17,"bytes":1500,"packets":2,"tcp_flags":2,'
        '"ipClassOfService":8}\n'
    )
    assert json_lines(batch).decode() == first + second


def test_nothing_is_nothing():
    assert json_lines(Batch({})) == b""
    assert json_lines(Batch({"bytes": np.zeros(0, "u8")})) == b""


@pytest.mark.parametrize("rows", [1, 20_000])
def test_rows_without_columns_are_empty_objects(rows):
    assert json_lines(Batch({}, rows)) == b"{}\n" * rows


def test_long_values_are_encoded_a_few_rows_at_a_time():
    batch = Batch({"ipHeaderPacketSection": opaque(*[b"\xab" * 60_000] * 300), "proto": np.arange(300).astype("u1")})
    assert max(map(len, parts(batch))) * 120_000 < 40 << 20
    assert [json.loads(line)["proto"] for line in json_lines(batch).splitlines()] == [i % 256 for i in range(300)]


def test_unknown_in_every_row_gives_empty_objects():
    assert json_lines(Batch({"bytes": np.zeros(2, "u8")}, valid={"bytes": np.zeros(2, "?")})) == b"{}\n{}\n"


def test_columns_come_in_canonical_order_and_extra_ones_last():
    names = [*reversed(COLUMNS), "ipClassOfService"]
    columns = {
        name: np.zeros((2, 1) if COLUMNS[name].kind == "addr" else 1, COLUMNS[name].dtype) for name in names[:-1]
    }
    columns |= {name: codes(["some name"]) for name in columns if COLUMNS[name].kind == "name"}  # 0 is none
    line = json_lines(Batch({"ipClassOfService": np.zeros(1, "u8"), **columns}))
    assert list(json.loads(line)) == [*COLUMNS, "ipClassOfService"]


def test_a_float_that_is_no_number_is_null():
    batch = Batch({"weight": np.array([np.nan, np.inf, 0.5])})
    assert [json.loads(line)["weight"] for line in json_lines(batch).splitlines()] == [None, None, 0.5]


def test_repeated_elements_keep_their_kind():
    batch = Batch({"interfaceName_2": np.array([b"eth1"]), "sourceMacAddress_2": np.array([1], "u8")})
    assert json.loads(json_lines(batch)) == {"interfaceName_2": "eth1", "sourceMacAddress_2": "00:00:00:00:00:01"}


def test_batches_put_together_where_one_lacks_a_column():
    parts = [
        Batch({"ipHeaderPacketSection": opaque(b"\x45"), "interfaceName": np.array([b"eth0"])}),
        Batch({"proto": np.array([6], "u1")}),
    ]
    assert json_lines(Batch.concat(parts)).splitlines() == [
        b'{"ipHeaderPacketSection":"45","interfaceName":"eth0"}',
        b'{"proto":6}',
    ]


# How each kind of column is drawn, stored and printed.
words = st.sampled_from([0, 1, 0xFFFF_C000_0201, 0xFFFF_FFFF_FFFF, 2**64 - 1]) | st.integers(0, 2**64 - 1)
DRAWN = {
    "src_addr": st.tuples(st.sampled_from([0, 1]) | words, words),
    "exporter": st.just((0, 0xFFFF_C000_0201)),
    "bytes": st.integers(0, 2**64 - 1),
    "start_ns": st.integers(-(2**63), 2**63 - 1),
    "proto": st.integers(0, 255),
    "src_mac": st.integers(0, 2**48 - 1),
    "export_protocol": st.integers(0, len(EXPORT_PROTOCOLS) - 1),
    "sampling_source": st.integers(0, len(SAMPLING_SOURCES) - 1),
    "sampling_rate": st.floats() | st.integers(1, 10**6).map(float),
    "interfaceName": st.binary(max_size=6),
    "interfaceName_2": st.binary(max_size=6),
    "pen6876_898": st.binary(max_size=6),
    "ipClassOfService": st.integers(0, 2**64 - 1),
    "exporterIPv4Address": st.tuples(st.just(0), st.just(0xFFFF_C000_0201)),
}
DTYPE = {"interfaceName": "S6", "interfaceName_2": "S6", "ipClassOfService": "u8", "exporterIPv4Address": "u8"}


def printed(name, value):
    if isinstance(value, tuple):
        address = ipaddress.IPv6Address(value[0] << 64 | value[1])
        return str(address.ipv4_mapped or address)
    if name == "src_mac":
        return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))
    if name in ("export_protocol", "sampling_source"):
        return COLUMNS[name].labels[value]
    if name.startswith("pen"):
        return value.hex()
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(name, value):
    # Two programs write some rare IPv6 addresses in two ways (RFC 5952).
    if name in ("src_addr", "exporter", "exporterIPv4Address"):
        address = ipaddress.ip_address(value)
        return str(getattr(address, "ipv4_mapped", None) or address)
    return value


@st.composite
def tables(draw):
    names = draw(st.lists(st.sampled_from(sorted(DRAWN)), unique=True, min_size=1, max_size=6))
    n = draw(st.integers(1, 6))
    columns = {}
    for name in names:
        values = DRAWN[name] if draw(st.booleans()) else st.just(draw(DRAWN[name]))
        values = st.none() | values if draw(st.booleans()) else values
        columns[name] = draw(st.lists(values, min_size=n, max_size=n))
    return columns


@given(tables())
def test_every_line_equals_a_reference_row(table):
    columns, valid = {}, {}
    for name, values in table.items():
        model = next((v for v in values if v is not None), None)
        if model is None:
            continue
        filled = [model if v is None else v for v in values]
        if name.startswith("pen"):
            columns[name] = opaque(*filled)
        else:
            columns[name] = np.array(filled, DTYPE.get(name) or COLUMNS[name].dtype).T
        if len(set(values)) == 1 and not name.startswith("pen"):
            columns[name] = np.broadcast_to(columns[name][..., :1], columns[name].shape)
        if None in values:
            valid[name] = np.array([v is not None for v in values])
    n = len(next(iter(table.values())))
    lines = json_lines(Batch(columns, n, valid)).splitlines()
    rows = [{k: read(k, v) for k, v in json.loads(line).items()} for line in lines]
    expected = [
        {name: printed(name, values[i]) for name, values in table.items() if values[i] is not None} for i in range(n)
    ]
    assert rows == (expected if columns else [{}] * n)
