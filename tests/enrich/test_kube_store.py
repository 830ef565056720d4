"""Objects that come, change and go, against a model that remembers all of it; bounds, zones and owners."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kube_running import addresses

from flowagent import names
from flowagent.addresses import address_words
from flowagent.enrich.kube_objects import POD_RANK, SERVICE_RANK, Address, Owner, Thing
from flowagent.enrich.kube_store import Store
from flowagent.enrich.kube_table import PARTS, KubeTable

HISTORY = 100


def thing(uid, *ips, kind="Pod", network="primary", rank=POD_RANK, **fields):
    held = tuple(Address(*address_words(ip), network, rank) for ip in ips)
    return Thing(kind, uid, "shop", f"name-{uid}", addresses=held, **fields)


def said(store, ip, at, part="name"):
    """What a table of the store says of an address at a time."""
    table = KubeTable.build(store.holdings(), ())
    return names.text(int(table.parts[part][table.addresses.find(addresses(ip), np.array([at], np.int64))][0]))


def test_an_address_is_held_from_the_start_until_it_is_given_up():
    store = Store(HISTORY, 1000)
    store.put(thing("a", "10.0.0.1", since_ns=10), 15)
    store.remove("a", 30)
    assert [said(store, "10.0.0.1", at) for at in (9, 10, 29, 30)] == ["", "name-a", "name-a", ""]
    store.expire(129)
    assert said(store, "10.0.0.1", 20) == "name-a"
    store.expire(130)
    assert (said(store, "10.0.0.1", 20), len(store)) == ("", 0)


def test_an_address_that_comes_later_is_held_from_then_on():
    store = Store(HISTORY, 1000)
    store.put(thing("a", "10.0.0.1", kind="Service", since_ns=1), 5)
    store.put(thing("a", "10.0.0.1", "10.0.0.2", kind="Service", since_ns=1), 20)
    assert [said(store, "10.0.0.2", at) for at in (19, 20)] == ["", "name-a"]
    store.put(thing("a", "10.0.0.2", kind="Service", since_ns=1), 30)
    assert [said(store, "10.0.0.1", at) for at in (2, 29, 30)] == ["name-a", "name-a", ""]


def test_a_pod_without_an_address_yet_has_had_its_first_one_since_it_started():
    store = Store(HISTORY, 1000)
    store.put(thing("a"), 5)
    store.put(thing("a", "10.0.0.1", since_ns=7), 20)
    assert [said(store, "10.0.0.1", at) for at in (6, 7)] == ["", "name-a"]


def test_a_pod_that_ended_gives_its_address_up_once():
    store = Store(HISTORY, 1000)
    pod = thing("a", "10.0.0.1", since_ns=1)
    store.put(pod, 5)
    over = msgspec.structs.replace(pod, is_over=True, until_ns=20)
    store.put(over, 30)
    store.put(msgspec.structs.replace(over, until_ns=21), 31)
    store.remove("a", 40)
    assert [said(store, "10.0.0.1", at) for at in (19, 20, 25)] == ["name-a", "", ""]
    assert len(store) == 1


@pytest.mark.parametrize(("until", "name"), [(950, "name-a"), (800, ""), (0, "")])
def test_a_pod_that_ended_before_it_was_seen(until, name):
    store = Store(HISTORY, 1000)
    store.put(thing("a", "10.0.0.1", since_ns=700, is_over=True, until_ns=until), 1000)
    assert (said(store, "10.0.0.1", 750), said(store, "10.0.0.1", 1000)) == (name, "")


def test_what_is_not_listed_any_more_is_gone():
    store = Store(HISTORY, 1000)
    for uid in ("a", "b"):
        store.put(thing(uid, f"10.0.0.{ord(uid)}"), 5)
    store.put(thing("s", "10.1.0.1", kind="Service"), 5)
    store.retain("Pod", {"b"}, 9)
    assert store.objects == {"Pod": 1, "Service": 1, "Node": 0}
    assert [said(store, ip, 9) for ip in ("10.0.0.97", "10.0.0.98", "10.1.0.1")] == ["", "name-b", "name-s"]


def test_nothing_new_makes_no_new_version():
    store = Store(HISTORY, 1000)
    store.put(thing("a", "10.0.0.1"), 5)
    version = store.version
    store.put(thing("a", "10.0.0.1"), 6)
    store.remove("nobody", 7)
    store.expire(8)
    assert store.version == version


def test_networks_of_a_pod_are_named_apart():
    store = Store(HISTORY, 1000)
    held = tuple(
        Address(*address_words(f"10.0.0.{n}"), net, 3) for n, net in ((1, "primary"), (2, "fast"), (3, "fast"))
    )
    store.put(Thing("Pod", "a", "shop", "p", addresses=held), 5)
    assert [said(store, f"10.0.0.{n}", 6, "network_name") for n in (1, 2, 3)] == ["primary", "fast", "fast"]
    assert len(store.holdings().parts["name"]) == 2


def test_a_pod_is_in_the_zone_of_its_node_whichever_comes_first():
    store = Store(HISTORY, 1000)
    store.put(thing("a", "10.0.0.1", host_name="n"), 5)
    store.put(Thing("Node", "n", "", "n", host_name="n", zone="east"), 6)
    store.put(thing("b", "10.0.0.2", host_name="n"), 7)
    assert [said(store, f"10.0.0.{n}", 8, "zone") for n in (1, 2)] == ["east", "east"]
    store.put(Thing("Node", "n", "", "n", host_name="n", zone="west"), 9)
    assert [said(store, f"10.0.0.{n}", 10, "zone") for n in (1, 2)] == ["west", "west"]


def test_owners_of_owners_are_named_when_they_are_known_for_past_pods_too():
    store = Store(HISTORY, 1000)
    owner = Owner("Job", "job-1", "j1")
    store.put(thing("a", "10.0.0.1", owner=owner), 5)
    store.put(thing("x", "10.0.0.9", owner=Owner("DaemonSet", "d", "d1")), 5)
    assert store.waiting == {"j1": ("shop", owner)}
    assert said(store, "10.0.0.1", 6, "owner_name") == "job-1"
    store.remove("a", 7)
    store.set_tops({"j1": ("CronJob", "job"), "j2": ("CronJob", "other")})
    store.put(thing("b", "10.0.0.2", owner=owner), 8)
    store.put(thing("c", "10.0.0.3", owner=Owner("Job", "job-2", "j2")), 8)
    assert store.waiting == {}
    found = [(said(store, f"10.0.0.{n}", at, "owner_type"), said(store, f"10.0.0.{n}", at, "owner_name"))
             for n, at in ((1, 6), (2, 9), (3, 9), (9, 9))]  # fmt: skip
    assert found == [("CronJob", "job"), ("CronJob", "job"), ("CronJob", "other"), ("DaemonSet", "d")]


def test_an_object_without_an_owner_is_its_own():
    store = Store(HISTORY, 1000)
    store.put(thing("a", "10.0.0.1"), 5)
    store.put(thing("s", "10.1.0.1", kind="Service"), 5)
    found = [[said(store, ip, 6, part) for part in ("owner_type", "owner_name")] for ip in ("10.0.0.1", "10.1.0.1")]
    assert found == [["Pod", "name-a"], ["Service", "name-s"]]


def test_the_oldest_past_holders_go_first_when_there_are_too_many():
    store = Store(HISTORY, 3)
    for n in range(1, 4):
        store.put(thing(f"p{n}", f"10.0.0.{n}", since_ns=1), 1)
    store.remove("p1", 2)
    store.remove("p2", 3)
    store.put(thing("p4", "10.0.0.4"), 4)
    assert (len(store), store.evictions) == (3, 1)
    assert [said(store, f"10.0.0.{n}", 1) for n in (1, 2, 3)] == ["", "name-p2", "name-p3"]


def test_what_finds_no_room_is_left_out_until_there_is_some():
    store = Store(HISTORY, 2)
    store.put(thing("a", "10.0.0.1", "10.0.0.2", "10.0.0.3"), 1)
    store.put(thing("b", "10.0.0.4"), 1)
    assert (len(store), store.evictions) == (2, 2)
    store.put(thing("c", "10.0.0.5"), 1)
    assert store.evictions == 3
    store.remove("a", 2)
    store.put(thing("b", "10.0.0.4"), 3)
    assert said(store, "10.0.0.4", 3) == "name-b"


STEP = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 4), st.lists(st.integers(0, 3), max_size=2, unique=True)),
    st.tuples(st.just("over"), st.integers(0, 4)),
    st.tuples(st.just("remove"), st.integers(0, 4)),
)


class Model:
    """Every holding there ever was, as [ip, since, until, uid, order]."""

    def __init__(self):
        self.all, self.now, self.over = [], {}, set()

    def put(self, uid, ips, now):
        old = self.now.get(uid, {})
        kept = {ip: old[ip] for ip in ips if ip in old}
        for ip, row in old.items():
            if ip not in kept:
                row[2] = now
        for ip in ips:
            if ip not in kept:
                kept[ip] = [ip, now, None, uid]
                self.all.append(kept[ip])
        self.now[uid] = kept

    def holders(self, ip, at):
        """Those that came last of the ones that held it."""
        held = [row for row in self.all if row[0] == ip and row[1] <= at and (row[2] is None or at < row[2])]
        last = max((row[1] for row in held), default=None)
        return {row[3] for row in held if row[1] == last}


@given(steps=st.lists(STEP, max_size=25))
def test_the_past_is_what_it_was(steps):
    store, model = Store(10**6, 10**6), Model()
    for now, step in enumerate(steps, 1):
        match step:
            case "put", uid, ips if uid not in model.over:
                store.put(thing(str(uid), *(f"10.0.0.{ip}" for ip in ips)), now)
                model.put(uid, ips, now)
            case "over", uid if uid in model.now and uid not in model.over:
                store.put(thing(str(uid), is_over=True), now)
                model.put(uid, [], now)
                model.over.add(uid)
            case "remove", uid:
                store.remove(str(uid), now)
                model.put(uid, [], now)
                del model.now[uid]
                model.over.discard(uid)
    for ip in range(4):
        for at in range(len(steps) + 2):
            holders = {f"name-{uid}" for uid in model.holders(ip, at)} or {""}
            assert said(store, f"10.0.0.{ip}", at) in holders


@given(steps=st.lists(STEP, max_size=25))
def test_what_is_forgotten_leaves_nothing_behind(steps):
    store = Store(5, 4)
    for now, step in enumerate(steps, 1):
        if step[0] == "put":
            store.put(thing(str(step[1]), *(f"10.0.0.{ip}" for ip in step[2]), network=str(step[1] % 2)), now)
        else:
            store.remove(str(step[1]), now)
        store.expire(now)
        assert len(store) <= 4
        found = store.holdings()
        assert set(found.parts) == set(PARTS)
        assert (found.entity < len(found.parts["name"])).all()
    store.retain("Pod", set(), 100)
    store.expire(10**6)
    assert len(store) == len(store._entities) == len(store._known) == 0
    assert not store._entities["uses"].any()


def test_a_service_gives_way_to_a_pod():
    store = Store(HISTORY, 1000)
    store.put(thing("a", "10.0.0.1", since_ns=5), 5)
    store.put(thing("s", "10.0.0.1", kind="Service", rank=SERVICE_RANK, since_ns=9), 9)
    assert said(store, "10.0.0.1", 10) == "name-a"
