"""What a period's sketches say, as plain data, beside a computation without sketches."""

import json
import math

import msgspec
import numpy as np
import pytest
from flow_rows import AMOUNTS, batch_of, entropy, feed, flow_rows, key, policy_of, shown, sums, total
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.histogram import ALPHA as EXACT_ALPHA
from flowagent.batch import Batch
from flowagent.clock import SECOND

ALPHA = EXACT_ALPHA * 1.000001  # an end of a bucket is that far from its middle, and rounded
TOPS = [{"of": ["src_addr", "dst_port"], "k": 1000}, {"of": "dst_addr", "by": "packets", "k": 2}]


def result(policy, newest=0, oldest=None):
    """Checked to be plain: what other encoders, and schemas, know."""
    found = policy.result(newest, newest if oldest is None else oldest)
    plain(found)
    assert json.loads(msgspec.json.encode(found)) == json.loads(json.dumps(found, allow_nan=False))
    return found


def plain(value):
    """No type of NumPy, and every number is one."""
    assert type(value) in (dict, list, tuple, str, int, float, bool, type(None)), value
    if isinstance(value, dict):
        assert all(type(name) is str for name in value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            plain(inner)
    assert not isinstance(value, float) or math.isfinite(value)


def quantile(rows, q, amount):
    """The smallest size that the share q of the weight does not exceed."""
    sizes = sorted((value * (row.get("sampling_rate") or 1), 1 / (row.get("inclusion_prob") or 1))
                   for row in rows if (value := row.get(amount)) is not None)  # fmt: skip
    rank, below = q * sum(weight for _, weight in sizes), 0
    for size, weight in sizes:
        below += weight
        if below >= rank:
            return size
    return None


@given(flow_rows(), st.sampled_from([(), ("proto",), ("dst_addr", "vlan")]))
def test_everything_is_exact_while_keys_are_few(rows, group_by):
    policy = policy_of(
        group_by=list(group_by), top=TOPS, quantiles=["bytes"],
        entropy=[{"of": "src_addr", "by": "records"}, {"of": ["dst_port", "proto"]}],
    )  # fmt: skip
    feed(policy, rows)
    policy.tick(4 * SECOND)
    found = result(policy)
    assert (found["seconds"], found["records_seen"]) == (4, len(rows))
    assert found["lowest_inclusion_prob"] == min(row.get("inclusion_prob") or 1 for row in rows)
    groups = {tuple(group["group"].values()): group for group in found["groups"]}
    assert groups.keys() == {key(row, group_by) for row in rows}
    assert [g["bytes"] for g in found["groups"]] == sorted((g["bytes"] for g in found["groups"]), reverse=True)
    for k, group in groups.items():
        check([row for row in rows if key(row, group_by) == k], group)


def check(rows, group):
    for amount in AMOUNTS:
        assert group[amount] == pytest.approx(total(rows, amount), rel=1e-12)
        assert group[f"{amount}_per_second"] == group[amount] / 4
    all_, few = group["top"]
    assert shown(all_) == pytest.approx(sums(rows, all_["of"], "bytes"), rel=1e-12)
    assert [row["packets"] for row in few["rows"]] == sorted(sums(rows, few["of"], "packets").values(), reverse=True)[
        :2
    ]
    assert all_["error"] == few["error"] == 0
    (sizes,) = group["quantiles"]
    known = [row for row in rows if row.get("bytes") is not None]
    assert sizes["count"] == total(known, "records")
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        truth = quantile(known, q, "bytes")
        assert sizes.get(name) == (truth and pytest.approx(truth, rel=ALPHA))
    for spread in group["entropy"]:
        truth = entropy(rows, spread["of"], spread["by"]) if total(rows, spread["by"]) else 0
        assert spread["bits"] == spread["low"] == spread["high"] == pytest.approx(truth, abs=1e-9)
        keys = len(sums(rows, spread["of"], spread["by"]))
        assert spread["normalized"] == pytest.approx(truth / math.log2(keys) if keys > 1 else 0, abs=1e-9)


def test_what_a_result_has():
    policy = policy_of(
        top=[{"of": ["src_addr", "proto"]}], distinct=["dst_port"], quantiles=["bytes"], entropy=[{"of": "dst_port"}],
        rates=["bytes"],
    )  # fmt: skip
    feed(policy, [{"src_addr": (0, 1), "bytes": 4, "packets": 2, "dst_port": 53, "received_ns": 0}])
    policy.tick(2 * SECOND)
    found = result(policy)
    (group,) = found.pop("groups")
    assert found == {
        "policy": "p", "is_live": True, "start_ns": 0, "end_ns": 2 * SECOND, "seconds": 2, "records_seen": 1,
        "lowest_inclusion_prob": 1, "rates": {"bytes": dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), 4)},
    }  # fmt: skip
    distinct = group.pop("distinct")[0]
    assert distinct.pop("estimate") == pytest.approx(1, abs=0.01)
    assert distinct == {"of": ("dst_port",), "relative_error": 1.04 / 64, "is_lower_bound": False}
    assert group == {
        "group": {}, "bytes": 4, "packets": 2, "records": 1,
        "bytes_per_second": 2, "packets_per_second": 1, "records_per_second": 0.5,
        "top": [{"of": ("src_addr", "proto"), "by": "bytes", "error": 0,
                 "rows": [{"src_addr": "::1", "proto": None, "bytes": 4}]}],
        "quantiles": [{
            "of": "bytes", "count": 1, "relative_error": EXACT_ALPHA,
            **dict.fromkeys(("p50", "p90", "p95", "p99"), pytest.approx(4, rel=ALPHA)),
        }],
        "entropy": [{"of": ("dst_port",), "by": "bytes", "bits": 0, "low": 0, "high": 0, "normalized": 0}],
    }  # fmt: skip


@pytest.mark.parametrize("group_by", [[], ["proto"]])
def test_a_period_in_which_nothing_came(group_by):
    policy = policy_of(
        group_by=group_by, top=TOPS, distinct=["proto"], quantiles=["bytes"], entropy=[{"of": "proto"}], rates=["bytes"]
    )
    policy.tick(0)
    found = result(policy)
    assert found["rates"] == {"bytes": {}}
    assert len(found["groups"]) == (0 if group_by else 1)
    for group in found["groups"]:
        assert group["bytes"] == group["distinct"][0]["estimate"] == group["entropy"][0]["normalized"] == 0
        assert group["quantiles"] == [{"of": "bytes", "count": 0, "relative_error": EXACT_ALPHA}]
        assert [top["rows"] for top in group["top"]] == [[], []]


def test_rates_of_the_first_moments_are_no_wild_guesses():
    policy = policy_of()
    feed(policy, [{"bytes": 1000}], 3)
    assert result(policy)["seconds"] == 1
    policy.tick(round(3.1 * SECOND))
    assert result(policy)["groups"][0]["bytes_per_second"] == 1000


def test_ties_are_in_the_order_of_the_keys():
    policy = policy_of(top=[{"of": ["src_addr", "dst_port"], "k": 4}])
    rng = np.random.default_rng(2)
    rows = [{"src_addr": (0, a), "dst_port": p, "bytes": 5} for a in range(1, 9) for p in (1, 2)]
    feed(policy, [rows[i] for i in rng.permutation(len(rows))] + [{"src_addr": (1, 0), "dst_port": 9, "bytes": 6}])
    (top,) = result(policy)["groups"][0]["top"]
    assert [tuple(row.values()) for row in top["rows"]] == [
        ("0:0:0:1::", 9, 6), ("::1", 1, 5), ("::1", 2, 5), ("::2", 1, 5),
    ]  # fmt: skip


def test_groups_by_what_is_unknown_and_groups_that_are_the_others():
    policy = policy_of(group_by=["src_addr", "proto"], max_groups=1, top=[{"of": "proto"}])
    feed(policy, [{"src_addr": None, "proto": 6, "bytes": 1}])
    feed(policy, [{"src_addr": (0, 9), "proto": 6, "bytes": 8}, {"src_addr": (0, 8), "proto": 6, "bytes": 9}])
    others, unknown = result(policy)["groups"]
    assert (others["group"], others["bytes"]) == (None, 17)
    assert others["top"][0]["rows"] == [{"proto": 6, "bytes": 17}]
    assert unknown["group"] == {"src_addr": None, "proto": 6}


def test_one_table_serves_rankings_and_entropies():
    policy = policy_of(top=[{"of": "proto", "k": 1}, {"of": "proto", "k": 2}], entropy=[{"of": "proto"}])
    feed(policy, [{"proto": p, "bytes": p} for p in (1, 2, 3)])
    (group,) = result(policy)["groups"]
    assert [[row["bytes"] for row in top["rows"]] for top in group["top"]] == [[3, 2]]
    assert len(policy._live.tables) == 1


def test_distinct_counts_under_overload_are_lower_bounds():
    policy = policy_of(distinct=["proto"])
    feed(policy, [{"proto": 6, "inclusion_prob": 0.5}])
    found = result(policy)
    assert found["groups"][0]["records"] == 2
    assert (found["records_seen"], found["lowest_inclusion_prob"]) == (1, 0.5)
    assert found["groups"][0]["distinct"][0]["is_lower_bound"]


def flood(kind, rows, seed):
    """Bytes by source address, and their batch."""
    rng = np.random.default_rng(seed)
    low = {"zipf": lambda: rng.zipf(1.2, rows), "even": lambda: np.arange(rows), "one": lambda: rng.zipf(1.6, rows)}[
        kind
    ]()
    low = low.astype(np.uint64) % np.uint64(1 << 20)
    octets = np.ones(rows, np.uint64) if kind == "even" else rng.integers(1, 2000, rows, np.uint64)
    columns = {"src_addr": np.stack([np.zeros(rows, np.uint64), low]), "bytes": octets, "records": np.ones(rows, "u8")}
    return np.bincount(low.astype(int), octets), Batch({**columns, "proto": (low % np.uint64(2)).astype(np.uint8)})


@pytest.mark.parametrize("kind", ["zipf", "even", "one"])
@pytest.mark.parametrize("counted", [True, False])
def test_an_entropy_of_too_many_keys_is_within_its_bounds(kind, counted):
    policy = policy_of(
        group_by=["proto"], max_groups=3, entropy=[{"of": "src_addr"}], distinct=["src_addr"] * counted, memory="300kB"
    )
    truth, batch = flood(kind, 100_000, 5)
    for start in range(0, 100_000, 10_000):
        part = batch.rows(start, start + 10_000)
        policy.process(part, part, 0)
    for group in result(policy)["groups"]:
        mine = truth[group["group"]["proto"] :: 2]
        shares = mine[mine > 0] / mine.sum()
        (found,) = group["entropy"]
        assert found["low"] < found["high"]
        assert found["low"] <= -(shares * np.log2(shares)).sum() <= found["high"]
        assert found["low"] <= found["bits"] <= found["high"]
        assert 0 <= found["normalized"] <= 1
        assert len(group["distinct"]) == counted


def test_a_ranking_of_too_many_keys_says_how_far_off_it_may_be():
    policy = policy_of(top=[{"of": "src_addr", "k": 20}], memory="200kB")
    truth, batch = flood("zipf", 100_000, 6)
    for start in range(0, 100_000, 10_000):
        part = batch.rows(start, start + 10_000)
        policy.process(part, part, 0)
    (top,) = result(policy)["groups"][0]["top"]
    assert 0 < top["error"] < truth.sum() / (policy._plan.capacity + 1)
    for row, true in zip(top["rows"], np.sort(truth)[::-1].tolist(), strict=False):
        assert row["bytes"] <= true
    by_key = {row["src_addr"]: row["bytes"] for row in top["rows"]}
    # Whoever is missing has no more than the last one shown and the error.
    assert {f"::{i:x}" for i in np.flatnonzero(truth > min(by_key.values()) + top["error"]).tolist()} <= by_key.keys()


def test_many_groups_are_read_in_time_in_proportion():
    """Each sketch is read for all groups at once: it took minutes otherwise."""
    policy = policy_of(
        group_by=["src_port"], max_groups=5000, top=[{"of": "dst_port"}], distinct=["dst_port"], quantiles=["bytes"],
        entropy=[{"of": "dst_port"}], periods=1, memory="1GiB",
    )  # fmt: skip
    ports = np.arange(50_000).astype(np.uint16)
    batch = Batch({
        "src_port": ports % np.uint16(5000), "dst_port": ports, "bytes": ports.astype(np.uint64) + np.uint64(1),
        "records": np.ones(50_000, np.uint64),
    })  # fmt: skip
    policy.process(batch, batch, 0)
    assert len(policy.result(0, 0)["groups"]) == 5000
    policy.tick(10 * SECOND)
    assert sum(len(family.samples) for family in policy.families()) > 400


def test_keys_made_to_drive_a_count_to_infinity_do_not():
    policy = policy_of(distinct=["src_addr"], entropy=[{"of": "src_addr"}])
    feed(policy, [{"src_addr": (0, i), "bytes": 1} for i in range(9000)])
    policy._live.counts["src_addr",].registers[:] = 52
    (group,) = result(policy)["groups"]
    assert group["distinct"][0]["estimate"] == 2**64
    assert group["entropy"][0]["low"] < group["entropy"][0]["high"]


def test_all_periods_together():
    policy = policy_of(top=[{"of": "proto"}], rates=["bytes"])
    for i in range(4):
        feed(policy, [{"proto": i, "bytes": 10, "received_ns": 10 * i * SECOND}], 10 * i)
    found = result(policy, 0, 3)
    assert (found["is_live"], found["records_seen"], found["rates"]["bytes"]["mean"]) == (True, 4, 10)
    assert len(found["groups"][0]["top"][0]["rows"]) == 4
    found = result(policy, 2, 3)
    assert (found["is_live"], found["start_ns"], found["end_ns"], found["seconds"]) == (False, 0, 20 * SECOND, 20)
    assert [row["proto"] for row in found["groups"][0]["top"][0]["rows"]] == [0, 1]


def test_batches_of_some_keys_without_a_column():
    policy = policy_of(top=[{"of": ["proto", "vlan"]}])
    for row in ({"proto": 6, "bytes": 1}, {"vlan": 7, "bytes": 2}, {"bytes": 4}, {"proto": 6, "bytes": 8}):
        batch = batch_of([row])
        policy.process(batch, batch, 0)
    assert shown(result(policy)["groups"][0]["top"][0]) == {(6, None): 9, (None, 7): 2, (None, None): 4}
