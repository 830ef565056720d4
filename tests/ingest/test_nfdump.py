"""Rows from what nfdump prints."""

import json

import pytest
from written import V4

from flowagent.ingest.nfdump import NfdumpDecoder

FLOW = {
    "type": "FLOW", "sampled": 0, "export_sysid": 1, "first": "2026-11-24T20:15:59.000",
    "last": "2026-11-24T20:15:59.165", "received": "2026-11-24T20:16:00.708", "in_packets": 3, "in_bytes": 3593,
    "proto": 6, "tcp_flags": "...A.R..", "src_port": 443, "dst_port": 32799, "src_tos": 0,
    "src4_addr": "157.240.0.1", "dst4_addr": "192.168.0.1", "input_snmp": 47, "output_snmp": 0, "src_mask": 16,
    "dst_mask": 16, "src_net": "157.240.0.0", "fwd_status": 0, "direction": 0, "src_as": 32934, "dst_as": 0,
    "ip4_next_hop": "0.0.0.0", "ip4_router": "127.0.0.1", "label": "<none>",
}  # fmt: skip
"""As nfdump 1.7.1 prints it."""


def decoded(*flows):
    return NfdumpDecoder().decode(["\n".join(map(json.dumps, flows)).encode()])


def test_a_flow():
    found = decoded(FLOW)
    assert not found.errors
    batch = found.batch
    values = {name: batch[name].T.tolist()[0] for name in batch.columns if batch.is_known(name)[0]}
    assert values == {
        "packets": 3, "bytes": 3593, "proto": 6, "src_port": 443, "dst_port": 32799, "tos": 0, "in_if": 47,
        "src_addr": [0, V4 | 0x9DF00001], "dst_addr": [0, V4 | 0xC0A80001], "src_mask": 16, "dst_mask": 16,
        "direction": 0, "src_as": 32934, "exporter": [0, V4 | 0x7F000001], "tcp_flags": 0x14, "records": 1,
        "start_ns": 1795551359000 * 10**6, "end_ns": 1795551359165 * 10**6, "received_ns": 1795551360708 * 10**6,
        "sampling_source": 0,
    }  # fmt: skip


def test_addresses_of_both_versions():
    other = {k: v for k, v in FLOW.items() if "4" not in k} | {"src6_addr": "2001:db8::1", "dst6_addr": "::1"}
    batch = decoded(FLOW, other).batch
    assert batch["src_addr"].T.tolist() == [[0, V4 | 0x9DF00001], [0x20010DB8 << 32, 1]]
    assert batch.is_known("src_addr").all()
    assert batch.is_known("exporter").tolist() == [True, False]


@pytest.mark.parametrize("wrong", [{"first": "soon"}, {"first": 5}, {"src_port": 70000}, {"src4_addr": "1.2"}])
def test_a_bad_flow_costs_itself(wrong):
    found = decoded(FLOW, FLOW | wrong, FLOW)
    assert len(found.batch) == 2
    assert found.errors == {"bad_value": 1}


def test_only_what_is_wanted_is_read():
    decoder = NfdumpDecoder()
    decoder.want(frozenset({"bytes"}))
    assert set(decoder.decode([json.dumps(FLOW).encode()]).batch.columns) == {"bytes", "records", "sampling_source"}
