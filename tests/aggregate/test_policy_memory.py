"""Policies: what they take of memory, what is refused, and hostile traffic."""

import re
import tracemalloc

import msgspec
import numpy as np
import pytest
from flow_rows import feed, numbers, policy_of

from flowagent.aggregate.policy import MAX_CAPACITY, MIN_CAPACITY, Config
from flowagent.batch import Batch, constant
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.config import DEFAULTS, kind
from flowagent.errors import ConfigError
from flowagent.sections import Window as WindowConfig

MIB = 1 << 20


# Memory


EVERYTHING = {
    "top": [{"of": "src_addr"}, {"of": ["src_addr", "dst_addr", "dst_port"], "by": "packets"}],
    "distinct": ["src_addr", ["src_addr", "dst_addr"]], "quantiles": ["bytes", "packets"],
    "entropy": [{"of": "dst_port"}, {"of": "dst_addr", "by": "records"}], "rates": ["bytes", "packets", "records"],
    "periods": 3, "max_series": 1000,
}  # fmt: skip


def flood(rng, rows, now_s, groups=10**9):
    """Rows of which no two have a key in common, of all sizes, some values of each column unknown."""
    words = rng.integers(0, 2**63, (5, rows)).astype(np.uint64)
    return Batch(
        {
            "src_addr": words[:2], "dst_addr": words[2:4], "dst_port": words[4].astype(np.uint16),
            "in_if": (words[4] % np.uint64(groups)).astype(np.uint32),
            "bytes": np.exp2(rng.uniform(0, 63, rows)).astype(np.uint64), "packets": words[0] >> np.uint64(20),
            "records": np.ones(rows, np.uint64), "received_ns": rng.integers(now_s - 2, now_s + 1, rows) * SECOND,
        },
        valid={name: rng.random(rows) < 0.9 for name in ("src_addr", "dst_addr", "dst_port")},
    )  # fmt: skip


@pytest.mark.parametrize("group_by", [[], ["in_if"], ["src_addr", "dst_port"]])
@pytest.mark.parametrize("groups", [8, 10**9])
@pytest.mark.parametrize("rows", [300, 20_000])
def test_no_flood_takes_more_memory_than_was_granted(group_by, groups, rows):
    memory = 3 * MIB
    policy = policy_of(group_by=group_by, max_groups=7, memory=memory, **EVERYTHING)
    rng, peak = np.random.default_rng(4), 0
    for now in range(0, 60, 4):
        for _ in range(3):
            batch = flood(rng, rows, now, groups)
            policy.process(batch, batch, now * SECOND)
            peak = max(peak, policy.nbytes)
        list(policy.families())
        peak = max(peak, policy.nbytes)
    assert peak <= memory
    if rows > 1000:
        assert peak > 0.5 * memory, "what was granted is used"


@pytest.mark.parametrize("group_by", [[], ["proto"]])
def test_tables_may_be_full_in_all_periods_and_the_newest_keys_not_merged_yet(group_by):
    policy = policy_of(group_by=group_by, top=[{"of": "src_addr"}], memory=MIB, periods=3)
    keys = policy._plan.capacity
    low = np.arange(keys, dtype=np.uint64)
    known = low != 0
    every = Batch(
        {"src_addr": np.stack([low, low]), "bytes": low, "proto": constant(6, keys, "u1"), "records": low},
        valid={"src_addr": known},
    )
    size, peak = keys // 10, 0
    for now in range(50):
        for start in range(0, keys - size, size):
            batch = every.rows(start, start + size)
            policy.process(batch, batch, now * SECOND)
            peak = max(peak, policy.nbytes)
    assert 0.9 * MIB < peak <= MIB


@pytest.mark.parametrize("group_by", [[], ["in_if"]])
def test_the_memory_that_is_taken_is_what_is_said(group_by):
    policy = policy_of(group_by=group_by, max_groups=20, memory=6 * MIB, **EVERYTHING)
    rng = np.random.default_rng(4)
    tracemalloc.start()
    for now in range(0, 60, 4):
        batch = flood(rng, 20_000, now)
        policy.process(batch, batch, now * SECOND)
    del batch
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert policy.nbytes > 2.5 * MIB
    assert held < policy.nbytes + 0.2 * MIB


def capacity(**settings):
    return policy_of(**settings)._plan.capacity


def test_the_size_of_tables_follows_from_the_memory():
    small, large = (capacity(top=[{"of": "src_addr"}], memory=memory) for memory in (500_000, 1_000_000))
    assert small * 1.9 < large < small * 2.1
    assert capacity(top=[{"of": "src_addr"}], memory=500_000, periods=2) > small
    assert capacity(top=[{"of": "src_addr"}, {"of": "dst_addr"}], memory=500_000) < small / 1.9
    assert capacity(top=[{"of": "src_addr"}], quantiles=["bytes"], memory=500_000) < small
    assert capacity(top=[{"of": "src_addr"}], entropy=[{"of": "src_addr"}], memory=500_000) < small
    assert capacity(top=[{"of": "src_addr"}], memory="1GiB") == MAX_CAPACITY


def test_the_default_policy_has_full_tables():
    entry = next(e for e in DEFAULTS["analyse"] if e["type"] == "policy")
    policy = kind("analyse", entry, "").settings.build(Context("default"))
    assert policy._plan.capacity == MAX_CAPACITY
    window = WindowConfig()
    assert policy.columns - {"received_ns"} <= {*window.key, *window.measures, "sampling_rate"}


@pytest.mark.parametrize(
    "settings",
    [
        {"top": [{"of": "src_addr"}]},
        {"top": [{"of": "src_addr", "k": 1000}]},
        {"distinct": ["src_addr"]},
        {"group_by": ["in_if"], "quantiles": ["bytes"]},
        {"group_by": ["in_if"], "quantiles": ["bytes"], "max_series": 3},
        {"rates": ["bytes"], "every": "1h"},
        {"entropy": [{"of": "src_addr"}]},
    ],
)
def test_too_little_memory_is_refused_and_what_is_said_to_be_enough_is(settings):
    with pytest.raises(ConfigError) as caught:
        policy_of(memory=1000, **settings)
    assert caught.value.path == "p.memory"
    text = "1000 is too little, these measures need (.*) bytes at least; raise it, or lower periods, max_groups or"
    needed = int(re.match(text, caught.value.problem)[1].replace(",", ""))
    k = max((top.get("k", 10) for top in settings.get("top", [])), default=0)
    assert capacity(memory=needed, **settings) >= max(MIN_CAPACITY, 2 * k)
    with pytest.raises(ConfigError):
        policy_of(memory=needed - 1, **settings)


# What is refused


@pytest.mark.parametrize(
    ("settings", "path", "problem"),
    [
        ({"top": [{"of": "src_adr"}]}, "top", "'src_adr' is not a key column; did you mean src_addr?"),
        ({"top": [{"of": "bytes"}]}, "top", "'bytes' is not a key column"),
        ({"top": [{"of": []}]}, "top", "names no column"),
        ({"distinct": [[]]}, "distinct", "names no column"),
        ({"distinct": ["dst_prot"]}, "distinct", "did you mean dst_port?"),
        ({"entropy": [{"of": ["proto", "start_ns"]}]}, "entropy", "'start_ns' is not a key column"),
        ({"entropy": [{"of": ["proto", "proto"]}]}, "entropy", "names a column twice"),
        ({"group_by": ["weight"]}, "group_by", "'weight' is not a key column"),
        ({"group_by": ["vlan", "vlan"]}, "group_by", "names a column twice"),
        ({"every": "900ms"}, "every", "'900ms' is too short; at least 1s"),
        ({"every": "soon"}, "every", "'soon' is not a duration"),
        ({"memory": "lots"}, "memory", "'lots' is not a size"),
        ({"filter": "dst_port = = 4"}, "filter", "expected a value"),
    ],
)
def test_wrong_settings_are_refused(settings, path, problem):
    with pytest.raises(ConfigError) as caught:
        policy_of(**settings)
    assert caught.value.path == f"p.{path}"
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    "settings",
    [
        {"top": [{"of": "proto", "k": 0}]}, {"top": [{"of": "proto", "k": 1001}]},
        {"top": [{"of": "proto", "by": "flows"}]},
        {"max_groups": 0}, {"max_groups": 10_001}, {"periods": 0}, {"max_series": -1}, {"quantiles": ["tos"]},
        {"top": ["src_addr"]}, {"filter": 5}, {"unknown": 1},
    ],
)  # fmt: skip
def test_settings_of_wrong_types_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, Config)


# Hostile traffic


def test_distinct_groups_without_end_are_folded_exactly():
    policy = policy_of(group_by=["src_addr"], max_groups=50, top=[{"of": "dst_port"}], quantiles=["bytes"], periods=1)
    rng, truth = np.random.default_rng(8), [0, 0]
    for now in range(0, 30, 5):
        batch = flood(rng, 100_000, now)
        policy.process(batch, batch, now * SECOND)
        truth[0] += len(batch)
        truth[1] += batch.total("packets")
    found = policy.result(0, policy.windows)
    assert len(found["groups"]) <= 51
    totals = {f.name: sum(f.samples.values()) for f in policy.families() if f.kind == "counter"}
    assert totals["flowagent_policy_records"] == truth[0]
    assert totals["flowagent_policy_packets"] == pytest.approx(truth[1], rel=1e-9)
    assert totals["flowagent_policy_groups_folded"] > 500_000


def test_largest_numbers_there_are():
    policy = policy_of(top=[{"of": "proto"}], quantiles=["bytes"], rates=["bytes"], entropy=[{"of": "proto"}])
    row = {"proto": 6, "bytes": 2**64 - 1, "packets": 2**64 - 1, "sampling_rate": 1e12, "inclusion_prob": 1e-30}
    feed(policy, [{**row, "received_ns": 0}] * 3)
    policy.tick(10 * SECOND)
    assert numbers(policy, 1)[()][0] == pytest.approx(3 * 2**64 * 1e42)
    assert policy.result(1, 1)["groups"][0]["quantiles"][0]["p50"] == pytest.approx(2**64, rel=0.012)
