"""Keys as plain values and as texts of labels."""

import numpy as np
import pytest
from flow_rows import batch_of

from flowagent.addresses import address_words
from flowagent.aggregate.labels import OTHER, group_label, keys_of, label, readable


def test_keys_of_rows():
    batch = batch_of([
        {"src_addr": (0, 1), "proto": 6}, {"src_addr": None, "proto": 6}, {"src_addr": (2, 3), "proto": 6},
    ])  # fmt: skip
    keys = keys_of(batch, ("proto", "src_addr", "vlan"), np.array([2, 1]))
    assert keys == [(6, (2, 3), None), (6, None, None)]
    assert all(type(word) is int for word in keys[0][1])


def test_without_columns_all_keys_are_one():
    batch = batch_of([{"proto": 6}, {"proto": 17}])
    assert keys_of(batch, (), np.arange(2)) == [(), ()]
    assert keys_of(batch, ("proto",), np.arange(0)) == []


@pytest.mark.parametrize(
    ("name", "value", "shown", "text"),
    [
        ("src_addr", address_words("192.0.2.1"), "192.0.2.1", "192.0.2.1"),
        ("src_addr", address_words("2001:db8::1"), "2001:db8::1", "2001:db8::1"),
        ("src_mac", 0x00005E005301, "00:00:5e:00:53:01", "00:00:5e:00:53:01"),
        ("export_protocol", 5, "ipfix", "ipfix"),
        ("proto", 6, 6, "6"),
        ("sampling_rate", 1.5, 1.5, "1.5"),
        ("src_addr", None, None, ""),
        ("proto", None, None, ""),
    ],
)
def test_values_as_outputs_show_them(name, value, shown, text):
    assert readable(name, value) == shown
    assert label(name, value) == text


def test_groups_as_one_label():
    names = ("exporter", "vlan")
    assert group_label(names, (address_words("192.0.2.1"), 7)) == "exporter=192.0.2.1,vlan=7"
    assert group_label(names, (None, None)) == "exporter=,vlan="
    assert group_label(names, None) == OTHER
    assert group_label((), ()) == ""
