"""How values read, and that the filter of each selects it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent import names
from flowagent.batch import Batch
from flowagent.filters import parse_filter
from flowagent.history.wording import words
from flowagent.names import MAX_BYTES
from flowagent.schema import COLUMNS

V4 = (0, 0xFFFF_C000_0201)


@pytest.mark.parametrize(
    ("column", "value", "label"),
    [
        ("src_addr", V4, "192.0.2.1"), ("dst_addr", (0x20010DB8 << 32, 1), "2001:db8::1"), ("proto", 6, "tcp"),
        ("proto", 58, "icmp6"), ("proto", 200, "200"), ("dst_port", 443, "443"), ("direction", 1, "egress"),
        ("direction", 7, "7"), ("export_protocol", 5, "ipfix"), ("src_mac", 0x0053_0000_0001, "00:53:00:00:00:01"),
        ("tunnel_key", 2**64 - 1, str(2**64 - 1)),
    ],
)  # fmt: skip
def test_labels_and_filters(column, value, label):
    said, filtered = words(column, value)
    assert said == label
    stored = np.array([[word] for word in value] if column.endswith("addr") else [value], COLUMNS[column].dtype)
    other = stored ^ stored.dtype.type(1)
    assert parse_filter(filtered, "x")(Batch({column: stored})).tolist() == [True]
    if column != "export_protocol":
        assert parse_filter(filtered, "x")(Batch({column: other})).tolist() == [False]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_name_can_be_selected(text):
    assert len(text.encode()) <= MAX_BYTES
    code = names.code(text)
    label, filtered = words("src_k8s_name", code)
    assert label == text
    batch = Batch({"src_k8s_name": np.array([code, code ^ 1, 0], np.uint64)})
    assert parse_filter(filtered, "x")(batch).tolist() == [True, False, False]


def test_a_name_that_is_forgotten_has_no_filter():
    label, filtered = words("src_k8s_name", 0xABC)
    assert label == "forgotten abc"
    assert filtered is None
