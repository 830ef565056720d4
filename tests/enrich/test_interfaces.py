"""Names of interfaces, for rows that can mean this host's and for no others."""

import asyncio
import sys

import numpy as np
import pytest
from enriching import example, flows, running, said, samples, until

from flowagent.batch import Batch
from flowagent.clock import ManualClock
from flowagent.component import Context
from flowagent.enrich import interfaces, netlink
from flowagent.enrich.interfaces import Config
from flowagent.enrich.netlink import Known, Link, NetlinkLostError
from flowagent.errors import ConfigError
from flowagent.schema import EXPORT_PROTOCOLS

IPFIX, V5, SFLOW, UNKNOWN = (EXPORT_PROTOCOLS.index(p) for p in ("ipfix", "netflow5", "sflow5", "unknown"))
NAMES = frozenset({"in_if_name", "out_if_name"})
LINKS = (Link(1, "lo", is_up=True), Link(2, "eth0", speed=1000, is_up=True), Link(70_000, "veth9", "veth"))
HOST = ("127.0.0.1", "192.0.2.1", "2001:db8::1")


def build(links=LINKS, known_neighbours=(), clock=None, **settings):
    """An enricher that knows these."""
    enricher = Config(**settings).build(Context("interfaces", clock or ManualClock()))
    enricher._take(Known(links, HOST, known_neighbours))
    return enricher


def rows(exporters, in_if, out_if=None, protocol=IPFIX, **more):
    n = len(exporters)
    protocols = np.full(n, protocol, np.uint8)
    return flows(
        exporter=exporters, export_protocol=protocols, in_if=np.array(in_if, np.uint32),
        out_if=np.array(out_if if out_if is not None else in_if, np.uint32), **more,
    )  # fmt: skip


def named(enricher, *args, **more):
    return said(enricher.enrich(rows(*args, **more), NAMES), "in_if_name")


def test_both_interfaces_have_names():
    found = build().enrich(rows(["127.0.0.1"] * 3, [1, 2, 70_000], [2, 0, 5]), NAMES)
    assert said(found, "in_if_name") == ["lo", "eth0", "veth9"]
    assert said(found, "out_if_name") == ["eth0", "", ""]


def test_only_exporters_of_this_host_are_named():
    exporters = ["192.0.2.1", "192.0.2.2", "127.8.8.8", "2001:db8::1", "2001:db8::2", "::1"]
    assert named(build(), exporters, [2] * 6) == ["eth0", "", "eth0", "eth0", "", "eth0"]


def test_indexes_that_are_none_have_no_names():
    # No interface, several, one of an sFlow output format, and the largest there is.
    assert named(build(), ["::1"] * 5, [0, 3, 0x40000100, 65535, 0xFFFFFFFF]) == [""] * 5


def test_openflow_ports_in_netflow_5_are_no_interfaces():
    assert named(build(), ["127.0.0.1"], [1], protocol=V5) == [""]
    assert named(build(protocols=("netflow5",)), ["127.0.0.1"], [1], protocol=V5) == ["lo"]
    assert named(build(), ["127.0.0.1"], [1], protocol=SFLOW) == ["lo"]


def test_rows_that_do_not_say_their_protocol_are_named_only_where_that_is_wished():
    batch = rows(["127.0.0.1"], [1]).select(["exporter", "in_if"])
    assert said(build().enrich(batch, NAMES), "in_if_name") == [""]
    assert said(build(protocols=("unknown",)).enrich(batch, NAMES), "in_if_name") == ["lo"]
    unsaid = Batch(rows(["127.0.0.1"], [1]).columns, valid={"export_protocol": np.array([False])})
    assert said(build().enrich(unsaid, NAMES), "in_if_name") == [""]


def test_a_value_that_is_not_known_names_nothing():
    batch = rows(["127.0.0.1"] * 2, [1, 1])
    for column in ("in_if", "exporter"):
        unsaid = Batch(batch.columns, valid={column: np.array([True, False])})
        assert said(build().enrich(unsaid, NAMES), "in_if_name") == ["lo", ""]


def test_only_wanted_columns_that_are_missing_are_added():
    batch = rows(["127.0.0.1"], [1])
    assert build().enrich(batch, frozenset({"bytes"})) is batch
    assert set(build().enrich(batch, frozenset({"out_if_name"})).columns) == {*batch.columns, "out_if_name"}
    there = batch.with_columns({name: np.array([7], np.uint64) for name in NAMES})
    assert build().enrich(there, NAMES) is there
    no_exporter = batch.select(["in_if", "export_protocol"])
    assert build().enrich(no_exporter, NAMES) is no_exporter
    assert len(build().enrich(batch.take(np.zeros(1, np.bool_)), NAMES)) == 0


def test_before_anything_is_known_nothing_is_added():
    enricher = Config().build(Context("interfaces"))
    batch = rows(["127.0.0.1"], [1])
    assert enricher.enrich(batch, NAMES) is batch
    assert enricher.ready() == "the interfaces are not known yet"
    enricher._take(Known(LINKS, HOST, ()))
    assert enricher.ready() is None


def test_an_interface_that_is_gone_keeps_its_name_for_a_while():
    clock = ManualClock(10**18)
    enricher = build(clock=clock)
    enricher._take(Known(LINKS[:2], HOST, ()))
    assert named(enricher, ["::1"], [70_000]) == ["veth9"]
    assert [link.name for link in enricher.links] == ["lo", "eth0"]
    clock.advance(599)
    enricher._take(Known(LINKS[:1], HOST, ()))
    assert named(enricher, ["::1"] * 2, [70_000, 2]) == ["veth9", "eth0"]
    clock.advance(2)
    enricher._take(Known((Link(1, "lo"), Link(2, "new")), HOST, ()))
    assert named(enricher, ["::1"] * 2, [70_000, 2]) == ["", "new"]
    assert samples(enricher, "interfaces_evictions") == {(): 0}


def test_interfaces_that_are_gone_have_a_bound(monkeypatch):
    monkeypatch.setattr(interfaces, "MAX_GONE", 3)
    enricher = build(links=tuple(Link(i, f"x{i}") for i in range(1, 11)))
    enricher._take(Known((), HOST, ()))
    assert named(enricher, ["::1"] * 10, list(range(1, 11))) == [""] * 7 + ["x8", "x9", "x10"]
    assert samples(enricher, "interfaces_evictions") == {(): 7}


NEIGHBOURS = (("192.0.2.7", 0x020000000007), ("2001:db8::7", 0x020000000008))


def test_neighbours_give_mac_addresses_where_flows_have_none():
    assert build(known_neighbours=NEIGHBOURS).adds == NAMES
    enricher = build(known_neighbours=NEIGHBOURS, neighbours=True)
    batch = rows(
        ["127.0.0.1"] * 3 + ["192.0.2.9"], [1] * 4,
        src_addr=["192.0.2.7", "2001:db8::7", "8.8.8.8", "192.0.2.7"],
    )  # fmt: skip
    found = enricher.enrich(batch, enricher.adds)
    assert found["src_mac"].tolist()[:2] == [0x020000000007, 0x020000000008]
    assert found.valid["src_mac"].tolist() == [True, True, False, False]
    assert "dst_mac" not in found
    own = batch.with_columns({"src_mac": np.arange(4, dtype=np.uint64)}, {"src_mac": np.array([1, 0, 1, 0], np.bool_)})
    found = enricher.enrich(own, enricher.adds)
    assert found["src_mac"].tolist()[:3] == [0, 0x020000000008, 2]
    assert found.valid["src_mac"].tolist() == [True, True, True, False]
    whole = batch.with_columns({"src_mac": np.zeros(4, np.uint64)})
    assert enricher.enrich(whole, frozenset({"src_mac"})) is whole


def test_metrics_are_of_interfaces_that_stay_and_few():
    assert samples(build(), "host_interface_up") == {("lo",): 1, ("eth0",): 1}
    links = (*LINKS, *(Link(i, f"bond{i}", "bond", speed=5) for i in range(100, 500)))
    enricher = build(links=links)
    up = samples(enricher, "host_interface_up")
    assert len(up) == interfaces.MAX_SHOWN
    assert up["eth0",] == 1
    assert up["bond100",] == 0
    assert ("veth9",) not in up
    assert samples(enricher, "host_interface_speed_bytes")["eth0",] == 1000
    assert ("lo",) not in samples(enricher, "host_interface_speed_bytes")
    assert samples(enricher, "interfaces") == {(): 403}


async def test_the_loopback_of_this_machine_has_its_name():
    async with running(Config(neighbours=True)) as enricher:
        await until(lambda: enricher.ready() is None)
        assert named(enricher, ["127.0.0.1", "192.0.2.99"], [1, 1]) == ["lo", ""]
        assert samples(enricher, "host_interface_up")["lo",] in (0, 1)


async def test_when_messages_are_lost_all_is_asked_for_again(monkeypatch, caplog):
    monkeypatch.setattr(interfaces, "_AGAIN_SECONDS", 0.01)
    tries = []

    class Losing:
        def __init__(self, tell, *, neighbours):
            self.tell = tell

        def follow(self):
            tries.append(self)
            if len(tries) != 3:
                raise NetlinkLostError("no room")
            self.tell(Known((Link(1, "third"),), HOST, ()))
            raise NetlinkLostError("no room again")

        def stop(self):
            pass

    monkeypatch.setattr(netlink, "Netlink", Losing)
    async with running(Config()) as enricher:
        await until(lambda: len(tries) == 2)
        await until(lambda: "no room" in (enricher.ready() or ""))
        await until(lambda: len(tries) > 4)
        await asyncio.sleep(0)
        assert named(enricher, ["::1"], [1]) == ["third"]
        assert enricher.ready() is None
        assert samples(enricher, "interfaces_resyncs")[()] >= 4
    assert "asks for all interfaces again: no room" in caplog.text


async def test_an_error_that_nobody_foresaw_ends_nothing(monkeypatch, caplog):
    monkeypatch.setattr(interfaces, "_AGAIN_SECONDS", 0.01)
    tries = []

    class Failing:
        def __init__(self, tell, *, neighbours):
            self.tell = tell

        def follow(self):
            tries.append(self)
            if len(tries) < 3:
                raise KeyError("index")
            self.tell(Known((Link(1, "third"),), HOST, ()))
            raise NetlinkLostError("the end")

        def stop(self):
            pass

    monkeypatch.setattr(netlink, "Netlink", Failing)
    async with running(Config()) as enricher:
        await until(lambda: "unexpected" in (enricher.ready() or ""))
        await until(lambda: enricher.ready() is None)
        assert named(enricher, ["::1"], [1]) == ["third"]
    assert "KeyError: 'index'" in caplog.text


def test_an_interface_that_comes_and_goes_does_not_keep_others_longer():
    clock = ManualClock(10**18)
    enricher = build(clock=clock)
    enricher._take(Known(LINKS[:1], HOST, ()))  # both others are gone
    clock.advance(500)
    enricher._take(Known(LINKS[:2], HOST, ()))
    enricher._take(Known(LINKS[:1], HOST, ()))
    clock.advance(500)
    enricher._take(Known(LINKS[:1], HOST, ()))
    assert named(enricher, ["::1"] * 2, [2, 70_000]) == ["eth0", ""]


def test_other_systems_are_told_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match=r"interfaces[.]type: needs Linux, and this is darwin"):
        Config().build(Context("interfaces"))


async def test_the_example_works():
    async with running(example("interfaces")) as enricher:
        await until(lambda: enricher.ready() is None)
        assert named(enricher, ["::1"], [1]) == ["lo"]
