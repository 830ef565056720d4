"""`flowagent demo`: an agent, and a small cluster that exports to it over the loopback and tells it its names.

    generate/scenario -> generate/messages -> UDP -> the agent <- names over HTTP <- generate/cluster

The cluster stands in for what the demo cannot have: pods and switches. All that the agent does with it is real: it
decodes NetFlow and IPFIX, learns a sampling rate, and takes names as it takes them from another agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Self

import numpy as np
from aiohttp import web

from flowagent import names
from flowagent.addresses import V4_MAPPED
from flowagent.clock import Clock
from flowagent.config import Config, kind
from flowagent.enrich import kube_snapshot
from flowagent.enrich.kube_objects import NODE_RANK, POD_RANK, PRIMARY, SERVICE_RANK
from flowagent.enrich.kube_table import PARTS, Holdings
from flowagent.enrich.kubernetes import SNAPSHOT_PATH
from flowagent.errors import ConfigError
from flowagent.generate import cluster
from flowagent.generate.cluster import Edge, Member, Node, Plan
from flowagent.generate.messages import Messages
from flowagent.generate.scenario import Scenario
from flowagent.sections import History, Window

STEP = 0.5
"""Seconds between exports."""
_TEMPLATES_EVERY = 40
"""Steps."""
_RANKS = {"Pod": POD_RANK, "Service": SERVICE_RANK, "Node": NODE_RANK}


class Demo:
    """Built before the agent, as it has a port to serve names on; `run` feeds the agent, inside `with`."""

    def __init__(self, clock: Clock, seed: int, rate: float) -> None:
        """About `rate` flow records a second."""
        if not 1 <= rate <= 1e6:
            raise ConfigError("--rate", f"{rate:g} is out of range; choose from 1 to 1000000 records a second")
        self._clock = clock
        self.plan = cluster.load()
        self.scenario = Scenario(self.plan, seed, rate, clock.now_ns())
        self._sock = socket.create_server(("127.0.0.1", 0))
        exporters: list[Node | Edge] = [*self.plan.nodes, self.plan.edge]
        now_ns = clock.now_ns()
        self._messages = [Messages(e.protocol, i + 1, e.sampling_rate, now_ns) for i, e in enumerate(exporters)]
        self._addresses = [e.exporter for e in exporters]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()

    def config(self, config: Config) -> Config:
        """The same, with what says the names of this cluster."""
        url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        wanted = [{"type": "kubernetes", "mode": "full", "cluster": "demo", "snapshot_url": url, "snapshot_every": 1}]
        labels = {name: list(group.networks) for name, group in self.plan.outside.items()}
        wanted.append({"type": "subnets", "labels": labels, "private": "cluster"})
        ports = {f"tcp/{port}": name for name, port in self.plan.ports.items()}
        wanted.append({"type": "services", "names": ports, "file": None})
        taken = {k.type for k in config.enrich}
        window = config.window
        if window == Window():  # a shorter one, so that what happens is soon seen, and what was dropped
            window = Window(every="5s", measures=(*window.measures, "dropped_bytes", "dropped_packets"))
        history = History(step="5s") if config.history == History() else config.history
        added = [kind("enrich", entry, "demo") for entry in wanted if entry["type"] not in taken]
        return config._replace(enrich=(*config.enrich, *added), window=window, history=history)

    async def run(self, ports: Sequence[int], stop: asyncio.Event, tell: Callable[[str], object]) -> None:
        """Play until `stop` is set; `tell` is told what happens when it does."""
        async with self._names():
            with contextlib.ExitStack() as stack:
                sockets = [
                    stack.enter_context(_exporter(a, ports[i % len(ports)])) for i, a in enumerate(self._addresses)
                ]
                began, number = self._clock.monotonic(), 0
                while not stop.is_set():
                    self._export(sockets, number, tell)
                    number += 1
                    late = self._clock.monotonic() - began - number * STEP
                    if late > 10 * STEP:  # the machine slept: what was missed is not made up for
                        began += late
                    await asyncio.sleep(max(0.0, -late))

    def _export(self, sockets: Sequence[socket.socket], number: int, tell: Callable[[str], object]) -> None:
        now_ns, seconds = self._clock.now_ns(), number * STEP
        for _, event, elapsed in self.scenario.happening(seconds):
            if elapsed < STEP:
                tell(f"{clock_text(seconds)}  {event.says.format(of=self.scenario.subject(event, seconds))}")
        exports = self.scenario.step(seconds, STEP, now_ns)
        for sock, messages, rows in zip(sockets, self._messages, exports, strict=True):
            if number % _TEMPLATES_EVERY == 0:
                _send(sock, messages.templates(now_ns))
            _send(sock, messages.flows(rows, now_ns))

    @contextlib.asynccontextmanager
    async def _names(self) -> AsyncIterator[None]:
        """Serve what names there are, as an agent does."""

        async def answer(request: web.Request) -> web.Response:
            data, etag = kube_snapshot.encode(holdings(self.scenario.cluster.members))
            if request.headers.get("If-None-Match") == etag:
                return web.Response(status=304, headers={"ETag": etag})
            return web.Response(body=data, content_type=kube_snapshot.CONTENT_TYPE, headers={"ETag": etag})

        app = web.Application()
        app.router.add_get(SNAPSHOT_PATH, answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.SockSite(runner, self._sock).start()
            yield
        finally:
            await runner.cleanup()


def outlook(plan: Plan) -> str:
    """What will happen when, for people."""
    lines = [
        f"  {clock_text(event.at)}  {event.says.format(of=event.of[0])}"
        for event in sorted(plan.story, key=lambda e: e.at)
    ]
    return "\n".join([*lines, f"  {clock_text(plan.seconds)}  and from the beginning"])


def clock_text(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def holdings(members: Sequence[Member]) -> Holdings:
    """What the enricher `kubernetes` would have learned from the API server."""
    texts = [_parts(member) for member in members]
    low = np.array([member.address for member in members], np.uint64) | np.uint64(V4_MAPPED)
    return Holdings(
        np.stack([np.zeros(len(members), np.uint64), low]),
        np.array([member.since_ns for member in members], np.int64),
        np.array([member.until_ns for member in members], np.int64),
        np.arange(len(members), dtype=np.int32),
        np.array([_RANKS[member.kind] for member in members], np.uint8),
        {part: names.codes(one[part] for one in texts) for part in PARTS},
    )


def _parts(member: Member) -> dict[str, str]:
    node = member.node
    return {
        "name": member.name, "namespace": member.namespace, "type": member.kind,
        "owner_name": member.owner, "owner_type": member.owner_kind,
        "host_name": node.name if node else "", "host_ip": node.address if node else "",
        "zone": node.zone if node else "", "network_name": PRIMARY,
    }  # fmt: skip


def _exporter(address: str, port: int) -> socket.socket:
    """A socket of an exporter at this loopback address; at 127.0.0.1 where the system has no other."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.suppress(OSError):
        sock.bind((address, 0))
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def _send(sock: socket.socket, datagrams: Iterable[bytes]) -> None:
    for datagram in datagrams:
        with contextlib.suppress(OSError):  # as an exporter: what cannot be sent is lost, and the sequence tells
            sock.send(datagram)
