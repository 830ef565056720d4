"""Labels of subnets, from settings and from files that change under way."""

import asyncio

import numpy as np
import pytest
from enriching import example, flows, running, said, samples, until

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.config import parse
from flowagent.enrich import subnets
from flowagent.enrich.subnets import Config
from flowagent.errors import ConfigError

BOTH = frozenset({"src_subnet_label", "dst_subnet_label"})
LABELS = {"office": ("192.0.2.0/24", "2001:db8::/32"), "lab": ("192.0.2.128/25",)}


def label(enricher, *asked):
    """Labels of source addresses."""
    return said(enricher.enrich(flows(src_addr=asked), BOTH), "src_subnet_label")


def build(**settings):
    return Config(**settings).build(Context("subnets"))


def test_each_side_has_the_label_of_its_longest_prefix():
    rows = build(labels=LABELS).enrich(
        flows(src_addr=["192.0.2.1", "192.0.2.129", "2001:db8::1"], dst_addr=["192.0.2.200", "8.8.8.8", "::1"]), BOTH
    )
    assert said(rows, "src_subnet_label") == ["office", "lab", "office"]
    assert said(rows, "dst_subnet_label") == ["lab", "", ""]


def test_only_wanted_columns_that_are_missing_are_added():
    enricher = build(labels=LABELS)
    batch = flows(src_addr=["192.0.2.1"], dst_addr=["192.0.2.1"])
    assert set(enricher.enrich(batch, frozenset({"dst_subnet_label"})).columns) == {*batch.columns, "dst_subnet_label"}
    assert enricher.enrich(batch, frozenset({"bytes"})) is batch
    there = batch.with_columns({"src_subnet_label": np.array([5], np.uint64)})
    assert enricher.enrich(there, BOTH)["src_subnet_label"].tolist() == [5]
    assert enricher.enrich(Batch({"bytes": np.zeros(2)}), BOTH).columns.keys() == {"bytes"}


def test_private_addresses_have_their_label_unless_another_prefix_holds_them():
    enricher = build(labels={"pods": ("10.1.0.0/16",), "site": ("172.16.0.0/12",)}, private="private")
    asked = ["10.2.0.1", "10.1.0.1", "172.16.3.4", "192.168.1.1", "fd00::1", "100.64.0.1", "172.32.0.1", "2001:db8::1"]
    assert label(enricher, *asked) == ["private", "pods", "site", "private", "private", "private", "", ""]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("subnets.yaml", "office: [192.0.2.0/24, '2001:db8::/32']\nlab:\n- 192.0.2.128/25\n"),
        ("subnets.csv", "prefix,label\n# ours\n192.0.2.0/24,office\n\n2001:db8::/32, office\n192.0.2.128/25,lab\n"),
    ],
)
async def test_a_file_says_the_same_as_settings(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    async with running(Config(file=str(tmp_path / name))) as enricher:
        assert label(enricher, "192.0.2.1", "192.0.2.129", "2001:db8::1", "8.8.8.8") == ["office", "lab", "office", ""]
        assert samples(enricher, "subnets_prefixes") == {(): 3}


async def test_settings_count_before_the_file(tmp_path):
    file = tmp_path / "subnets.csv"
    file.write_text("192.0.2.0/24,file\n198.51.100.0/24,file\n")
    async with running(Config(file=str(file), labels={"own": ("192.0.2.0/24",)})) as enricher:
        assert label(enricher, "192.0.2.1", "198.51.100.1") == ["own", "file"]


async def test_a_file_that_changes_is_read_again_and_a_broken_one_changes_nothing(tmp_path, caplog):
    file = tmp_path / "subnets.csv"
    file.write_text("192.0.2.0/24,first\n")
    async with running(Config(file=str(file), every=0.01), name="subnets") as enricher:
        assert label(enricher, "192.0.2.1") == ["first"]
        file.write_text("192.0.2.0/24,second\n")
        await until(lambda: label(enricher, "192.0.2.1") == ["second"])
        file.write_text("192.0.2.0/24,third\nnonsense,x\n")
        await until(lambda: samples(enricher, "enrich_file_failures") == {("subnets.file",): 1})
        await asyncio.sleep(0.1)
        assert samples(enricher, "enrich_file_failures") == {("subnets.file",): 1}
        assert "line 2: 'nonsense' is not a prefix" in caplog.text
        assert label(enricher, "192.0.2.1") == ["second"]
        file.unlink()
        await until(lambda: samples(enricher, "enrich_file_failures") == {("subnets.file",): 2})
        assert label(enricher, "192.0.2.1") == ["second"]
        file.write_text("192.0.2.0/24,fourth\n")
        await until(lambda: label(enricher, "192.0.2.1") == ["fourth"])
        assert samples(enricher, "enrich_file_loads") == {("subnets.file",): 3}
        assert samples(enricher, "enrich_file_failures") == {("subnets.file",): 2}


async def test_no_text_of_a_file_ends_the_agent(tmp_path):
    file = tmp_path / "subnets.yaml"
    file.write_text("first: [192.0.2.0/24]\n")
    async with running(Config(file=str(file), every=0.01), name="subnets") as enricher:
        file.write_text("second: [!!bool maybe]\n")
        await until(lambda: samples(enricher, "enrich_file_failures") == {("subnets.file",): 1})
        file.write_text("third: [192.0.2.0/24]\n")
        await until(lambda: label(enricher, "192.0.2.1") == ["third"])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("s.csv", "192.0.2.0/24\n", "line 1: has 1 fields; write prefix,label"),
        ("s.csv", "192.0.2.0/24,a\n192.0.2.0/24,b\n", "line 2: 192.0.2.0/24 has the label 'a' already"),
        ("s.csv", "192.0.2.1/24,a\n", "write 192.0.2.0/24"),
        ("s.csv", "192.0.2.0/24,\n", "empty label"),
        ("s.csv", b"\xff\xfe", "utf-8"),
        ("s.yaml", "office: 192.0.2.0/24", "Expected `array`"),
        ("s.yaml", "office: [", "write prefixes by label"),
        ("s.yaml", "office: [lan]", "office: 'lan' is not a prefix"),
        ("s.yaml", "[" * 5000, "cannot read"),
        ("s.yaml", "office: [!!bool maybe]", "write prefixes by label"),
        ("s.yaml", "office: [!!int '']", "write prefixes by label"),
        ("s.yaml", "office: [!!timestamp x]", "write prefixes by label"),
        ("s.txt", "", "must end in .yaml, .yml, .csv"),
        ("none.csv", None, "No such file or directory"),
    ],
)
async def test_a_wrong_file_ends_the_start(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=f"(?s)^kind.file: .*{says.replace('.', '[.]')}"):
        async with running(Config(file=str(tmp_path / name))):
            pass


async def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(subnets, "MAX_BYTES", 10)
    (tmp_path / "s.csv").write_text("192.0.2.0/24,a\n")
    with pytest.raises(ConfigError, match="is larger than"):
        async with running(Config(file=str(tmp_path / "s.csv"))):
            pass


@pytest.mark.parametrize(
    ("settings", "path", "says"),
    [
        ({}, "subnets.labels", "is empty and there is no file"),
        ({"labels": {"a": ("10.0.0.1/8",)}}, "subnets.labels.a[0]", "write 10.0.0.0/8"),
        ({"labels": {"a": ("10.0.0.0/8",), "b": ("10.0.0.0/8",)}}, "subnets.labels.b[0]", "has the label 'a' already"),
        ({"labels": {"": ("10.0.0.0/8",)}}, "subnets.labels.[0]", "empty label"),
        ({"private": "p", "every": 0}, "subnets.every", "is 0"),
        ({"private": "p", "every": "soon"}, "subnets.every", "is not a duration"),
    ],
)
def test_wrong_settings_say_where_and_what_is_right(settings, path, says):
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")) as caught:
        build(**settings)
    assert caught.value.path == path


def test_labels_are_counted(monkeypatch):
    monkeypatch.setattr(subnets, "MAX_PREFIXES", 2)
    with pytest.raises(ConfigError, match="more than 2 prefixes"):
        build(labels={"a": ("10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8")})


async def test_the_example_works(tmp_path):
    (tmp_path / "subnets.csv").write_text("198.51.100.0/24,partner\n")
    async with running(example("subnets", DIRECTORY=tmp_path)) as enricher:
        asked = ["10.8.1.1", "10.9.9.9", "198.51.100.7", "192.168.0.1", "8.8.8.8"]
        assert label(enricher, *asked) == ["office", "private", "partner", "private", ""]


def test_yaml_gives_labels_as_lists():
    settings = parse({"enrich": [{"type": "subnets", "labels": {"a": ["10.0.0.0/8"]}}]}).enrich[0].settings
    assert settings == Config(labels={"a": ("10.0.0.0/8",)})
    assert hash(settings)
