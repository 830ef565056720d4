"""Flows of NetObserv read back: what the sink writes, and what NetObserv's own agent does."""

import json

import numpy as np
import pytest
from test_canonical import messages
from written import differences, named, rows

from flowagent import names
from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.export.netobserv import FIELDS, TCP_FLAGS
from flowagent.ingest import netobserv
from flowagent.ingest.netobserv import NetobservDecoder
from flowagent.schema import COLUMNS


def flow(**fields):
    found = NetobservDecoder().decode([json.dumps({"Bytes": 1, **fields}).encode()])
    assert not found.errors
    return {name: (found.batch[name].T.tolist()[0]) for name in found.batch.columns if found.batch.is_known(name)[0]}


@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("many", [1, 50])
def test_flows_come_back(form, many):
    batch = named(rows())
    ms = np.int64(10**6)
    batch = batch.with_columns({
        "proto": np.full(300, 6, "u1"), "tcp_flags": (np.arange(300) % 2048).astype("u2"),
        "start_ns": batch["start_ns"] // ms * ms, "end_ns": batch["end_ns"] // ms * ms,
        "received_ns": batch["received_ns"] // (1000 * ms) * (1000 * ms), "tos": np.full(300, 184, "u1"),
        "direction": (np.arange(300) % 2).astype("u1"),
    })  # fmt: skip
    found = NetobservDecoder(form).decode(messages(batch, form, many, "netobserv"))
    assert not found.errors
    lost = {"src_as", "dst_as", "observation_domain", "export_protocol", "vlan", "tcp_flags"}
    assert differences(batch, found.batch, batch.columns.keys() - lost) == []
    flags = np.where(found.batch.is_known("tcp_flags"), found.batch["tcp_flags"], 0)
    assert flags.tolist() == batch["tcp_flags"].tolist()
    assert found.origin.tolist() == [i // many for i in range(300)]


def test_every_field_that_is_written_is_read():
    read = {*netobserv._PLAIN, *netobserv._MADE, "Interfaces", "IfDirections"}
    assert FIELDS.keys() - read == {"Udns", "UdnId"}
    assert read <= FIELDS.keys()
    assert set(netobserv._PLAIN.values()) <= COLUMNS.keys()
    assert list(netobserv._FLAGS) == list(TCP_FLAGS)


def test_names_of_pods_are_codes():
    found = flow(SrcK8S_Name="web-1", SrcK8S_OwnerType="Deployment", DstSubnetLabel="office", K8S_FlowLayer="app")
    assert names.text(found["src_k8s_name"]) == "web-1"
    assert names.text(found["src_k8s_owner_type"]) == "Deployment"
    assert names.text(found["dst_subnet_label"]) == "office"
    assert names.text(found["k8s_flow_layer"]) == "app"


def test_interfaces():
    found = flow(Interfaces=["eth0", "br-ex", "eth1", "7"], IfDirections=[0, 0, 1, 1])
    assert (names.text(found["in_if_name"]), names.text(found["out_if_name"])) == ("eth0", "eth1")
    assert flow(Interfaces=["7", "8"], IfDirections=[1, 0]).items() >= {("in_if", 8), ("out_if", 7)}
    assert "in_if" not in flow(Interfaces=["7"])
    assert "in_if" not in flow(Interfaces=[], IfDirections=[0])


def test_what_says_that_nothing_is_known():
    found = flow(Sampling=0, FlowDirection=2)
    assert found == {"bytes": 1, "records": 1, "sampling_source": 0}


def test_values_that_are_others_here():
    found = flow(Dscp=46, Sampling=50, Flags=["SYN", "SYN_ACK", "NEW"], TimeReceived=2, AgentIP="10.0.0.1")
    assert found.items() >= {("tos", 184), ("sampling_rate", 50.0), ("sampling_source", 1), ("tcp_flags", 258)}
    assert found["received_ns"] == 2 * 10**9
    assert found["exporter"] == list(address_words("10.0.0.1"))
    assert flow(Flags=18)["tcp_flags"] == 18


def test_a_sampled_flow_has_its_own_counts():
    batch = Batch({"bytes": np.array([1000], "u8"), "inclusion_prob": np.array([0.25]), "weight": np.array([4.0])})
    found = NetobservDecoder().decode(messages(batch, "json", schema="netobserv")).batch
    assert (found["bytes"].tolist(), found["inclusion_prob"].tolist()) == ([1000], [0.25])


@pytest.mark.parametrize(
    "fields",
    [{"Dscp": 64}, {"TimeReceived": 2**62}, {"TimeFlowEndMs": "1"}, {"Flags": [1]}, {"Flags": "SYN"}, {"Sampling": -1},
     {"Interfaces": [1], "IfDirections": [0]}, {"Interfaces": "eth0"}, {"SrcPort": 70000}, {"SrcK8S_Name": 5},
     {"Interfaces": ["9999999999"], "IfDirections": [0]}, {"FlowDirection": "0"}],
)  # fmt: skip
def test_a_bad_flow_costs_itself(fields):
    good = b'{"Bytes":7}'
    found = NetobservDecoder().decode([good, json.dumps({"Bytes": 1, **fields}).encode(), good])
    assert found.errors == {"bad_value": 1}
    assert found.batch["bytes"].tolist() == [7, 7]


def test_only_what_is_wanted_is_read():
    decoder = NetobservDecoder()
    decoder.want(frozenset({"bytes", "in_if"}))
    found = decoder.decode([b'{"Bytes":1,"SrcAddr":"10.0.0.1","Interfaces":["7"],"IfDirections":[0]}']).batch
    assert set(found.columns) == {"bytes", "in_if", "records", "sampling_source"}
