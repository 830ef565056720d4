"""Places of addresses from files of MaxMind's format, and what happens when these change."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from enriching import example, flows, running, said, samples, until
from mmdb_file import cities, place, systems, write

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.enrich import geoip
from flowagent.enrich.geoip import Config
from flowagent.errors import ConfigError

ASKED = ["192.0.2.1", "192.0.2.200", "198.51.100.9", "2001:db8::5", "203.0.113.7", "8.8.8.8"]


def places(enricher, *asked):
    """Countries and cities of source addresses."""
    rows = enricher.enrich(flows(src_addr=asked), enricher.adds)
    return list(zip(said(rows, "src_country"), said(rows, "src_city"), strict=True))


async def test_addresses_have_countries_cities_and_systems(tmp_path):
    config = Config(city=cities(tmp_path / "city.mmdb"), asn=systems(tmp_path / "asn.mmdb"))
    async with running(config) as enricher:
        rows = enricher.enrich(flows(src_addr=ASKED, dst_addr=ASKED[::-1]), enricher.adds)
    assert said(rows, "src_country") == ["DE", "DE", "FR", "JP", "", ""]
    assert said(rows, "src_city") == ["Berlin", "Potsdam", "", "Tokyo", "Nowhere", ""]
    assert said(rows, "dst_city") == ["", "Nowhere", "Tokyo", "", "Potsdam", "Berlin"]
    assert rows["src_as"].dtype == np.uint32
    assert rows["src_as"].tolist() == [64500, 64500, 64501, 4200000000, 0, 0]
    assert rows.valid["src_as"].tolist() == [True, True, True, True, False, False]
    assert said(rows, "src_as_name") == ["Example One", "Example One", "", "Example Two", "", ""]


def test_before_the_files_are_read_nothing_is_added():
    enricher = Config(city="city.mmdb", asn="asn.mmdb").build(Context("geoip"))
    batch = flows(src_addr=ASKED)
    assert enricher.enrich(batch, enricher.adds) is batch


async def test_only_columns_of_the_files_that_are_there_are_added(tmp_path):
    async with running(Config(country=cities(tmp_path / "c.mmdb"))) as enricher:
        assert enricher.adds == {"src_country", "dst_country"}
        batch = flows(src_addr=ASKED, dst_addr=ASKED)
        assert set(enricher.enrich(batch, enricher.adds | {"src_city", "src_as"}).columns) == {
            "src_addr", "dst_addr", "src_country", "dst_country",
        }  # fmt: skip
        assert set(enricher.enrich(batch, frozenset({"dst_country"})).columns) == {*batch.columns, "dst_country"}
        assert enricher.enrich(batch, frozenset({"bytes"})) is batch
        there = batch.with_columns({"src_country": np.full(len(ASKED), 5, np.uint64)})
        assert enricher.enrich(there, frozenset({"src_country"})) is there
        assert len(enricher.enrich(Batch({}), enricher.adds)) == 0


async def test_the_numbers_of_systems_that_an_exporter_says_stay(tmp_path):
    async with running(Config(asn=systems(tmp_path / "asn.mmdb"))) as enricher:
        own = np.array([64500, 7, 0, 7, 7, 7], np.uint32)
        known = np.array([True, True, True, False, True, False])
        batch = flows(src_addr=ASKED).with_columns({"src_as": own}, {"src_as": known})
        rows = enricher.enrich(batch, enricher.adds)
        assert rows["src_as"].tolist() == [64500, 7, 64501, 4200000000, 7, 0]
        assert rows.valid["src_as"].tolist() == [True, True, True, True, True, False]
        # The file's name is not that of AS 7.
        assert said(rows, "src_as_name") == ["Example One", "", "", "Example Two", "", ""]
        all_known = flows(src_addr=ASKED).with_columns({"src_as": np.full(6, 7, np.uint32)})
        assert enricher.enrich(all_known, frozenset({"src_as"})) is all_known


async def test_a_number_that_nobody_knows_is_no_column(tmp_path):
    async with running(Config(asn=systems(tmp_path / "asn.mmdb"))) as enricher:
        rows = enricher.enrich(flows(src_addr=["8.8.8.8"]), enricher.adds)
        assert "src_as" not in rows
        assert said(rows, "src_as_name") == [""]


async def test_a_file_of_countries_counts_before_one_of_cities(tmp_path):
    country = write(tmp_path / "country.mmdb", {"192.0.2.0/24": place("AT", None)})
    async with running(Config(country=country, city=cities(tmp_path / "city.mmdb"))) as enricher:
        assert places(enricher, "192.0.2.1", "198.51.100.1") == [("AT", "Berlin"), ("", "")]


async def test_cities_have_names_in_a_language_or_english_ones(tmp_path):
    path = cities(tmp_path / "city.mmdb")
    for language, name in (("de", "Berlin (de)"), ("ja", "Berlin")):
        async with running(Config(city=path, language=language)) as enricher:
            assert places(enricher, "192.0.2.1") == [("DE", name)]


async def test_files_without_records_in_records_are_read(tmp_path):
    record = {"country": "Germany", "country_code": "DE", "asn": "AS64500", "as_name": "Example", "city": "Bonn"}
    path = write(tmp_path / "flat.mmdb", {"192.0.2.0/24": record, "198.51.100.0/24": {"asn": "ASx", "city": "Ulm"}})
    async with running(Config(city=path, country=path, asn=path)) as enricher:
        rows = enricher.enrich(flows(src_addr=["192.0.2.1", "198.51.100.1"]), enricher.adds)
    assert said(rows, "src_country") == ["DE", ""]
    assert said(rows, "src_city") == ["Bonn", "Ulm"]
    assert said(rows, "src_as_name") == ["Example", ""]
    assert rows["src_as"].tolist() == [64500, 0]


async def test_a_new_file_is_read_and_a_broken_one_changes_nothing(tmp_path, caplog):
    file = tmp_path / "city.mmdb"
    async with running(Config(city=cities(file), every=0.01), name="geoip") as enricher:
        assert places(enricher, "192.0.2.1") == [("DE", "Berlin")]
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])  # in its place, as by cp
        await until(lambda: samples(enricher, "enrich_file_failures") == {("geoip.city",): 1})
        assert f"geoip.city: cannot read {file}: is not a MaxMind DB file" in caplog.text
        assert places(enricher, "192.0.2.1", "192.0.2.129") == [("DE", "Berlin"), ("DE", "Potsdam")]
        write(file, {"192.0.2.0/24": place("DE", "Bonn")})
        await until(lambda: places(enricher, "192.0.2.1") == [("DE", "Bonn")])
        assert samples(enricher, "enrich_file_loads") == {("geoip.city",): 2}


async def test_counts_go_on_when_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("flowagent.enrich.mmdb.MAX_NEW", 1)
    file = tmp_path / "city.mmdb"
    async with running(Config(city=cities(file), every=0.01)) as enricher:
        places(enricher, *ASKED)
        assert samples(enricher, "geoip_deferred") == {("city",): 4}
        cities(file)
        os.utime(file, ns=(1, 1))
        await until(lambda: samples(enricher, "enrich_file_loads") == {("kind.city",): 2})
        assert samples(enricher, "geoip_deferred") == {("city",): 4}
        places(enricher, *ASKED)
        assert samples(enricher, "geoip_deferred") == {("city",): 8}
        assert samples(enricher, "geoip_built_timestamp_seconds")[("city",)] > 1_600_000_000


@pytest.mark.parametrize(
    ("settings", "path", "says"),
    [
        ({}, "geoip.city", "no file is named; write at least one of city, country and asn"),
        ({"city": "x", "every": 0}, "geoip.every", "is 0"),
        ({"city": "x", "every": "x"}, "geoip.every", "is not a duration"),
    ],
)
def test_wrong_settings_say_where_and_what_is_right(settings, path, says):
    with pytest.raises(ConfigError, match=says) as caught:
        Config(**settings).build(Context("geoip"))
    assert caught.value.path == path


async def test_a_file_that_cannot_be_read_ends_the_start(tmp_path):
    good = cities(tmp_path / "city.mmdb")
    (tmp_path / "bad.mmdb").write_bytes(b"nothing")
    for settings, says in (
        ({"city": str(tmp_path / "none.mmdb")}, "geoip[.]city: cannot read .*: No such file"),
        ({"city": good, "asn": str(tmp_path / "bad.mmdb")}, "geoip[.]asn: .* is not a MaxMind DB file"),
        ({"asn": good}, "geoip[.]asn: .* is a file of Test, in which there is nothing of this kind"),
    ):
        with pytest.raises(ConfigError, match=says):
            async with running(Config(**settings), name="geoip"):
                pass


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install flowagent\[geoip\]"):
        Config(city="x").build(Context("geoip"))
    assert "import maxminddb" not in Path(geoip.__file__).read_text("utf-8")


async def test_the_example_works(tmp_path):
    cities(tmp_path / "GeoLite2-City.mmdb")
    systems(tmp_path / "GeoLite2-ASN.mmdb")
    async with running(example("geoip", DIRECTORY=tmp_path)) as enricher:
        assert places(enricher, "192.0.2.1") == [("DE", "Berlin")]
        assert enricher.enrich(flows(dst_addr=["192.0.2.1"]), enricher.adds)["dst_as"].tolist() == [64500]
