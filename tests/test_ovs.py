"""Bridges are made to export and to stop, in the database of a real ovsdb-server; `detach` leaves it as it was."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live.openvswitch import Database

from flowagent import ovsdb
from flowagent.errors import ConfigError
from flowagent.ovs import (
    UINT32_MAX,
    Bridge,
    Export,
    Interface,
    attach,
    bridge_scaling,
    detach,
    flow_scaling,
    look,
    sampling_of,
)

needs_ovsdb = pytest.mark.service("ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovsdb-client")


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path).running() as database:
        yield database


EXPORTS = [
    Export(),
    Export(sampling=1, cache_active_timeout=0, domain=7, target="[::1]:4739"),
    Export("sflow", sampling=64),
    Export("netflow", "127.0.0.1:2055"),
]


@needs_ovsdb
@pytest.mark.parametrize("export", EXPORTS, ids=lambda e: e.protocol)
async def test_detach_leaves_nothing_behind(database, export):
    before = database.dump()
    assert await attach(database.remote, "br0", export) == "attached"
    assert (await sampling_of(database.remote))["br0"].exports[export.protocol].targets == [export.to]
    assert await detach(database.remote, "br0") == {export.protocol: "removed"}
    assert database.dump() == before


@needs_ovsdb
async def test_attach_sets_what_was_asked_for(database):
    await attach(database.remote, "br0", Export(sampling=16, cache_active_timeout=5, domain=3))
    assert database.get("IPFIX", "targets") == '["127.0.0.1:4739"]'
    assert [database.get("IPFIX", c) for c in ("sampling", "obs_domain_id", "cache_active_timeout")] == ["16", "3", "5"]
    assert database.get("IPFIX", "other_config") == '{enable-output-sampling="true"}'  # which switches it off
    assert database.get("IPFIX", "external_ids") == "{flowagent=attached}"


@needs_ovsdb
async def test_attach_twice_changes_nothing_more(database):
    assert await attach(database.remote, "br0", Export(sampling=16)) == "attached"
    once = database.dump()
    assert await attach(database.remote, "br0", Export(sampling=16)) == "unchanged"
    assert database.dump() == once


@needs_ovsdb
async def test_other_settings_change_the_same_row(database):
    before = database.dump()
    await attach(database.remote, "br0", Export(sampling=16, cache_active_timeout=5))
    rows = database.rows("IPFIX")
    assert await attach(database.remote, "br0", Export(cache_active_timeout=0)) == "changed"
    assert database.rows("IPFIX") == rows
    assert [database.get("IPFIX", c) for c in ("sampling", "cache_active_timeout", "cache_max_flows")] == ["[]"] * 3
    await detach(database.remote, "br0")
    assert database.dump() == before


@needs_ovsdb
async def test_detach_twice_does_nothing_more(database):
    await attach(database.remote, "br0", Export())
    await detach(database.remote, "br0")
    once = database.dump()
    assert await detach(database.remote, "br0") == {}
    assert database.dump() == once


@needs_ovsdb
async def test_what_others_configured_is_left_alone(database):
    database.foreign(sampling=100)
    before = database.dump()
    with pytest.raises(ConfigError, match=r"br0: exports ipfix to 192\.0\.2\.1:9995 by somebody else's .* --replace"):
        await attach(database.remote, "br0", Export())
    assert await detach(database.remote, "br0") == {}
    assert database.dump() == before


@needs_ovsdb
@pytest.mark.parametrize("table", ["IPFIX", "sFlow", "NetFlow"])
async def test_what_was_replaced_comes_back(database, table):
    columns = {"NetFlow": {"active_timeout": 30, "engine_id": 4}}.get(table, {"sampling": 100})
    database.foreign(table, external_ids="owner=neutron", **columns)
    before = database.dump()
    protocol = table.lower()
    assert await attach(database.remote, "br0", Export(protocol), replace=True) == "replaced"
    assert await attach(database.remote, "br0", Export(protocol, cache_active_timeout=77)) in ("changed", "unchanged")
    assert (await sampling_of(database.remote))["br0"].exports[protocol].replaced
    assert await detach(database.remote, "br0") == {protocol: "restored"}
    assert database.dump() == before


@needs_ovsdb
async def test_a_row_that_two_bridges_share_stays_for_the_other(database):
    database.foreign(bridges=("br0", "br1"))
    before = database.dump()
    await attach(database.remote, "br0", Export(), replace=True)
    there = await sampling_of(database.remote)
    assert there["br0"].exports["ipfix"].ours
    assert there["br1"].exports["ipfix"].targets == ["192.0.2.1:9995"]
    assert await detach(database.remote, "br0") == {"ipfix": "restored"}
    assert database.dump() == before


@needs_ovsdb
async def test_a_row_that_the_other_gave_up_comes_back_all_the_same(database):
    database.foreign(bridges=("br0", "br1"), sampling=99)
    await attach(database.remote, "br0", Export(), replace=True)
    database.vsctl("clear", "bridge", "br1", "ipfix")
    assert await detach(database.remote, "br0") == {"ipfix": "restored"}
    assert database.get("IPFIX", "sampling") == "99"
    assert database.get("IPFIX", "external_ids") == "{}"


@needs_ovsdb
async def test_protocols_do_not_disturb_one_another(database):
    before = database.dump()
    for protocol in ("ipfix", "netflow", "sflow"):
        await attach(database.remote, "br0", Export(protocol))
    assert await detach(database.remote, "br0", ["netflow"]) == {"netflow": "removed"}
    assert (await sampling_of(database.remote, "br0"))["br0"].exports.keys() == {"ipfix", "sflow"}
    assert await detach(database.remote, "br0") == {"ipfix": "removed", "sflow": "removed"}
    assert database.dump() == before


@needs_ovsdb
async def test_a_change_in_between_is_not_overwritten(database, monkeypatch):
    real = ovsdb.Connection.transact

    async def late(self, *operations):
        if any(operation["op"] == "insert" for operation in operations):
            database.foreign()
        return await real(self, *operations)

    monkeypatch.setattr(ovsdb.Connection, "transact", late)
    with pytest.raises(ovsdb.OvsdbError, match="somebody else made a change at this moment"):
        await attach(database.remote, "br0", Export())
    assert database.get("IPFIX", "external_ids") == "{}"


@needs_ovsdb
@pytest.mark.parametrize(("name", "says"), [("br9", "did you mean br"), ("x", "there are: br0, br1")])
async def test_no_such_bridge(database, name, says):
    for job in (attach(database.remote, name, Export()), detach(database.remote, name)):
        with pytest.raises(ConfigError, match=says):
            await job


@needs_ovsdb
async def test_how_bridges_sample(database):
    database.foreign(sampling=64, obs_domain_id=5, obs_point_id=6, other_config="enable-input-sampling=true")
    database.foreign("sFlow", ("br1",))
    database.vsctl("--id=@b", "get", "bridge", "br1", "--", "create", "Flow_Sample_Collector_Set", "id=1", "bridge=@b")
    found = await sampling_of(database.remote)
    first, second = found["br0"], found["br1"]
    assert (first.ipfix, first.sflow, first.obs_domain_id, first.obs_point_id) == (64, None, 5, 6)
    assert (first.input_sampling, first.output_sampling, first.by_flows) == (False, True, False)
    assert (second.ipfix, second.sflow, second.by_flows) == (None, 400, True)


@needs_ovsdb
async def test_interfaces_by_number(database):
    database.vsctl("add-port", "br0", "eth7")
    async with ovsdb.connect(database.remote) as connection:
        await connection.transact(
            {
                "op": "update",
                "table": "Interface",
                "where": [["name", "==", "eth7"]],
                "row": {"ifindex": 12, "external_ids": ["map", [["iface-id", "shop_web"]]]},
            }
        )
        found = await look(connection)
    assert found.interfaces == {12: Interface("eth7", "shop_web")}
    assert found.bridges["br1"] == Bridge("br1")


@pytest.mark.parametrize(
    ("export", "says"),
    [
        (Export(target="here"), "--target: 'here' is not an address"),
        (Export(target=":4739"), "--target: ':4739' has no address"),
        (Export(sampling=0), "--sampling: 0 is out of range"),
        (Export(cache_active_timeout=5000), "--cache-active-timeout: 5000 is out of range"),
        (Export("netflow", sampling=2), "--sampling: Open vSwitch does not sample for NetFlow"),
        (Export("sflow", domain=2), "--domain: is a setting of ipfix, not of sflow"),
    ],
)
def test_settings_that_make_no_sense(export, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        export.check()


def test_a_version_without_a_column_does_without():
    assert "template_interval" not in Export().row(frozenset({"targets", "sampling"}))
    assert Export(template_interval=30).row(frozenset({"targets", "template_interval"}))["template_interval"] == 30


@given(st.integers(1, 0xFFFF))
def test_a_bridge_multiplies_by_its_sampling(sampling):
    assert bridge_scaling(sampling) == (sampling, sampling)


@given(st.integers(1, UINT32_MAX))
def test_a_bridge_is_all_but_unbiased(sampling):
    probability = max(1, UINT32_MAX // sampling)
    assert bridge_scaling(sampling).rate * probability / 2**32 == pytest.approx(1, abs=2**-15)


def test_flows_are_told_too_small():
    # As measured of Open vSwitch 3.1.
    assert [flow_scaling(p).factor for p in (65535, 40000, 32768, 30000, 8192, 6553, 1)] == [1, 1, 1, 2, 7, 10, 65535]
    assert flow_scaling(8192).rate == pytest.approx(7.9999, abs=1e-4)


@given(st.integers(1, 65535))
def test_the_bias_of_flows_is_bounded(probability):
    factor, rate = flow_scaling(probability)
    assert factor <= rate < factor + 1
