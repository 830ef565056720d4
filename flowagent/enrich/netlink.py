"""What the kernel says about this host's interfaces, by netlink: once in full, then as it changes.

It is asked in a thread of its own with a loop of its own: to read a message takes a third of a millisecond, and there
may be thousands at once. Where messages were lost (ENOBUFS), nothing that is known can be trusted; then `follow`
ends, and whoever called it begins again with all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import AsyncIPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl import (  # type: ignore[import-untyped]
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
)

from flowagent.errors import FlowagentError

MAX_LINKS, MAX_ADDRESSES, MAX_NEIGHBOURS = 16_384, 16_384, 65_536
_APART_SECONDS = 0.2
"""Between what is told."""
_UNSPEC, _IP = 0, (2, 10)
"""Families of addresses. Messages about the ports of bridges come as links, too, with a family of their own."""
_RUNNING = 0x40
_SPEEDS = frozenset({"", "bond", "team", "vlan"})
"""Kinds whose speed means something; those of veth, tap and bridge are made up."""
_SYS = Path("/sys/class/net")


class NetlinkLostError(FlowagentError):
    """The kernel could not be asked, or told more than could be read."""


class Link(NamedTuple):
    """An interface."""

    ifindex: int
    name: str
    kind: str = ""
    """As `ip -d link` says: veth, bridge, openvswitch; empty for hardware."""
    mac: int = 0
    is_up: bool = False
    speed: int | None = None
    """Bytes a second, where that is known and means something."""
    peer: int | None = None
    """Of a veth the index of its other end, in the namespace `netns`; that of a vlan is the interface it lies on."""
    netns: int | None = None
    """The kernel's number of that namespace, where it is another one."""


class Known(NamedTuple):
    """What there is; `lost` are things for which there was no room."""

    links: tuple[Link, ...]
    addresses: tuple[str, ...]
    neighbours: tuple[tuple[str, int], ...]
    """Addresses and their MAC addresses."""
    lost: int = 0


class State:
    """What messages add up to."""

    def __init__(self) -> None:
        self._links: dict[int, Link] = {}
        self._addresses: set[tuple[int, str]] = set()
        self._neighbours: dict[tuple[int, str], int] = {}
        self._lost = 0

    def take(self, message: Any) -> bool:
        """Take a message in; whether it may have changed anything."""
        event = message["event"]
        if event.endswith("LINK") and message["family"] == _UNSPEC:
            self._set(self._links, message["index"], _link(message) if event == "RTM_NEWLINK" else None, MAX_LINKS)
        elif event.endswith("ADDR") and message["family"] in _IP:
            self._take_address(message)
        elif event.endswith("NEIGH") and message["family"] in _IP:
            mac = message.get("lladdr") if event == "RTM_NEWNEIGH" else None
            key = message["ifindex"], str(message.get("dst"))
            self._set(self._neighbours, key, _mac(mac) or None, MAX_NEIGHBOURS)
        else:
            return False
        return True

    def _take_address(self, message: Any) -> None:
        # Of a point-to-point interface `address` is the other end's.
        key = message["index"], str(message.get("local") or message.get("address"))
        if message["event"] != "RTM_NEWADDR":
            self._addresses.discard(key)
        elif key in self._addresses or len(self._addresses) < MAX_ADDRESSES:
            self._addresses.add(key)
        else:
            self._lost += 1

    def _set(self, things: dict[Any, Any], key: Any, thing: Any, most: int) -> None:
        if thing is None:
            things.pop(key, None)
        elif key in things or len(things) < most:
            things[key] = thing
        else:
            self._lost += 1

    def known(self) -> Known:
        links = tuple(link._replace(speed=_speed(link)) for link in self._links.values())
        addresses = tuple(address for _, address in self._addresses)
        neighbours = tuple((address, mac) for (_, address), mac in self._neighbours.items())
        return Known(links, addresses, neighbours, self._lost)


class Netlink:
    """Follows the kernel once, from one thread; `tell` is called there."""

    def __init__(self, tell: Callable[[Known], object], *, neighbours: bool) -> None:
        self._tell, self._neighbours = tell, neighbours
        self._state = State()
        self._is_due = self._stopped = False
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def follow(self) -> None:
        """Until stopped; raises NetlinkLostError."""
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._follow())

    def stop(self) -> None:
        """May be called from any thread, and more than once."""
        self._stopped = True
        if self._running is not None:
            loop, task = self._running
            with contextlib.suppress(RuntimeError):  # it ended by itself
                loop.call_soon_threadsafe(task.cancel)

    async def _follow(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running = asyncio.get_running_loop(), task
        groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
        try:
            async with AsyncIPRoute() as netlink:
                await netlink.bind(groups | (RTMGRP_NEIGH if self._neighbours else 0))
                await self._ask(netlink)
                while not self._stopped:
                    async for message in netlink.get():
                        if self._state.take(message):
                            self._tell_soon()
        except (OSError, NetlinkError) as error:
            raise NetlinkLostError(f"{type(error).__name__}: {error}") from error

    async def _ask(self, netlink: Any) -> None:
        questions = [netlink.get_links, netlink.get_addr, *[netlink.get_neighbours] * self._neighbours]
        for question in questions:
            async for message in await question():
                self._state.take(message)
        self._tell(self._state.known())

    def _tell_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(_APART_SECONDS, self._tell_now)

    def _tell_now(self) -> None:
        self._is_due = False
        if not self._stopped:
            self._tell(self._state.known())


def _link(message: Any) -> Link:
    state = message.get("operstate")
    return Link(
        ifindex=message["index"],
        name=message.get("ifname") or "",
        kind=message.get(("linkinfo", "kind")) or "",
        mac=_mac(message.get("address")),
        # Loopback, tun and others have no state but their flags.
        is_up=state == "UP" or (state in (None, "UNKNOWN") and bool(message["flags"] & _RUNNING)),
        peer=message.get("link"),
        netns=message.get("link_netnsid"),
    )


def _mac(text: str | None) -> int:
    """Addresses of other lengths, such as those of tunnels, are none."""
    return int(text.replace(":", ""), 16) if text and len(text) == 17 else 0


def _speed(link: Link) -> int | None:
    if link.kind not in _SPEEDS:
        return None
    try:
        directory = _SYS / link.name
        # What is mounted there may be of another namespace.
        if int((directory / "ifindex").read_text()) != link.ifindex:
            return None
        megabits = int((directory / "speed").read_text())
    except (OSError, ValueError):
        return None
    return megabits * 125_000 if 0 < megabits < 1 << 31 else None
