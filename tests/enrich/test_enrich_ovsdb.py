"""Rows of Open vSwitch get the rate that its database knows, and totals do not change by that."""

import asyncio
import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from flowagent import names, ovsdb
from flowagent.addresses import address_words
from flowagent.aggregate import counters
from flowagent.batch import Batch
from flowagent.clock import ManualClock
from flowagent.component import Context
from flowagent.config import parse
from flowagent.enrich import ovsdb as kind
from flowagent.enrich.ovsdb import Config
from flowagent.errors import ConfigError
from flowagent.outcome import Outcomes
from flowagent.ovs import Bridge, Interface, Look, flow_scaling
from flowagent.ovsdb import OvsdbError
from flowagent.scale import OVSDB, received, upstream_variance
from flowagent.schema import SAMPLING_SOURCES
from flowagent.stages import Stages

PRESCALED, WIRE, UNKNOWN = (SAMPLING_SOURCES.index(name) for name in ("prescaled", "wire", "unknown"))
ALL = kind.Ovsdb.adds


def look(*bridges, **interfaces):
    return Look(
        {bridge.name: bridge for bridge in bridges},
        {n: Interface(name, f"shop_{name}" if n == 9 else "") for name, n in interfaces.items()},
    )


@pytest.fixture
def database(monkeypatch):
    """What the database says: a `Look`, or an error to raise."""
    says = [look(Bridge("br0", ipfix=16, obs_domain_id=10))]

    @contextlib.asynccontextmanager
    async def connect(db):
        assert db == ovsdb.DEFAULT
        if isinstance(says[0], OvsdbError):
            raise says[0]
        yield says

    async def found(connection):
        return connection[0]

    monkeypatch.setattr(ovsdb, "connect", connect)
    monkeypatch.setattr(kind, "look", found)
    return says


@pytest.fixture
def clock():
    return ManualClock()


async def reading(clock, **settings):
    enricher = Config(**settings).build(Context("ovsdb", clock))
    await enricher.read()
    return enricher


def rows(octets=(1600, 3200), packets=(16, 16), *, exporter="127.0.0.1", domain=10, source=PRESCALED, **columns):
    n = len(octets)
    high, low = address_words(exporter)
    return Batch({
        "exporter": np.stack([np.full(n, high, np.uint64), np.full(n, low, np.uint64)]),
        "observation_domain": np.full(n, domain, np.uint32), "sampling_source": np.full(n, source, np.uint8),
        "bytes": np.array(octets, np.uint64), "packets": np.array(packets, np.uint64), **columns,
    })  # fmt: skip


def metric(enricher, name):
    return next((dict(family.samples) for family in enricher.families() if family.name == name), None)


async def test_the_rate_is_known_and_the_total_is_what_it_was(database, clock):
    enricher, before = await reading(clock), rows()
    after = enricher.enrich(before, ALL)
    assert after["packets"].tolist() == [1, 1]
    assert after["sampling_rate"].tolist() == [16, 16]
    assert after["sampling_source"].tolist() == [OVSDB, OVSDB]
    assert received(after, "bytes").tolist() == [1600, 3200]
    assert upstream_variance(after, "bytes").tolist() == [16 * 15 * 100**2, 16 * 15 * 200**2]
    assert metric(enricher, "flowagent_ovsdb_rows") == {("ovsdb", "undone"): 2, ("ovsdb", "indivisible"): 0}


async def test_done_again_it_changes_nothing(database, clock):
    enricher = await reading(clock)
    once = enricher.enrich(rows(), ALL)
    assert enricher.enrich(once, ALL) is once


@pytest.mark.parametrize(
    "others", [{"source": WIRE}, {"source": UNKNOWN}, {"domain": 11}, {"exporter": "192.0.2.1"}, {"exporter": "::2"}]
)
async def test_other_rows_stay_as_they_are(database, clock, others):
    enricher, before = await reading(clock), rows(**others)
    assert enricher.enrich(before, ALL) is before


async def test_records_from_before_a_change_stay_as_they_are(database, clock):
    enricher = await reading(clock)
    before = rows(packets=(400, 7), octets=(1600, 700))
    after = enricher.enrich(before, ALL)
    assert received(after, "packets").tolist() == [400, 7]
    assert after["sampling_source"].tolist() == [OVSDB, PRESCALED]
    assert metric(enricher, "flowagent_ovsdb_rows")["ovsdb", "indivisible"] == 1


async def test_the_subnets_say_which_exporters_are_meant(database, clock):
    enricher = await reading(clock, exporters=("192.0.2.0/24", "2001:db8::/32"))
    for exporter, meant in (("192.0.2.9", True), ("2001:db8:1::1", True), ("127.0.0.1", False), ("2001:db9::", False)):
        assert (enricher.enrich(rows(exporter=exporter), ALL)["sampling_source"][0] == OVSDB) == meant


async def test_rates_are_not_looked_for_where_nobody_wants_them(database, clock):
    enricher, before = await reading(clock), rows()
    assert enricher.enrich(before, frozenset({"in_if_name"})) is before


async def test_bridges_of_one_domain_that_sample_differently(database, clock, caplog):
    database[0] = look(
        Bridge("a", ipfix=16), Bridge("b", ipfix=400), Bridge("c", ipfix=5, obs_domain_id=1), Bridge("d")
    )
    enricher = await reading(clock)
    await enricher.read()
    assert caplog.text.count("domain 0 sample differently") == 1
    assert enricher.enrich(rows(domain=0), ALL)["sampling_source"][0] == PRESCALED
    assert metric(enricher, "flowagent_ovsdb_domains") == {("ovsdb", "known"): 1, ("ovsdb", "unclear"): 1}
    database[0] = look(Bridge("a", ipfix=16), Bridge("b", ipfix=16))
    await enricher.read()
    assert enricher.enrich(rows(domain=0), ALL)["sampling_source"][0] == OVSDB


async def test_what_flows_lose_to_whole_numbers_is_put_right(database, clock):
    """With sample(probability=40000) Open vSwitch counts each sampled packet once: 60 % of what there was."""
    enricher = await reading(clock, probabilities={77: 40000})
    rng = np.random.default_rng(5)
    sent = 5000
    seen = rng.binomial(sent, 40000 / 65535, 3000) * flow_scaling(40000).factor
    after = enricher.enrich(rows(seen * 100, seen, domain=77), ALL)
    estimate = received(after, "packets")
    assert seen.mean() == pytest.approx(3052, abs=5)
    assert abs(estimate.mean() - sent) < 4 * estimate.std() / len(seen) ** 0.5
    assert upstream_variance(after, "packets").mean() / estimate.var() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("sampling", [2, 16, 400, 65535, 100_000])
async def test_the_variance_is_that_of_the_totals(database, clock, sampling):
    """As Open vSwitch samples: by a coin of probability p / 2^32, then times a whole number."""
    database[0] = look(Bridge("br0", ipfix=sampling, obs_domain_id=10))
    enricher = await reading(clock)
    probability = 0xFFFFFFFF // sampling
    sent, rng = 40 * sampling, np.random.default_rng(sampling)
    exported = rng.binomial(sent, probability / 2**32, 4000) * (0xFFFFFFFF // probability)
    after = enricher.enrich(rows(exported * 1000, exported), ALL)
    estimate = received(after, "packets")
    assert abs(estimate.mean() - sent) < 4 * estimate.std() / len(exported) ** 0.5
    assert upstream_variance(after, "packets").mean() / estimate.var() == pytest.approx(1, abs=0.1)


async def test_interfaces_have_names(database, clock):
    database[0] = look(Bridge("br0", ipfix=16, obs_domain_id=10), p1=5, p2=9)
    enricher = await reading(clock)
    batch = rows([16] * 4, [16] * 4, in_if=np.array([9, 5, 7, 0], np.uint32), out_if=np.array([5, 5, 5, 5], np.uint32))
    batch = Batch(batch.columns, valid={"out_if": np.array([True, True, False, True])})
    after = enricher.enrich(batch, ALL)
    assert names.texts(after["in_if_name"]).tolist() == [b"p2", b"p1", b"", b""]
    assert names.texts(after["out_if_name"]).tolist() == [b"p1", b"p1", b"", b"p1"]
    elsewhere = rows([16], [16], exporter="192.0.2.1", in_if=np.array([9], np.uint32))
    assert not enricher.enrich(elsewhere, ALL)["in_if_name"].any()


async def test_interfaces_may_be_called_as_who_plugged_them_in_does(database, clock):
    database[0] = look(Bridge("br0", ipfix=16, obs_domain_id=10), p1=5, p2=9)
    enricher = await reading(clock, interface_names="iface-id")
    after = enricher.enrich(rows([16] * 2, [16] * 2, in_if=np.array([9, 5], np.uint32)), ALL)
    assert names.texts(after["in_if_name"]).tolist() == [b"shop_p2", b"p1"]


async def test_names_that_are_there_stay(database, clock):
    enricher = await reading(clock)
    there = names.codes(["x", "y"])
    batch = rows(in_if=np.array([5, 9], np.uint32), in_if_name=there)
    assert enricher.enrich(batch, ALL)["in_if_name"] is there


async def test_no_rows_and_rows_without_an_origin(database, clock):
    enricher = await reading(clock)
    for batch in (Batch({}), rows((), ()), rows().select(["bytes", "packets"])):
        assert enricher.enrich(batch, ALL) is batch


async def test_it_is_ready_once_it_has_read(database, clock, caplog):
    said, database[0] = database[0], OvsdbError("no socket")
    enricher = Config().build(Context("ovsdb", clock))
    assert enricher.ready() == f"has not read {ovsdb.DEFAULT} yet"
    await enricher.read()
    await enricher.read()
    assert enricher.ready() == "no socket"
    assert caplog.text.count("no socket") == 1
    assert metric(enricher, "flowagent_ovsdb_age_seconds") is None
    assert enricher.enrich(before := rows(), ALL) is before
    database[0] = said
    await enricher.read()
    assert enricher.ready() is None
    assert metric(enricher, "flowagent_ovsdb_reads") == {("ovsdb", "ok"): 1, ("ovsdb", "error"): 2}


async def test_what_was_read_is_trusted_for_a_while_only(database, clock):
    enricher = await reading(clock, every="2s")
    database[0] = OvsdbError("gone")
    clock.advance(60)
    await enricher.read()
    assert metric(enricher, "flowagent_ovsdb_age_seconds") == {("ovsdb",): 60}
    assert enricher.ready() is None
    assert enricher.enrich(rows(), ALL)["sampling_source"][0] == OVSDB
    clock.advance(1)
    await enricher.read()
    assert enricher.ready() == "gone"
    assert enricher.enrich(rows(), ALL)["sampling_source"][0] == PRESCALED


async def test_it_reads_until_it_is_cancelled(database, clock, monkeypatch):
    real = asyncio.sleep
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    async with Config(every="5s").build(Context("ovsdb", clock)) as enricher:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await enricher.run()
    assert metric(enricher, "flowagent_ovsdb_reads")["ovsdb", "ok"] > 1
    assert set(pauses) == {5}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"every": "0.5s"}, r"ovsdb\.every: '0\.5s' is too often"),
        ({"exporters": ["127.0.0.0/8", "10.0.0.1/8"]}, r"ovsdb\.exporters\[1\]: '10\.0\.0\.1/8' is no subnet"),
    ],
)
def test_wrong_settings(settings, says):
    with pytest.raises(ConfigError, match=says):
        Config(**settings).build(Context("ovsdb"))


async def test_counters_see_the_rate(database, clock):
    config = parse({"enrich": [{"type": "ovsdb", "probabilities": {7: 65535}}]})
    enricher = config.enrich[0].settings.build(Context("ovsdb", clock))
    await enricher.read()
    stages = Stages(config, Outcomes(), Context("stages", clock))
    counter = counters.Config().build(Context("counters", clock))
    stages.connect([enricher], [counter])
    stages.process(rows(proto=np.array([6, 6], np.uint8)), 0)
    totals = {f.name: sum(f.samples.values()) for f in counter.families()}
    assert totals["flowagent_flow_bytes"] == 4800
    assert totals["flowagent_flow_packets"] == 32
    assert totals["flowagent_flow_bytes_variance"] == 16 * 15 * (100**2 + 200**2)


def test_the_example_of_the_page_is_right():
    page = (Path(__file__).parents[2] / "docs" / "openvswitch.md").read_text("utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    for text in (example, example.replace("# exporters", "exporters").replace("# probabilities", "probabilities")):
        [configured] = parse(yaml.safe_load(text)).enrich
        assert isinstance(configured.settings.build(Context("ovsdb")), kind.Ovsdb)
    names_of = [family.name for family in Config().build(Context("ovsdb")).families()]
    assert all(name in page for name in names_of)
