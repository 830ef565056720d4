"""A period's sketches hold what came in, however it came in, and two periods hold what one long one would."""

import numpy as np
import pytest
from flow_rows import AMOUNTS, batch_of, flow_rows, key, policy_of, sums, total
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.groups import GroupNumbers
from flowagent.aggregate.labels import keys_of, readable
from flowagent.aggregate.period import GROUP, Period
from flowagent.aggregate.window import Window
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.schema import FLOW_KEY

ALL = {
    "top": [{"of": ["src_addr", "dst_port"]}, {"of": "dst_addr", "by": "packets"}],
    "entropy": [{"of": "src_addr", "by": "records"}], "distinct": ["src_addr", ["dst_addr", "vlan"]],
    "quantiles": ["bytes", "packets"], "rates": ["bytes", "records"],
}  # fmt: skip
TABLES = ((("src_addr", "dst_port"), "bytes"), (("dst_addr",), "packets"), (("src_addr",), "records"))


class Sketches:
    """A period, and the numbers that belong to it."""

    def __init__(self, group_by=(), max_groups=50, **settings):
        policy = policy_of(group_by=group_by, max_groups=max_groups, **(settings or ALL))
        self.numbers = GroupNumbers(tuple(group_by), max_groups, 5)
        self.plan = policy._plan
        self.period = Period(self.plan, 0)

    def add(self, rows, condensed=False):
        batch = batch_of(rows)
        self.period.update(batch, window(batch) if condensed else batch, self.numbers)
        return self


def window(batch):
    return Window(SECOND, (*FLOW_KEY, "vlan"), ("bytes", "packets"), 1000).condense(batch)


def table(sketches, of, amount, number=0):
    """{key: sum} of a group."""
    keys, values = sketches.period.rows_of(of, amount, number, sketches.numbers)
    plain = [tuple(map(readable, of, k)) for k in keys_of(keys, of, np.arange(len(values)))]
    assert len(set(plain)) == len(plain)
    return dict(zip(plain, values.tolist(), strict=True))


groupings = st.sampled_from([(), ("proto",), ("vlan", "src_addr")])


@given(st.lists(flow_rows(max_size=15), min_size=1, max_size=4), groupings, st.booleans())
def test_totals_and_tables_are_those_of_single_rows(parts, group_by, condensed):
    sketches = Sketches(group_by)
    for rows in parts:
        sketches.add(rows, condensed)
    rows = [row for part in parts for row in part]
    period, groups = sketches.period, {key(row, group_by) for row in rows}
    assert period.records_seen == len(rows)
    assert period.lowest_prob == min(row.get("inclusion_prob") or 1 for row in rows)
    found = period.groups(sketches.numbers)
    assert {tuple(map(readable, group_by, k)) for _, k in found} == groups
    for number, k in found:
        mine = [row for row in rows if key(row, group_by) == tuple(map(readable, group_by, k))]
        for amount in AMOUNTS:
            assert period.totals[amount][number] == pytest.approx(total(mine, amount), rel=1e-12)
        for of, amount in TABLES:
            assert table(sketches, of, amount, number) == pytest.approx(sums(mine, of, amount), rel=1e-12)
        for of in (("src_addr",), ("dst_addr", "vlan")):
            assert period.distinct[of].estimate()[number] == pytest.approx(len({key(r, of) for r in mine}), rel=0.05)


@given(st.lists(flow_rows(max_size=15), min_size=1, max_size=4), groupings)
def test_periods_merge_to_what_one_long_one_holds(parts, group_by):
    long, first = Sketches(group_by), Sketches(group_by)
    periods = []
    for i, rows in enumerate(parts):
        part = Sketches(group_by)
        part.numbers = first.numbers
        part.period = Period(part.plan, 10 * i * SECOND)
        part.add(rows).period.goes_on(10 * (i + 1) * SECOND)
        periods.append(part.period)
        long.add(rows)
    long.period.goes_on(10 * len(parts) * SECOND)
    merged = first.period = Period(first.plan, periods[-1].starts_ns)
    for period in reversed(periods):
        merged.merge(period)
    whole = long.period
    for name in ("starts_ns", "ends_ns", "lasted_ns", "records_seen", "lowest_prob"):
        assert getattr(merged, name) == getattr(whole, name)
    assert merged.rates == whole.rates
    numbers = {k: n for n, k in whole.groups(long.numbers)}
    for number, k in merged.groups(first.numbers):
        other = numbers.pop(k)
        for amount in AMOUNTS:
            assert merged.totals[amount][number] == pytest.approx(whole.totals[amount][other], rel=1e-12)
        for of, amount in TABLES:
            assert table(first, of, amount, number) == pytest.approx(table(long, of, amount, other), rel=1e-12)
        for of, sketch in merged.counts.items():
            assert (sketch.registers[number] == whole.counts[of].registers[other]).all()
        for amount, histogram in merged.quantiles.items():
            for a, b in zip(histogram.buckets(number), whole.quantiles[amount].buckets(other), strict=True):
                assert a.tolist() == b.tolist()
    assert not numbers


def test_merging_changes_only_the_one_merged_into():
    one, other = Sketches().add([{"src_addr": (0, 1), "bytes": 5}]), Sketches().add([{"src_addr": (0, 1), "bytes": 7}])
    merged = Sketches()
    merged.period.merge(one.period)
    merged.period.merge(other.period)
    merged.add([{"src_addr": (0, 9), "bytes": 1}])
    assert one.period.totals["bytes"].tolist() == [5]
    assert table(other, ("src_addr", "dst_port"), "bytes") == {("::1", None): 7}
    assert one.period.distinct["src_addr",].estimate()[0] == pytest.approx(1, abs=0.01)


def test_groups_beyond_the_limit_are_one_and_equal_keys_of_theirs_one_row():
    sketches = Sketches(("proto",), 1).add([{"proto": 6, "dst_addr": (0, 1), "packets": 1}])
    sketches.add([{"proto": proto, "dst_addr": (0, 1), "packets": 10} for proto in (17, 1, 132)])
    assert [k for _, k in sketches.period.groups(sketches.numbers)] == [(6,), None]
    assert table(sketches, ("dst_addr",), "packets", 0) == {("::1",): 1}
    assert table(sketches, ("dst_addr",), "packets", sketches.numbers.other) == {("::1",): 30}
    assert sketches.period.distinct["src_addr",].estimate()[1] == pytest.approx(1, abs=0.01)


def test_a_group_that_is_folded_is_counted_once_though_flows_and_records_are_looked_at():
    sketches = Sketches(("proto",), 1, quantiles=["bytes"])
    sketches.add([{"proto": proto, "bytes": 1} for proto in (6, 17, 17, 1)], condensed=True)
    assert sketches.numbers.folded == 2


def test_one_table_holds_the_groups_by_number():
    sketches = Sketches(("src_addr",), 3).add(
        [{"src_addr": (0, i), "dst_addr": (0, 1), "packets": 1} for i in range(9)]
    )
    keys, values = sketches.period.tables[("dst_addr",), "packets"].sums()
    assert keys.columns.keys() == {"dst_addr", GROUP}
    assert len(values) == 4
    assert sorted(values.tolist()) == [1, 1, 1, 6]


def quantile_values(*rows, of="bytes", condensed=False):
    """{bucket index or 0: weight}."""
    sketches = Sketches(quantiles=[of]).add(list(rows), condensed)
    histogram = sketches.period.quantiles[of]
    buckets = zip(*(a.tolist() for a in histogram.buckets()), strict=True)
    return dict(buckets), histogram.zeros.tolist(), histogram.sum.tolist()


def test_quantiles_are_of_single_records_also_where_flows_are_merged():
    rows = [{"src_addr": (0, 1), "bytes": 2**n} for n in (1, 2, 2)]
    assert quantile_values(*rows, condensed=True) == ({32: 1, 64: 2}, [0], [10])


def test_quantiles_are_scaled_by_the_rate_and_weighted_by_the_probability():
    row = {"bytes": 4, "sampling_rate": 8.0, "inclusion_prob": 0.25}
    assert quantile_values(row) == ({5 * 32: 4}, [0], [128])
    assert quantile_values(row, {"bytes": 1}) == ({0: 1, 5 * 32: 4}, [0], [129])


def test_what_is_unknown_has_no_size():
    assert quantile_values({"bytes": 4}, {"bytes": None}, {"bytes": 0}) == ({64: 1}, [1], [4])
    assert quantile_values({"packets": 4}) == ({}, [0], [0])
    assert quantile_values({"inclusion_prob": 0.5, "bytes": 1}, {"bytes": None, "inclusion_prob": 0.25}) == (
        {0: 2}, [0], [2],
    )  # fmt: skip
    assert quantile_values({"bytes": None}, {"bytes": 1}, of="records") == ({0: 2}, [0], [2])


def test_unknown_sizes_of_groups():
    sketches = Sketches(("proto",), quantiles=["bytes"])
    sketches.add([{"proto": 6, "bytes": None}, {"proto": 17, "bytes": 8}, {"proto": 6, "bytes": 1}])
    numbers = {k: n for n, k in sketches.period.groups(sketches.numbers)}
    histogram = sketches.period.quantiles["bytes"]
    assert histogram.count[numbers[6,]] == histogram.count[numbers[17,]] == 1
    assert histogram.sum[numbers[6,]] == 1


def rates(*batches, of="bytes"):
    sketches = Sketches(rates=[of])
    for rows in batches:
        sketches.add(rows)
    return sketches.period.rates[of]


def at(seconds, octets=1, **more):
    return {"received_ns": round(seconds * SECOND), "bytes": octets, **more}


def test_rates_are_sums_by_second():
    found = rates(
        [at(3.9), at(4.0), at(4.999999999, 5)], [at(4.5, 10, sampling_rate=2.0), at(7, 1, inclusion_prob=0.5)]
    )
    assert found == {3: 1, 4: 26, 7: 2}
    assert rates([at(4), at(4), at(9)], of="records") == {4: 2, 9: 1}


def test_seconds_in_which_nothing_came_are_left_out():
    assert rates([at(1), at(9)]) == {1: 1, 9: 1}


def test_what_came_at_an_unknown_time_is_in_no_rate():
    assert rates([at(5), {"bytes": 7}]) == {5: 1}
    assert rates([{"bytes": 7}]) == {}


def test_rates_of_times_far_apart_are_bounded():
    found = rates([at(s, 1) for s in range(0, 4000, 2)])
    assert found == dict.fromkeys(range(3988, 4000, 2), 1)
    found = rates(*([at(s)] for s in range(1000)))
    assert found == dict.fromkeys(range(12), 1)
    assert rates([at(-(2**33)), at(2**33)]) == {2**33: 1}


def test_a_second_that_two_periods_saw_counts_whole():
    one, other = Sketches(rates=["bytes"]).add([at(9.9)]), Sketches(rates=["bytes"]).add([at(9.95), at(10)])
    one.period.merge(other.period)
    assert one.period.rates["bytes"] == {9: 2, 10: 1}


def test_how_long_it_lasted_has_no_gaps():
    plan = Sketches().plan
    periods = [Period(plan, 0), Period(plan, 70 * SECOND)]
    for now in (3, 8, 5, 10):
        periods[0].goes_on(now * SECOND)
    periods[1].goes_on(80 * SECOND)
    assert [(p.starts_ns, p.ends_ns, p.lasted_ns) for p in periods] == [
        (0, 10 * SECOND, 10 * SECOND), (70 * SECOND, 80 * SECOND, 10 * SECOND),
    ]  # fmt: skip
    periods[0].merge(periods[1])
    assert (periods[0].ends_ns, periods[0].lasted_ns) == (80 * SECOND, 20 * SECOND)


def zipf(seed, rows, keys=100_000):
    rng = np.random.default_rng(seed)
    low = rng.zipf(1.1, rows).astype(np.uint64) % np.uint64(keys)
    return Batch({
        "src_addr": np.stack([np.zeros(rows, np.uint64), low]), "bytes": rng.integers(1, 10_000, rows, np.uint64),
        "proto": rng.choice(np.array([6, 17], np.uint8), rows), "records": np.ones(rows, np.uint64),
    })  # fmt: skip


@pytest.mark.parametrize("group_by", [(), ("proto",)])
def test_bounds_hold_beyond_the_capacity_of_a_table_and_after_merging(group_by):
    sketches = Sketches(group_by, 2, top=[{"of": "src_addr"}], memory="250kB")
    assert sketches.plan.capacity < 1500
    truth = [np.zeros(100_000), np.zeros(100_000)]
    for i in range(3):
        part = Period(sketches.plan, 0)
        for j in range(4):
            batch = zipf(10 * i + j, 20_000)
            part.update(batch, batch, sketches.numbers)
            for k, proto in enumerate((6, 17)):
                mine = batch["proto"] == proto if group_by else np.full(len(batch), k == 0)
                truth[k] += np.bincount(batch["src_addr"][1][mine].astype(int), batch["bytes"][mine], 100_000)
        sketches.period.merge(part)
    of_by = ("src_addr",), "bytes"
    error, whole = sketches.period.tables[of_by].offset, sum(t.sum() for t in truth)
    assert 0 < error <= whole / (sketches.plan.capacity + 1)
    numbers = {k: n for n, k in sketches.period.groups(sketches.numbers)}
    for k, proto in enumerate((6, 17) if group_by else (None,)):
        keys, values = sketches.period.rows_of(*of_by, numbers[(proto,) if group_by else ()], sketches.numbers)
        found = np.zeros(100_000)
        found[keys["src_addr"][1].astype(int)] = values
        assert (found <= truth[k]).all()
        assert (truth[k] <= found + error).all()


@pytest.mark.parametrize(("group_by", "sigma"), [((), 1.04 / 64), (("proto",), 1.04 / 32)])
def test_distinct_counts_are_within_four_standard_errors(group_by, sigma):
    for keys in (10, 1000, 200_000):
        sketches = Sketches(group_by, 2, distinct=["src_addr"])
        batch = zipf(keys, 200_000, keys)
        sketches.period.update(batch, batch, sketches.numbers)
        for number, k in sketches.period.groups(sketches.numbers):
            mine = batch["src_addr"][1][batch["proto"] == k[0]] if k else batch["src_addr"][1]
            truth = len(set(mine.tolist()))
            assert abs(sketches.period.distinct["src_addr",].estimate()[number] / truth - 1) < 4 * sigma


def test_no_bytes_no_keys():
    """Rows of which nothing is known but that they came."""
    sketches = Sketches()
    batch = Batch({}, 3)
    sketches.period.update(batch, batch, sketches.numbers)
    assert sketches.period.totals["records"].tolist() == [3]
    assert table(sketches, ("src_addr",), "records") == {(None,): 3}
