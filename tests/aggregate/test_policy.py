"""Policies: what they take in, when their periods end, how much memory they take, what is refused."""

import json
import re
from pathlib import Path

import msgspec
import pytest
import yaml
from flow_rows import batch_of, feed, flow_rows, numbers, policy_of, shown, total
from hypothesis import given
from hypothesis import strategies as st

from flowagent import config
from flowagent.aggregate.policy import MAX_CAPACITY, Config
from flowagent.aggregate.window import Window
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.schema import FLOW_KEY

MIB = 1 << 20


def condensed(batch, key=(*FLOW_KEY, "vlan"), measures=("bytes", "packets")):
    return Window(SECOND, key, measures, 1000).condense(batch)


def spans(policy):
    """Start and end in seconds of all periods, the one under way first."""
    periods = [policy.period(age, age) for age in range(policy.windows + 1)]
    return [(period.starts_ns / SECOND, period.ends_ns / SECOND) for period in periods]


FILTERS = {
    None: lambda _: True,
    "dst_port == 443 and proto == tcp": lambda row: row.get("dst_port") == 443 and row.get("proto") == 6,
    "not vlan == 7": lambda row: row.get("vlan") != 7,
    "bytes > 1000000": lambda row: (row.get("bytes") or 0) > 1_000_000,
    "packets is unknown": lambda row: row.get("packets") is None,
}


@given(flow_rows(), st.sampled_from(sorted(FILTERS, key=str)), st.sampled_from([[], ["src_addr"]]))
def test_records_and_merged_flows_say_the_same(rows, text, group_by):
    settings = {
        "filter": text, "group_by": group_by, "top": [{"of": ["dst_addr", "vlan"], "k": 100}, {"of": "dst_port"}],
        "distinct": ["src_addr", "dst_port"], "quantiles": ["bytes"], "rates": ["packets"],
    }  # fmt: skip
    batch = batch_of(rows)
    results = []
    for flows in (batch, condensed(batch), condensed(batch, ("proto",), ("packets",))):
        policy = policy_of(**settings)
        policy.process(batch, flows, 0)
        results.append(policy.result(0, 0))
    matching = [row for row in rows if FILTERS[text](row)]
    assert results[0]["records_seen"] == len(matching)
    for result in results:
        assert sum(group["bytes"] for group in result["groups"]) == pytest.approx(total(matching, "bytes"), rel=1e-12)
    assert results[1] == results[0] == results[2]


def uses(policy, records, flows):
    """Which rows a policy takes its sums from."""
    taken = []
    policy.tick(0)
    policy._live.update = lambda records, rows, _: taken.append((records, rows))
    policy.process(records, flows, 0)
    ((records_taken, rows),) = taken
    return ("flows" if rows is flows else "records" if rows is records else "a part", records_taken is records)


ROWS = [{"dst_port": 443, "proto": 6, "bytes": 10, "packets": 1, "src_addr": (0, i)} for i in range(3)]


@pytest.mark.parametrize(
    ("settings", "key", "measures", "rows"),
    [
        ({"top": [{"of": "dst_port"}]}, ("dst_port", "proto"), ("bytes", "packets"), "flows"),
        ({"top": [{"of": "src_addr"}]}, ("dst_port", "proto"), ("bytes", "packets"), "records"),
        ({"distinct": ["src_addr"]}, ("dst_port", "proto"), ("bytes", "packets"), "records"),
        ({"entropy": [{"of": "src_addr"}]}, ("dst_port", "proto"), ("bytes", "packets"), "records"),
        ({"group_by": ["src_addr"]}, ("dst_port", "proto"), ("bytes", "packets"), "records"),
        ({"top": [{"of": "vlan"}]}, ("dst_port", "proto"), ("bytes", "packets"), "flows"),
        ({}, ("dst_port",), ("bytes", "packets"), "flows"),
        ({}, ("dst_port",), ("bytes",), "records"),
        ({}, ("dst_port",), (), "records"),
        ({"filter": "proto == 6"}, ("dst_port", "proto"), ("bytes", "packets"), "flows"),
        ({"filter": "proto == 6"}, ("dst_port",), ("bytes", "packets"), "records"),
        ({"filter": "bytes < 20"}, ("dst_port", "proto"), ("bytes", "packets"), "records"),
        ({"filter": "records == 1"}, ("dst_port", "proto"), ("bytes", "packets"), "records"),
        ({"filter": "forwardingStatus is unknown"}, ("dst_port",), ("bytes", "packets"), "records"),
    ],
)
def test_merged_flows_are_used_where_they_tell_as_much(settings, key, measures, rows):
    records = batch_of(ROWS)
    assert uses(policy_of(**settings), records, condensed(records, key, measures))[0] == rows


def test_single_records_are_looked_at_for_sizes_and_rates_only():
    records = batch_of(ROWS)
    flows = condensed(records, ("dst_port",))
    assert uses(policy_of(quantiles=["bytes"]), records, flows) == ("flows", True)
    assert uses(policy_of(rates=["bytes"]), records, flows) == ("flows", True)
    assert uses(policy_of(), records, flows) == ("flows", False)


def test_what_it_needs_of_each_record():
    policy = policy_of(
        filter="port == 53", group_by=["vlan"], top=[{"of": ["src_addr", "proto"]}], distinct=["dst_addr"],
        entropy=[{"of": "tos"}],
    )  # fmt: skip
    always = {"bytes", "packets", "records", "sampling_rate"}
    assert policy.columns == always | {"src_port", "dst_port", "vlan", "src_addr", "proto", "dst_addr", "tos"}
    assert policy_of(rates=["bytes"]).columns == always | {"received_ns"}
    assert not policy.every_record


def test_before_the_first_moment_there_is_nothing():
    policy = policy_of()
    assert policy.windows == policy.nbytes == 0
    assert policy.result(0, 0) is None
    assert policy.result(1, 1) is None
    assert policy.describe()["table_capacity"] == MAX_CAPACITY


def test_periods_are_aligned_to_the_clock_and_the_first_begins_when_it_does():
    policy = policy_of()
    policy.tick(1_000_003 * SECOND)
    feed(policy, ROWS, 1_000_009.9)
    policy.tick(1_000_010 * SECOND - 1)
    assert policy.windows == 0
    policy.tick(1_000_010 * SECOND)
    assert policy.windows == 1
    policy.tick(1_000_023 * SECOND)
    assert spans(policy) == [(1_000_020, 1_000_023), (1_000_010, 1_000_020), (1_000_003, 1_000_010)]
    assert [policy.result(age, age)["seconds"] for age in range(3)] == [3, 10, 7]


def test_records_end_a_period_too():
    policy = policy_of()
    feed(policy, ROWS[:1], 8)
    feed(policy, ROWS[:2], 10)
    assert numbers(policy, 1) == {(): (10, 1, 1)}
    assert numbers(policy) == {(): (20, 2, 2)}
    assert policy.result(0, 0)["is_live"]
    assert not policy.result(1, 1)["is_live"]


def test_records_that_do_not_match_tell_the_time():
    policy = policy_of(filter="proto == udp")
    feed(policy, ROWS, 3)
    feed(policy, ROWS, 12)
    assert spans(policy) == [(10, 12), (3, 10)]


def test_periods_in_which_nothing_came_are_there():
    policy = policy_of(periods=3)
    for tenth in range(0, 400, 2):
        policy.tick(tenth * SECOND // 10)
    assert policy.windows == 3
    assert spans(policy) == [(30, 39.8), (20, 30), (10, 20), (0, 10)]
    assert numbers(policy, 1, 3) == {(): (0, 0, 0)}


def test_so_many_are_kept():
    policy = policy_of(periods=2)
    for i in range(5):
        feed(policy, [{"bytes": i, "packets": 0}], 10 * i)
    assert [numbers(policy, age)[()][0] for age in range(3)] == [4, 3, 2]
    assert policy.result(3, 3) is None
    assert policy.result(1, 3) is None
    assert numbers(policy, 0, 2) == {(): (9, 0, 3)}


def test_a_clock_that_jumps_ahead_skips_periods():
    """They never were; ages count what was, and rates do not count the gap."""
    policy = policy_of()
    policy.tick(0)
    feed(policy, ROWS, 4)
    feed(policy, ROWS, 10**9 + 5)
    policy.tick((10**9 + 7) * SECOND)
    assert spans(policy) == [(10**9 + 5, 10**9 + 7), (0, 4)]
    both = policy.result(0, 1)
    assert (both["start_ns"], both["end_ns"], both["seconds"]) == (0, (10**9 + 7) * SECOND, 6)
    assert both["groups"][0]["bytes_per_second"] == 10
    policy.tick((10**9 + 10) * SECOND)
    assert spans(policy)[1] == (10**9 + 5, 10**9 + 10)


def test_a_clock_that_steps_back_a_little_ends_nothing():
    policy = policy_of()
    feed(policy, ROWS, 21)
    policy.tick(24 * SECOND)
    feed(policy, ROWS, 17)
    policy.tick(10 * SECOND)
    assert spans(policy) == [(21, 24)]
    policy.tick(29 * SECOND)
    assert policy.result(0, 0)["seconds"] == 8
    policy.tick(30 * SECOND)
    assert numbers(policy, 1) == {(): (60, 6, 6)}


def test_a_clock_that_steps_back_far_begins_anew():
    """Else the period under way would last until the clock has come as far again: for years, perhaps."""
    policy = policy_of()
    feed(policy, ROWS, 10**9 + 1)
    policy.tick((10**9 + 3) * SECOND)
    feed(policy, ROWS[:1], 25)
    policy.tick(30 * SECOND)
    assert spans(policy) == [(30, 30), (25, 30), (10**9 + 1, 10**9 + 3)]
    assert numbers(policy, 1, 2) == {(): (40, 4, 4)}
    assert policy.result(1, 2)["seconds"] == 7


@given(
    st.lists(st.tuples(st.sampled_from([0, 0.25, 3, 9, 10, 11, 400, -1, -9, -15, -300]), flow_rows(0, 3)), max_size=15)
)
def test_whatever_the_clock_does_nothing_is_lost_or_counted_twice(moves):
    policy, now, rows, lasted = policy_of(periods=50, top=[{"of": "proto", "k": 100}]), 10**6, [], 0.0
    for step, some in moves:
        now += step
        before = policy.windows
        if some:
            feed(policy, some, now)
            rows += some
        else:
            policy.tick(round(now * SECOND))
        assert policy.windows <= before + 1
        lasted += max(step, 0)
    if not moves:
        return
    result = policy.result(0, policy.windows)
    assert result["records_seen"] == len(rows)
    assert result["groups"][0]["bytes"] == pytest.approx(total(rows, "bytes"), rel=1e-12)
    assert sum(shown(result["groups"][0]["top"][0]).values()) == pytest.approx(total(rows, "bytes"), rel=1e-12)
    assert 1 <= result["seconds"] <= max(lasted, 1) + 1e-9


def test_fractions_of_a_second():
    policy = policy_of(every=1.5)
    for tenth in range(46):
        policy.tick(tenth * SECOND // 10)
    assert spans(policy) == [(4.5, 4.5), (3, 4.5), (1.5, 3), (0, 1.5)]


def test_a_group_keeps_its_name_as_long_as_any_period_has_it():
    policy = policy_of(group_by=["dst_port"], max_groups=1, periods=2)
    feed(policy, [{"dst_port": 1, "bytes": 1}], 0)
    for i in (1, 2):
        feed(policy, [{"dst_port": 2, "bytes": 2}], 10 * i)
    assert [list(numbers(policy, age)) for age in range(3)] == [[()], [()], [(1,)]]
    assert numbers(policy, 0, 2).keys() == {(), (1,)}
    feed(policy, [{"dst_port": 2, "bytes": 2}], 30)
    assert [list(numbers(policy, age)) for age in range(3)] == [[(2,)], [()], [()]]


def test_what_it_is():
    policy = policy_of(filter="proto == tcp", top=[{"of": "dst_port"}], memory="2MB")
    feed(policy, ROWS)
    found = policy.describe()
    assert found["name"] == "p"
    assert (found["windows"], found["memory_used"]) == (0, policy.nbytes)
    assert found["table_capacity"] == MAX_CAPACITY
    own = {name: found[name] for name in Config.__struct_fields__}
    assert msgspec.convert(own, Config, strict=False) == policy.config
    assert msgspec.json.encode(found)


def test_the_examples_of_the_documentation_are_right():
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        for policy in config.parse(yaml.safe_load(example)).analyse[1:]:
            assert policy.settings.build(Context(policy.name)).name == policy.name
    body = re.search(r"-d '({.*?})'$", page, re.MULTILINE)[1]
    assert policy_of(**{name: value for name, value in json.loads(body).items() if name != "name"})
