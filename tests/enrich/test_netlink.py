"""What the kernel says about interfaces, message by message, and what is there on this machine."""

import contextlib
import socket
import threading

import pytest

from flowagent.enrich import netlink
from flowagent.enrich.netlink import Link, Netlink, NetlinkLostError, State

UNSPEC, BRIDGE, V4, V6 = 0, 7, 2, 10


def link(event="RTM_NEWLINK", index=5, name="eth0", family=UNSPEC, **more):
    return {"event": event, "family": family, "index": index, "ifname": name, "flags": 0, "operstate": "UP"} | more


def address(text, event="RTM_NEWADDR", index=5, **more):
    return {"event": event, "family": V6 if ":" in text else V4, "index": index, "address": text} | more


def neighbour(text, mac, event="RTM_NEWNEIGH", **more):
    return {"event": event, "family": V4, "ifindex": 5, "dst": text, "lladdr": mac} | more


def after(*messages):
    state = State()
    for message in messages:
        state.take(message)
    return state.known()


def test_an_interface_is_what_was_said_of_it_last():
    known = after(link(), link(name="lan0", address="02:00:00:00:00:01"), link(index=6, name="x"))
    assert known.links == (Link(5, "lan0", mac=0x020000000001, is_up=True), Link(6, "x", is_up=True))
    assert after(link(), link("RTM_DELLINK")).links == ()
    assert after(link("RTM_DELLINK")).links == ()


def test_leaving_a_bridge_is_not_the_end_of_an_interface():
    assert len(after(link(), link("RTM_DELLINK", family=BRIDGE)).links) == 1
    assert State().take(link(family=BRIDGE)) is False


def test_the_other_end_of_a_veth_is_known():
    (veth,) = after(link(link=9, link_netnsid=3) | {("linkinfo", "kind"): "veth"}).links
    assert (veth.kind, veth.peer, veth.netns) == ("veth", 9, 3)


@pytest.mark.parametrize(
    ("state", "flags", "is_up"),
    [("UP", 0, True), ("DOWN", 0x41, False), ("LOWERLAYERDOWN", 0x41, False), ("UNKNOWN", 0x41, True),
     ("UNKNOWN", 1, False), (None, 0x41, True), (None, 0, False)],
)  # fmt: skip
def test_what_works_is_up(state, flags, is_up):
    assert after(link(operstate=state, flags=flags)).links[0].is_up is is_up


def test_addresses_come_and_go():
    known = after(
        address("192.0.2.1"), address("2001:db8::1"), address("192.0.2.1", index=6),
        address("10.0.0.2", local="10.0.0.1"), address("192.0.2.1", "RTM_DELADDR"),
    )  # fmt: skip
    # The other end of a point-to-point interface is somebody else's.
    assert sorted(known.addresses) == ["10.0.0.1", "192.0.2.1", "2001:db8::1"]


def test_neighbours_have_mac_addresses_or_are_none():
    known = after(
        neighbour("192.0.2.7", "02:00:00:00:00:07"), neighbour("192.0.2.8", None), neighbour("192.0.2.9", "0a:00"),
        neighbour("192.0.2.6", "02:00:00:00:00:06"), neighbour("192.0.2.6", None),
        neighbour("192.0.2.5", "02:00:00:00:00:05"), neighbour("192.0.2.5", None, "RTM_DELNEIGH"),
        neighbour("192.0.2.4", "02:00:00:00:00:04", family=BRIDGE),
    )  # fmt: skip
    assert known.neighbours == (("192.0.2.7", 0x020000000007),)


def test_everything_has_a_bound(monkeypatch):
    for name in ("MAX_LINKS", "MAX_ADDRESSES", "MAX_NEIGHBOURS"):
        monkeypatch.setattr(netlink, name, 2)
    numbers = range(1, 6)
    known = after(
        *(link(index=i, name=f"x{i}") for i in numbers), link(index=1, name="new"),
        *(address(f"192.0.2.{i}") for i in numbers), address("192.0.2.1"),
        *(neighbour(f"192.0.2.{i}", "02:00:00:00:00:01") for i in numbers),
    )  # fmt: skip
    assert [k.name for k in known.links] == ["new", "x2"]
    assert (len(known.addresses), len(known.neighbours), known.lost) == (2, 2, 9)


def sysfs(path, name, ifindex, speed):
    (path / name).mkdir()
    (path / name / "ifindex").write_text(f"{ifindex}\n")
    (path / name / "speed").write_text(f"{speed}\n")


@pytest.mark.parametrize(
    ("kind", "said", "speed"),
    [("", 10_000, 1_250_000_000), ("bond", 2000, 250_000_000), ("", -1, None), ("", 4294967295, None),
     ("veth", 10_000, None), ("tun", 10, None), ("bridge", 10_000, None)],
)  # fmt: skip
def test_speeds_are_known_where_they_mean_something(tmp_path, monkeypatch, kind, said, speed):
    monkeypatch.setattr(netlink, "_SYS", tmp_path)
    sysfs(tmp_path, "eth0", 5, said)
    assert after(link() | {("linkinfo", "kind"): kind}).links[0].speed == speed


def test_an_interface_of_that_name_elsewhere_has_another_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(netlink, "_SYS", tmp_path)
    sysfs(tmp_path, "eth0", 6, 1000)
    assert after(link()).links[0].speed is None


@contextlib.contextmanager
def following(*, neighbours=False):
    """What a Netlink told first, and itself."""
    told, done = [], threading.Event()
    one = Netlink(lambda known: (told.append(known), done.set()), neighbours=neighbours)
    thread = threading.Thread(target=one.follow)
    thread.start()
    try:
        assert done.wait(10)
        yield told, one
    finally:
        one.stop()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("neighbours", [False, True])
def test_the_kernel_is_asked(neighbours):
    with following(neighbours=neighbours) as (told, _):
        known = told[0]
    assert {k.ifindex: k.name for k in known.links} == dict(socket.if_nameindex())
    assert "127.0.0.1" in known.addresses


def test_it_can_be_stopped_at_any_time():
    one = Netlink(lambda known: None, neighbours=False)
    one.stop()
    one.follow()
    one.stop()


def test_a_failure_is_told(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(105, "No buffer space available")

    monkeypatch.setattr(netlink.AsyncIPRoute, "bind", fail)
    with pytest.raises(NetlinkLostError, match="No buffer space"):
        Netlink(lambda known: None, neighbours=False).follow()
