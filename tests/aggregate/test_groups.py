"""Group numbers: steady while a key is seen, bounded, and given to others once nobody needs them."""

import time
import tracemalloc

import numpy as np
from flow_rows import batch_of, flow_rows, key
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate import groups as groups_module
from flowagent.aggregate.groups import MAX_GROUPS, NUMBER, GroupNumbers
from flowagent.batch import Batch
from flowagent.grouping import Groups


def ports(*values):
    return batch_of([{"dst_port": port} for port in values])


def numbers(limit=3, memory=2):
    return GroupNumbers(("dst_port",), limit, memory)


def test_without_columns_all_rows_are_one_group():
    n = GroupNumbers((), 50, 2)
    assert n.numbers(ports(1, 2)) is None
    assert n.size == 1
    assert n.keys() == [()]


def test_each_key_has_a_number_which_stays():
    n = numbers()
    first = n.numbers(ports(53, 443, 53, None)).tolist()
    assert first[0] == first[2]
    assert sorted(set(first)) == [0, 1, 2]
    assert n.numbers(ports(None, 443)).tolist() == [first[3], first[1]]
    assert [n.keys()[number] for number in first] == [(53,), (443,), (53,), (None,)]
    assert n.folded == 0


def test_beyond_the_limit_keys_are_folded_and_counted_once_for_each_batch():
    n = numbers(limit=2)
    found = n.numbers(ports(1, 2, 3, 4, 3)).tolist()
    assert sum(number == n.other for number in found) >= 2
    assert n.folded == 2
    assert n.size == 3
    assert n.keys()[n.other] is None
    n.numbers(ports(9))
    assert n.folded == 3


def test_looking_remembers_nothing():
    n = numbers(limit=2)
    assert n.numbers(ports(1, 2), assign=False).tolist() == [n.other] * 2
    assert list(n.keys()) == [None] * 3
    assert n.folded == 0
    n.numbers(ports(1))
    assert n.numbers(ports(2, 1), assign=False).tolist() == [n.other, 0]


def test_a_number_goes_to_another_key_after_so_many_periods():
    n = numbers(limit=1, memory=2)
    n.numbers(ports(1))
    for _ in range(2):
        n.next_period()
        assert n.numbers(ports(2)).tolist() == [n.other]
    n.next_period()
    assert n.numbers(ports(2)).tolist() == [0]
    assert list(n.keys()) == [(2,), None]
    assert n.numbers(ports(1)).tolist() == [n.other]


def test_a_key_that_is_seen_keeps_its_number():
    n = numbers(limit=1, memory=2)
    for _ in range(9):
        assert n.numbers(ports(2, 1) if n.keys()[0] else ports(1)).tolist()[-1] == 0
        n.next_period()
    assert n.keys()[0] == (1,)


def test_looking_does_not_keep_a_number():
    n = numbers(limit=1, memory=1)
    n.numbers(ports(1))
    n.next_period()
    n.numbers(ports(1), assign=False)
    n.next_period()
    assert n.numbers(ports(2)).tolist() == [0]


def test_no_rows():
    assert numbers().numbers(Batch({})).tolist() == []


class Model:
    """The same with one dict and no arrays."""

    def __init__(self, limit, memory):
        self.limit, self.memory, self.period = limit, memory, 0
        self.used = {}

    def see(self, keys):
        """Keys that have a number now."""
        for k in keys & self.used.keys():
            self.used[k] = self.period
        return keys & self.used.keys()

    def evictable(self):
        return {k for k, used in self.used.items() if self.period - used > self.memory}


steps = st.lists(st.lists(st.integers(0, 6), max_size=6) | st.none(), max_size=30)


@given(steps, st.integers(1, 4), st.integers(1, 3))
def test_numbers_are_steady_unique_and_used_as_far_as_there_are_any(steps, limit, memory):
    n, model = numbers(limit, memory), Model(limit, memory)
    for step in steps:
        if step is None:
            n.next_period()
            model.period += 1
            continue
        if not step:
            continue
        before = {k: i for i, k in enumerate(n.keys()) if k is not None}
        seen = {(port,) for port in step}
        known = model.see(seen)
        free = limit - len(model.used) + len(model.evictable())
        found = dict(zip([(port,) for port in step], n.numbers(ports(*step)).tolist(), strict=True))
        assert all(found[k] == before[k] for k in known)
        got = {k for k in seen - known if found[k] != n.other}
        assert len(got) == min(len(seen - known), free)
        taken = [found[k] for k in known | got]
        assert len(set(taken)) == len(taken)
        for k in got:
            if n.keys()[found[k]] == k and found[k] in before.values():
                (old,) = [b for b, i in before.items() if i == found[k]]
                assert old in model.evictable()
                del model.used[old]
            model.used[k] = model.period
        now = {k: i for i, k in enumerate(n.keys()) if k is not None}
        assert now.keys() == model.used.keys() == n._number.keys()
        assert {k: now[k] for k in known | got} == {k: found[k] for k in known | got}


@given(flow_rows(), st.sampled_from([("src_addr",), ("proto", "vlan"), ("sampling_rate", "dst_addr")]))
def test_rows_of_one_key_have_one_number(rows, names):
    n = GroupNumbers(names, 1000, 2)
    found = n.numbers(batch_of(rows)).tolist()
    pairs = {(key(row, names), number) for row, number in zip(rows, found, strict=True)}
    assert len(pairs) == len({k for k, _ in pairs}) == len({number for _, number in pairs})


def test_one_key_that_grouping_found_twice_has_one_number(monkeypatch):
    """As may come of equal hashes, see `Groups`."""
    monkeypatch.setattr(groups_module, "groups_of", lambda *_: Groups(np.arange(3), np.arange(3)))
    monkeypatch.setattr(groups_module, "distinct", lambda batch, _: batch)
    n = numbers(limit=3, memory=1)
    for port in (1, 3, 5):
        found = n.numbers(ports(port, port + 1, port)).tolist()
        assert found[0] == found[2] != found[1]
        assert n.numbers(ports(port, port + 1, port)).tolist() == found
        for _ in range(2):
            n.next_period()
    assert [k for k in list(n.keys()) if k] == [(5,), (6,)]


def test_a_flood_of_groups_costs_little_time_and_no_memory():
    n = GroupNumbers(("src_addr",), 50, 5)
    rng = np.random.default_rng(3)

    def flood():
        return Batch({"src_addr": rng.integers(0, 2**63, (2, 100_000), np.uint64)})

    n.numbers(flood())
    tracemalloc.start()
    spent = 0.0
    for _ in range(5):
        batch = flood()
        began = time.process_time()
        n.numbers(batch)
        spent += time.process_time() - began
        n.next_period()
    del batch
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50_000
    assert spent < 1.0  # some 25 ms each; one by one in Python it would be ten times that
    assert n.folded == 6 * 100_000 - 50


def test_a_number_fits_into_its_type():
    assert GroupNumbers(("proto",), MAX_GROUPS, 1).size - 1 <= np.iinfo(NUMBER).max
