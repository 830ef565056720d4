"""Datagrams from bytes, and parts of them."""

import numpy as np

from flowagent.addresses import address_text
from flowagent.ingest.datagrams import Datagrams


def test_payloads_lie_in_one_buffer():
    datagrams = Datagrams.of([b"abc", b"", b"de"], exporter=["10.0.0.1", "10.0.0.1", "2001:db8::1"], port=[1, 2, 3])
    assert len(datagrams) == 3
    assert [datagrams.payload(i) for i in range(3)] == [b"abc", b"", b"de"]
    assert datagrams.offset.tolist() == [0, 3, 3]
    assert [address_text(*words) for words in datagrams.exporter.T.tolist()] == ["10.0.0.1", "10.0.0.1", "2001:db8::1"]
    assert datagrams.port.tolist() == [1, 2, 3]
    assert datagrams.received_ns.tolist() == [0, 0, 0]


def test_a_part_shares_the_buffer():
    whole = Datagrams.of([b"abc", b"de", b"f"], port=7, received_ns=[1, 2, 3])
    part = whole.part(1, 3)
    assert [part.payload(i) for i in range(2)] == [b"de", b"f"]
    assert part.received_ns.tolist() == [2, 3]
    assert part.exporter.shape == (2, 2)
    assert np.shares_memory(part.data, whole.data)


def test_none_at_all():
    nothing = Datagrams.of([])
    assert len(nothing) == 0
    assert nothing.exporter.shape == (2, 0)
