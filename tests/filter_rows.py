"""Batches and filters drawn at random, and a naive reader that says row by row what a filter means."""

import ipaddress
import operator

import numpy as np
from hypothesis import strategies as st

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS

PAIRS = {"addr": ("src_addr", "dst_addr"), "port": ("src_port", "dst_port")}
POOLS = {
    "src_port": [0, 80, 443, 65535], "proto": [1, 6, 17, 255], "in_if": [0, 7, 2**32 - 1],
    "bytes": [0, 999, 2**63, 2**64 - 1], "start_ns": [-(2**63), -1, 2**63 - 1], "tcp_flags": [0, 2, 0x12, 0x1FF],
    "forwardingStatus": [0, 64, 2**64 - 1], "src_mac": [0, 0x5300000001, 2**48 - 1],
    "export_protocol": list(range(len(EXPORT_PROTOCOLS))),
    "src_addr": ["10.0.0.1", "10.255.0.0", "11.0.0.0", "255.255.255.255", "::", "2001:db8::1", "2001:db8:0:1::"],
}  # fmt: skip
POOLS |= {"dst_addr": POOLS["src_addr"], "dst_port": POOLS["src_port"]}
"""Values that columns hold and filters ask for, so that some match."""
_PREFIXES = ["10.0.0.0/8", "0.0.0.0/0", "10.0.0.0/15", "255.255.255.255/32",
             "::/0", "2001:db8::/64", "2001:db8::/32", "8000::/1"]  # fmt: skip
_COMPARE = {"==": operator.eq, "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
            ">": operator.gt, ">=": operator.ge}  # fmt: skip
_UNORDERED = ("src_addr", "dst_addr", "export_protocol", "src_mac")


def make(rows=None, **columns):
    """A batch of read-only columns; None is unknown, addresses are texts, one value is a constant column."""
    arrays, valid = {}, {}
    for name, given_values in columns.items():
        values = given_values if isinstance(given_values, list) else [given_values]
        dtype = COLUMNS[name].dtype if name in COLUMNS else "u8"
        if name in COLUMNS and COLUMNS[name].kind == "addr":
            array = np.array([address_words(v or "::") for v in values], dtype).reshape(-1, 2).T
        else:
            array = np.array([0 if v is None else v for v in values], dtype)
        known = np.array([v is not None for v in values], np.bool_)
        if not isinstance(given_values, list):
            array, known = (np.broadcast_to(a, (*a.shape[:-1], rows)) for a in (array, known))
        array.flags.writeable = known.flags.writeable = False
        arrays[name] = array
        if not known.all():
            valid[name] = known
    return Batch(arrays, rows, valid)


@st.composite
def batches(draw):
    """Columns that vary, are constant, unknown in places or missing; and the rows as dicts of what is known."""
    n = draw(st.integers(0, 6))
    columns = {}
    for name in draw(st.sets(st.sampled_from(sorted(POOLS)), min_size=6)):
        value = st.sampled_from(POOLS[name])
        columns[name] = draw(st.lists(st.none() | value, min_size=n, max_size=n) | value)
    rows = [{name: v[i] if isinstance(v, list) else v for name, v in columns.items()} for i in range(n)]
    return make(n, **columns), [{name: v for name, v in row.items() if v is not None} for row in rows]


def _written(name, value):
    if name == "src_mac":
        return value.to_bytes(6, "big").hex(":")
    return EXPORT_PROTOCOLS[value] if name == "export_protocol" else str(value)


def _reader(name, test, *, negative=False):
    """The function of a row that says whether a comparison holds for one column, or for one or both of two."""

    def holds(row):
        each = [column in row and test(row[column]) for column in PAIRS.get(name, (name,))]
        return all(each) if negative else any(each)

    return holds


def _is_in(value, items):
    return any(ipaddress.ip_address(value) in ipaddress.ip_network(i) if "/" in str(i) else value == i for i in items)


@st.composite
def _conditions(draw):
    """A condition as text and as a function of a row."""
    name = draw(st.sampled_from([*POOLS, *PAIRS]))
    column = PAIRS.get(name, (name,))[0]
    values = st.sampled_from(POOLS[column])
    ordered = column not in _UNORDERED
    numeric = ordered and column != "start_ns"
    form = draw(st.sampled_from(["known", "set", "compare"] + ["range"] * ordered + ["bits"] * numeric))
    if form == "known":
        return f"{name} is known", _reader(name, lambda _: True)
    if form == "set":
        several = values | st.sampled_from(_PREFIXES) if "addr" in name else values
        items = draw(st.lists(several, min_size=1, max_size=9))
        word = draw(st.sampled_from(["in", "not in"]))
        negative = word == "not in"
        text = f"{name} {word} {{{', '.join(_written(column, item) for item in items)}}}"
        return text, _reader(name, lambda v: _is_in(v, items) != negative, negative=negative)
    if form == "range":
        low, high = sorted([draw(values), draw(values)])
        return f"{name} in {low}-{high}", _reader(name, lambda v: low <= v <= high)
    if form == "bits":
        bits, word = draw(values.map(lambda v: max(v, 1))), draw(st.sampled_from(["has", "&"]))
        return f"{name} {word} {bits}", _reader(name, lambda v: v & bits == bits if word == "has" else v & bits != 0)
    sign, value = draw(st.sampled_from(sorted(_COMPARE) if ordered else ["==", "=", "!="])), draw(values)
    if ordered and (sign, value) in (("<", _ends(column)[0]), (">", _ends(column)[1])):
        sign += "="  # what never matches is refused
    test = _reader(name, lambda v: _COMPARE[sign](v, value), negative=sign == "!=")
    return f"{name}{draw(st.sampled_from(['', ' ']))}{sign} {_written(column, value)}", test


def _ends(name):
    info = np.iinfo(COLUMNS[name].dtype if name in COLUMNS else "u8")
    return int(info.min), int(info.max)


def _joined(parts):
    """And, or and not of expressions, with the parentheses that are needed and no others."""

    @st.composite
    def build(draw):
        children = draw(st.lists(parts, min_size=1, max_size=3))
        word = draw(st.sampled_from(["and", "or", "not"]))
        if word == "not":
            text, test = children[0]
            return f"not ({text})", lambda row: not test(row)
        texts = [f"({text})" if word == "and" and " or " in text else text for text, _ in children]
        tests, every = [test for _, test in children], all if word == "and" else any
        return f" {word} ".join(texts), lambda row: every(test(row) for test in tests)

    return build()


expressions = st.recursive(_conditions(), _joined, max_leaves=8)
"""A filter as text and as a function of a row."""
