"""The contracts: what every kind offers, and what building one may not do."""

import importlib
import pkgutil
import socket
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from flowagent.clock import ManualClock
from flowagent.component import Context, Settings
from flowagent.config import PACKAGES, kinds_of
from flowagent.elements import element
from flowagent.metrics import Metrics

NEEDED = {
    "file": {"path": "flows.ndjson"},
    "ipfix": {"collector": "127.0.0.1:4739"},
    "otlp": {"url": "http://127.0.0.1:4318"},
    "packets": {"interface": "lo"},
    "parquet": {"path": "flows/hour=%H/part-%H%M%S.parquet"},
    "kubernetes": {"snapshot_url": "http://127.0.0.1:8077"},
    "kafka": {"brokers": ["127.0.0.1:9092"], "topic": "flows"},
    "loki": {"url": "http://127.0.0.1:3100"},
    "webhook": {"url": "http://127.0.0.1:8080/flows"},
}
"""Settings without a default, by kind."""
KINDS = [(section, kind) for section in PACKAGES for kind in kinds_of(section)]
every_kind = pytest.mark.parametrize(("section", "kind"), KINDS, ids=["/".join(pair) for pair in KINDS])


class Example(Settings):
    size: int = 1
    names: tuple[str, ...] = ()


def config_of(section, kind):
    return importlib.import_module(f"{PACKAGES[section]}.{kind}").Config


def test_a_context_of_ones_own_shares_the_world():
    ctx = Context("flowagent", ManualClock(), Metrics(), Path("state"), rng=np.random.default_rng(1))
    mine = ctx.named("udp")
    assert mine.name == "udp"
    assert mine.log.name == "flowagent.udp"
    assert (mine.clock, mine.metrics, mine.state_dir, mine.rng) == (ctx.clock, ctx.metrics, ctx.state_dir, ctx.rng)


def test_settings_are_equal_by_value():
    assert Example(size=2) == Example(size=2)
    assert hash(Example(size=2, names=("a",))) == hash(Example(size=2, names=("a",)))
    assert Example(size=2) != Example(size=3)


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        Example().size = 2


def test_settings_are_strict():
    with pytest.raises(msgspec.ValidationError, match="siez"):
        msgspec.convert({"siez": 1}, Example)
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        msgspec.convert({"size": "1"}, Example)


@every_kind
def test_a_kind_has_settings_and_says_what_it_is(section, kind):
    config = config_of(section, kind)
    assert issubclass(config, Settings)
    assert config.__doc__
    assert config.__module__ == f"{PACKAGES[section]}.{kind}"
    assert importlib.import_module(config.__module__).__doc__


@every_kind
def test_a_misspelt_setting_is_refused(section, kind):
    with pytest.raises(msgspec.ValidationError, match="no_such_setting"):
        msgspec.convert({"no_such_setting": 1}, config_of(section, kind))


@every_kind
def test_building_is_inert(section, kind, tmp_path, monkeypatch):
    def forbidden(*_, **__):
        pytest.fail("building must not open anything")

    element(0, 1)  # the package's own table, read once, is no resource of a component
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(Path, "open", forbidden)
    threads = threading.active_count()
    config_of(section, kind)(**NEEDED.get(kind, {})).build(Context(kind, ManualClock(), state_dir=tmp_path / "state"))
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


@every_kind
def test_a_kind_does_what_its_section_asks(section, kind):
    asked = {
        "ingest": ("__aenter__", "__aexit__", "run", "want", "ready", "backlog"),
        "enrich": ("needs", "adds", "__aenter__", "__aexit__", "run", "ready", "enrich", "families"),
        "analyse": ("every_record", "process", "tick", "columns", "families"),
        "export": ("__aenter__", "__aexit__", "write", "columns"),
    }
    component = config_of(section, kind)(**NEEDED.get(kind, {})).build(Context(kind, ManualClock()))
    assert [name for name in asked[section] if not hasattr(component, name)] == []


def test_every_section_has_a_kind():
    assert {section for section, _ in KINDS} == set(PACKAGES)
    assert ("ingest", "udp") in KINDS
    assert ("export", "file") in KINDS
    assert ("analyse", "counters") in KINDS


def test_finding_the_kinds_needs_no_list():
    for section, package in PACKAGES.items():
        modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
        with_config = {m.name for m in modules if hasattr(importlib.import_module(f"{package}.{m.name}"), "Config")}
        assert set(kinds_of(section)) == with_config
