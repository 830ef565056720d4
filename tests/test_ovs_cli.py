"""The commands `flowagent ovs …`, on the database of a real ovsdb-server."""

import json

import pytest
from live.openvswitch import Database
from typer.testing import CliRunner

from flowagent.errors import ConfigError
from flowagent.ovs_cli import app

pytestmark = pytest.mark.service("ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovsdb-client")


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path).running() as database:
        yield database


@pytest.fixture
def ovs(database):
    """Run a command: what it writes to stdout and stderr."""

    def run(*words):
        done = CliRunner().invoke(app, [*words, "--db", database.remote])
        if done.exception is not None:
            raise done.exception
        return done.stdout, done.stderr

    return run


def test_attach_and_detach(database, ovs):
    before = database.dump()
    assert ovs("attach", "br0", "--sampling", "16") == ("", "br0: ipfix to 127.0.0.1:4739 attached\n")
    assert ovs("attach", "br0", "--sampling", "16") == ("", "br0: ipfix to 127.0.0.1:4739 unchanged\n")
    assert ovs("attach", "br0", "--protocol", "netflow", "--target", "127.0.0.1:9")[1].startswith("br0: netflow to 127")
    assert ovs("detach", "br0", "--protocol", "ipfix") == ("", "br0: ipfix removed\n")
    assert ovs("detach", "br0") == ("", "br0: netflow removed\n")
    assert ovs("detach", "br0") == ("", "br0: nothing is attached\n")
    assert database.dump() == before


def test_status_is_a_table(database, ovs):
    ovs("attach", "br0", "--domain", "5", "--sampling", "64")
    database.foreign("sFlow", ("br1",))
    out, err = ovs("status")
    assert [line.split() for line in out.splitlines()] == [
        ["bridge", "protocol", "targets", "one", "in", "domain", "by"],
        ["br0", "ipfix", "127.0.0.1:4739", "64", "5", "flowagent"],
        ["br1", "sflow", "192.0.2.1:9995", "400", "others"],
    ]
    assert err == ""
    assert ovs("status", "br1")[0].count("\n") == 2


def test_status_as_json(database, ovs):
    database.foreign(sampling=7)
    ovs("attach", "br0", "--replace", "--sampling", "8")
    [bridge] = json.loads(ovs("status", "br0", "--json")[0])
    assert (bridge["name"], bridge["ipfix"], bridge["sflow"]) == ("br0", 8, None)
    ours = {"targets": ["127.0.0.1:4739"], "sampling": 8, "ours": True, "replaced": True}
    assert bridge["exports"] == {"ipfix": ours}


def test_status_warns_where_bridges_look_alike(database, ovs):
    ovs("attach", "br0")
    ovs("attach", "br1")
    database.vsctl("--id=@b", "get", "bridge", "br1", "--", "create", "Flow_Sample_Collector_Set", "id=1", "bridge=@b")
    err = ovs("status")[1]
    assert "br0, br1 export as domain 0 and look like one" in err
    assert "br1: flows may sample, too" in err


def test_status_warns_where_packets_are_missed(database, ovs):
    database.foreign(other_config="enable-input-sampling=true")
    assert "br0: packets are reported as they go out only" in ovs("status")[1]


def test_a_bridge_that_is_none(ovs):
    for command in ("attach", "detach", "status"):
        with pytest.raises(ConfigError, match="br7: is no bridge; did you mean br"):
            ovs(command, "br7")


def test_no_database(tmp_path):
    done = CliRunner().invoke(app, ["status", "--db", f"unix:{tmp_path / 'none'}"])
    assert isinstance(done.exception, ConfigError)
    assert "there is no socket" in str(done.exception)


def test_a_protocol_that_is_none(ovs):
    done = CliRunner().invoke(app, ["attach", "br0", "--protocol", "netflow9"])
    assert done.exit_code == 2
    assert "netflow9" in done.stderr
