"""A policy's sketches, read back by the library whose formats they have."""

import re

import datasketches as ds
import numpy as np
import pytest

from flowagent.aggregate.policy import Config, Policy, Ranking, Spread
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.errors import ConfigError

PAIR = ("src_addr", "dst_port")
BOTH = Config(
    top=(Ranking(of=PAIR), Ranking(of="dst_port", by="packets")), distinct=("dst_port", PAIR),
    entropy=(Spread(of="src_addr", by="records"),), every="10s",
)  # fmt: skip


def policy_of(config, *batches, name="p"):
    """A policy with one period that took these batches, and which is under way."""
    policy = config.build(Context(name))
    policy.tick(0)
    for batch in batches:
        policy.process(batch, batch, 0)
    return policy


def rows(ports, octets=1, hosts=(1,), **columns):
    """Records to these ports, of hosts 10.0.0.x in turn."""
    n = len(ports)
    low = np.uint64(0xFFFF_0A00_0000) + np.resize(np.array(hosts, np.uint64), n)
    values = {
        "src_addr": np.stack([np.zeros(n, np.uint64), low]),
        "dst_port": np.asarray(ports, np.uint16),
        "bytes": np.broadcast_to(np.asarray(octets, np.uint64), n),
        "packets": np.full(n, 3, np.uint64),
        **{name: np.broadcast_to(np.asarray(value), n) for name, value in columns.items()},
    }
    return Batch(values)


def read_hll(data):
    return ds.hll_sketch.deserialize(data)


def read_frequent(data):
    return ds.frequent_strings_sketch.deserialize(data)


def items_of(sketch):
    return {item: low for item, _, low, _ in sketch.get_frequent_items(ds.frequent_items_error_type.NO_FALSE_NEGATIVES)}


def test_distinct_values_are_counted_by_the_library_as_by_the_policy():
    policy = policy_of(BOTH, rows(np.arange(5000)))
    sketch = read_hll(policy.sketch("hll", 0, 0, ("dst_port",), "bytes", None))
    ours = policy.result(0, 0)["groups"][0]["distinct"][0]["estimate"]
    assert sketch.get_estimate() == pytest.approx(ours, rel=0.02)
    assert sketch.get_estimate() == pytest.approx(5000, rel=0.08)


def test_sketches_of_two_agents_count_together():
    union = ds.hll_union(12)
    for first in (0, 2000):
        policy = policy_of(BOTH, rows(np.arange(first, first + 4000)), name=f"agent {first}")
        union.update(read_hll(policy.sketch("hll", 0, 0, PAIR, "bytes", None)))
    assert union.get_estimate() == pytest.approx(6000, rel=0.08)


def test_frequent_items_are_the_table():
    policy = policy_of(BOTH, rows([443, 443, 53], [10, 20, 5], hosts=(1, 2, 1)))
    sketch = read_frequent(policy.sketch("frequent", 0, 0, PAIR, "bytes", None))
    assert items_of(sketch) == {"10.0.0.1,443": 10, "10.0.0.2,443": 20, "10.0.0.1,53": 5}
    assert sketch.total_weight == 35
    assert sketch.get_upper_bound("other") == 0


def test_the_amount_chooses_the_table_and_those_of_entropies_count_too():
    policy = policy_of(BOTH, rows([443, 443, 53], 99))
    assert items_of(read_frequent(policy.sketch("frequent", 0, 0, ("dst_port",), "packets", None))) == {
        "443": 6,
        "53": 3,
    }
    assert items_of(read_frequent(policy.sketch("frequent", 0, 0, ("src_addr",), "records", None))) == {"10.0.0.1": 3}


def test_what_is_unknown_is_an_empty_text():
    valid = {"dst_port": np.array([True, False])}
    batch = rows([443, 0], 7)
    policy = policy_of(BOTH, Batch(batch.columns, valid=valid))
    sketch = read_frequent(policy.sketch("frequent", 0, 0, PAIR, "bytes", None))
    assert items_of(sketch) == {"10.0.0.1,443": 7, "10.0.0.1,": 7}


def test_bounds_hold_where_keys_were_dropped_and_sums_are_no_integers():
    rng = np.random.default_rng(5)
    config = Config(top=(Ranking(of="dst_port"),), memory="200kB", every="10s")
    ports, octets = rng.zipf(1.3, 60_000) % 60_000, rng.integers(1, 1000, 60_000)
    batch = rows(ports, octets, sampling_rate=1.37)
    policy = policy_of(config, *(batch.rows(start, start + 5000) for start in range(0, 60_000, 5000)))
    sketch = read_frequent(policy.sketch("frequent", 0, 0, ("dst_port",), "bytes", None))
    truth = np.bincount(ports, octets * 1.37, 60_000)
    assert policy.result(0, 0)["groups"][0]["top"][0]["error"] > 0
    assert sketch.total_weight == pytest.approx(truth.sum(), abs=1)
    for port, true in enumerate(truth.tolist()):
        assert sketch.get_lower_bound(str(port)) <= true + 1e-6
        assert sketch.get_upper_bound(str(port)) >= true - 1e-6


GROUPED = Config(group_by=("proto", "vlan"), top=(Ranking(of="dst_port"),), distinct=("dst_port",), max_groups=2)


def grouped():
    """Two groups, and one that found no place."""
    return policy_of(
        GROUPED,
        rows(np.arange(10), 5, proto=np.uint8(6), vlan=np.uint16(7)),
        rows(np.arange(30), 5, proto=np.uint8(17)),
        rows(np.arange(50), 5, proto=np.uint8(1)),
    )


@pytest.mark.parametrize(("group", "ports"), [("proto=6,vlan=7", 10), ("proto=17,vlan=", 30)])
def test_each_group_has_sketches(group, ports):
    policy = grouped()
    sketch = read_frequent(policy.sketch("frequent", 0, 0, ("dst_port",), "bytes", group))
    assert items_of(sketch) == {str(port): 5 for port in range(ports)}
    assert sketch.total_weight == 5 * ports
    assert read_hll(policy.sketch("hll", 0, 0, ("dst_port",), "", group)).get_estimate() == pytest.approx(
        ports, rel=0.1
    )


def test_the_other_groups_are_counted_but_have_no_table():
    policy = grouped()
    assert read_hll(policy.sketch("hll", 0, 0, ("dst_port",), "", "other")).get_estimate() == pytest.approx(50, rel=0.1)
    with pytest.raises(ConfigError, match="many groups together") as caught:
        policy.sketch("frequent", 0, 0, ("dst_port",), "bytes", "other")
    assert caught.value.path == "group"


def test_groups_have_the_labels_of_the_metrics():
    policy = grouped()
    family = next(f for f in policy.families() if f.name == "flowagent_policy_bytes")
    labels = {group for _, group in family.samples}
    assert labels == {"proto=6,vlan=7", "proto=17,vlan=", "other"}
    assert all(policy.sketch("hll", 0, 0, ("dst_port",), "", label) for label in labels)


def test_a_group_that_got_its_number_late():
    """Its keys from before are in the table, its totals are with the others."""
    policy = policy_of(GROUPED, *(rows([1, 2], 5, proto=np.uint8(proto)) for proto in (6, 17, 1)))
    policy._numbers._number = {(1, None): 0, (17, None): 1}
    policy._numbers._key[0] = (1, None)
    policy._live.totals["bytes"][0] = 3
    sketch = read_frequent(policy.sketch("frequent", 0, 0, ("dst_port",), "bytes", "proto=1,vlan="))
    assert sketch.total_weight == 10


def test_periods_are_merged():
    policy = policy_of(BOTH, rows([1, 2], 5))
    policy.tick(10 * SECOND)
    policy.process(*[rows([2, 3], 7)] * 2, 11 * SECOND)
    sketch = read_frequent(policy.sketch("frequent", 0, 1, PAIR, "bytes", None))
    assert items_of(sketch) == {"10.0.0.1,1": 5, "10.0.0.1,2": 12, "10.0.0.1,3": 7}
    assert read_hll(policy.sketch("hll", 0, 1, PAIR, "", None)).get_estimate() == pytest.approx(3, abs=0.1)
    assert policy.sketch("hll", 1, 2, PAIR, "", None) is None


def test_a_period_without_records():
    policy = policy_of(BOTH)
    assert read_frequent(policy.sketch("frequent", 0, 0, PAIR, "bytes", None)).is_empty()
    assert read_hll(policy.sketch("hll", 0, 0, PAIR, "", None)).is_empty()


def test_sums_beyond_the_format_are_refused():
    policy = policy_of(BOTH, rows([1], 2**63))
    with pytest.raises(ConfigError, match="too large"):
        policy.sketch("frequent", 0, 0, PAIR, "bytes", None)


@pytest.mark.parametrize(
    ("config", "arguments", "path", "text"),
    [
        (BOTH, ("hll", ("src_addr",), "bytes", None), "of", "'src_addr' is not measured; what is: dst_port; src_addr,"),
        (BOTH, ("hll", (), "bytes", None), "of", "'' is not measured"),
        (BOTH, ("frequent", PAIR, "packets", None), "of", "'src_addr,dst_port by packets' is not measured"),
        (BOTH, ("frequent", PAIR, "weight", None), "of", "what is: src_addr,dst_port by bytes; dst_port by"),
        (Config(), ("frequent", PAIR, "bytes", None), "of", "what is: nothing of the kind"),
        (BOTH, ("hll", PAIR, "bytes", "proto=6"), "group", "tells no groups apart"),
        (GROUPED, ("hll", ("dst_port",), "", None), "group", "is missing; 0 are, such as none"),
        (GROUPED, ("hll", ("dst_port",), "", "proto=6"), "group", "'proto=6' is not there; 0 are"),
    ],
)  # fmt: skip
def test_what_there_is_not(config, arguments, path, text):
    kind, of, by, group = arguments
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        policy_of(config).sketch(kind, 0, 0, of, by, group)
    assert caught.value.path == path


def test_groups_that_there_are_are_named_in_the_error():
    with pytest.raises(ConfigError, match=r"3 are, such as proto=6,vlan=7; proto=17,vlan=; other"):
        grouped().sketch("hll", 0, 0, ("dst_port",), "", "proto=9")


def test_before_the_first_period_there_is_none():
    assert Policy(BOTH, "p").sketch("hll", 0, 0, PAIR, "", None) is None
