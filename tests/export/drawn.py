"""Batches drawn at random for the tests of the encoders, with their rows as plain Python beside them."""

import ipaddress

import numpy as np
from hypothesis import strategies as st

from flowagent.batch import Batch
from flowagent.elements import column_kind
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS, SAMPLING_SOURCES

V4 = 0xFFFF_0000_0000
words = st.sampled_from([0, 1, V4, V4 | 0xC000_0201, V4 | 0xFFFF_FFFF, 2**64 - 1]) | st.integers(0, 2**64 - 1)
addresses = st.tuples(st.just(0), st.integers(0, 2**32 - 1).map(lambda n: V4 | n)) | st.tuples(words, words)
texts = st.binary(max_size=12) | st.sampled_from(
    [b"", b"default", b'a"b\\c', "café".encode(), b"\xff\0x", b",}", b"\n"]
)


def integers(dtype):
    info = np.iinfo(dtype)
    edges = [n for k in range(0, 65, 7) for n in (2**k - 1, 2**k) if info.min <= n <= info.max]
    return st.sampled_from([int(info.min), 0, 1, 9999, 10000, int(info.max), *edges]).filter(
        lambda n: n <= info.max
    ) | st.integers(int(info.min), int(info.max))


SPECIAL = {
    "export_protocol": st.integers(0, len(EXPORT_PROTOCOLS) - 1),
    "sampling_source": st.integers(0, len(SAMPLING_SOURCES) - 1),
    "sampling_rate": st.integers(1, 10**6).map(float) | st.floats(1, 1e9),
    "proto": st.sampled_from([1, 6, 17, 58, 132, 47, 255]) | st.integers(0, 255),
    "src_mask": st.integers(0, 140),
    "dst_mask": st.sampled_from([0, 8, 24, 32, 64, 128]),
}
DTYPES = {"forwardingStatus": "u4", "flowLabelIPv6": "u4", "fragmentIdentification": "u4", "fragmentOffset": "u2"}


def values_of(name):
    """A strategy of values of a column, and its dtype."""
    if name in SPECIAL:
        return SPECIAL[name], COLUMNS[name].dtype
    kind = column_kind(name)
    if kind == "addr":
        return addresses, "u8"
    if kind == "mac":
        return st.integers(0, 2**48 - 1), "u8"
    if kind == "name":
        return texts, "S12"
    dtype = COLUMNS[name].dtype if name in COLUMNS else DTYPES.get(name, "S")
    return (texts, "S12") if dtype == "S" else (integers(dtype), dtype)


@st.composite
def batches(draw, names, least=0, most=6):
    """A batch of some of these columns, known or not, the same in all rows or not; and its rows, as dicts."""
    chosen = draw(st.lists(st.sampled_from(sorted(names)), unique=True, max_size=most_columns(names)))
    n = draw(st.integers(least, most))
    columns, valid, rows = {}, {}, [{} for _ in range(n)]
    for name in chosen:
        values, dtype = values_of(name)
        same = draw(st.booleans())
        drawn = [draw(values)] * n if same else draw(st.lists(values, min_size=n, max_size=n))
        known = draw(st.lists(st.booleans(), min_size=n, max_size=n)) if draw(st.booleans()) else [True] * n
        array = np.array(drawn, dtype).T if drawn else np.zeros((2, 0) if column_kind(name) == "addr" else 0, dtype)
        if same and n:
            array = np.broadcast_to(array[..., :1], array.shape)
        if any(known):
            columns[name] = array
            if not all(known):
                valid[name] = np.array(known)
        for row, value, is_known in zip(rows, drawn, known, strict=True):
            if is_known:
                row[name] = value.rstrip(b"\0") if isinstance(value, bytes) else value
    return Batch(columns, n, valid), rows


def most_columns(names):
    return min(len(names), 12)


def address_text(value):
    """An address as text."""
    return str(ip(value))


def ip(value):
    address = ipaddress.IPv6Address(value[0] << 64 | value[1])
    return address.ipv4_mapped or address


def mac_text(value):
    return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))


def decoded(value):
    return value.decode("utf-8", "replace")


def same_addresses(row, names):
    """The row with its addresses written in one way: two programs write some rare ones of IPv6 in two (RFC 5952)."""
    return {name: address_text(_words(value)) if name in names else value for name, value in row.items()}


def _words(text):
    address = ipaddress.ip_address(text)
    number = int(address) if address.version == 6 else V4 | int(address)
    return number >> 64, number & 2**64 - 1
