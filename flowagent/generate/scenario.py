"""What goes on in the demo's cluster: flows by waves and by a story, step by step.

Everything follows from the seed and the number of the step; only times are the clock's. Who sends is random, how much
is known: each step's rows are made at once, column by column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array
from flowagent.clock import SECOND
from flowagent.generate.cluster import Cluster, Event, Member, Plan
from flowagent.generate.traffic import SYN_ONLY, TCP, UDP, Columns

_DNS = 53
_KEEP_NS = 600 * SECOND
_READY_SECONDS = 3.0
"""How long a new pod has its name before it has traffic."""
_SEGMENT, _HEADERS, _HANDSHAKE = 1448, 52, 3
_RESET = 0x14
_FLAGS = 0x1B
_LARGEST = 1_000_000_000
_UPLINK = 2


class _Talks(NamedTuple):
    """Columns of the plan's edges, a row each; slots of both sides are `members[first : first + size]`."""

    first: Array
    size: Array
    rate: Array
    bytes: Array
    """(2, e) float64: there and back."""
    port: Array
    wave: Array
    """(3, e) float64: seconds, depth, phase."""


class Scenario:
    """Plays the story; `step` gives what was exported since the last one."""

    def __init__(self, plan: Plan, seed: int, records_per_second: float, now_ns: int) -> None:
        """About so many flow records a second, on average."""
        self._rng = np.random.default_rng(seed)
        self.plan = plan
        self.cluster = Cluster(plan, self._rng, now_ns)
        self._members, self._talks = _talks(plan, self.cluster)
        self._factor = records_per_second / (2 * float(self._talks.rate.sum()))
        self._busy = [self._edges_of(event) for event in plan.story]
        self._waiting: list[tuple[float, int, Member]] = []

    def _edges_of(self, event: Event) -> Array:
        """(e,) bool: edges that a spike is about: what its parties ask, and what its partners are asked."""
        talks = self._talks
        source, destination = self._members[talks.first]
        asking = [self.cluster.slots(name)[0] for name in event.of if name in self.cluster.parties]
        asked = [self.cluster.slots(name)[0] for name in event.partners]
        busy: Array = np.isin(source, asking) | np.isin(destination, asked)
        return busy & (event.kind == "spike")

    def happening(self, seconds: float) -> Iterator[tuple[int, Event, float]]:
        """The events under way: number, event, seconds since it began."""
        at = seconds % self.plan.seconds
        for i, event in enumerate(self.plan.story):
            if event.at <= at < event.at + event.seconds:
                yield i, event, at - event.at

    def subject(self, event: Event, seconds: float) -> str:
        """Whom an event is about; a deploy is another workload's in each round."""
        return event.of[int(seconds // self.plan.seconds) % len(event.of)]

    def step(self, seconds: float, length: float, now_ns: int) -> list[Columns]:
        """The flows that end in the `length` seconds before `seconds`, for each node and then for the edge router.

        Columns of `Traffic.draw` that an exporter needs, and `dropped_packets`, `dropped_bytes`.
        """
        flows = self._talk(seconds, length)
        lost = np.zeros(len(self.plan.nodes) + 1)
        for _, event, elapsed in self.happening(seconds):
            if event.kind == "deploy" and elapsed < length:
                self._deploy(self.subject(event, seconds), seconds, event.seconds, now_ns)
            elif event.kind == "scan":
                flows = _joined(flows, self._scan(event, length))
            elif event.kind == "drops":
                lost[[node.name in event.of for node in self.plan.nodes] + [False]] = event.factor
        self._switch(seconds, now_ns)
        return self._exported(flows, lost, length)

    def _talk(self, seconds: float, length: float) -> Columns:
        """Both directions of the flows of every edge, one row each."""
        talks, rng = self._talks, self._rng
        period, depth, phase = talks.wave
        rate = talks.rate * (1 + depth * np.sin(2 * math.pi * (seconds / period + phase)))
        silent = np.zeros(len(self.cluster.address), np.bool_)
        for i, event, _ in self.happening(seconds):
            rate = np.where(self._busy[i], rate * event.factor, rate)
            if event.kind == "silence":
                silent[self.cluster.slots(self.subject(event, seconds))] = True
        edge = np.repeat(np.arange(len(rate)), rng.poisson(rate * self._factor * length))
        slot = self._drawn(edge)
        asks = ~silent[slot[0]]
        edge, slot = edge[asks], slot[:, asks]
        unheard = silent[slot[1]]
        wanted = talks.bytes[:, edge] * rng.lognormal(-0.5, 1.0, slot.shape)  # of mean 1
        wanted[0, unheard] = 0  # who is not answered sends no more than the first packets
        return _rows(slot, wanted, talks.port[edge], rng.integers(32768, 61000, len(edge)), unheard)

    def _drawn(self, edge: Array) -> Array:
        """(2, n) int64: a slot of each side of each flow's edge."""
        first, size = self._talks.first[:, edge], self._talks.size[:, edge]
        slots: Array = self._members[first + (self._rng.random(size.shape) * size).astype(np.intp)]
        return slots

    def _scan(self, event: Event, length: float) -> Columns:
        """One pod tries ports of many others; the closed ones refuse."""
        rng = self._rng
        n = int(rng.poisson(event.factor * self._factor * length))
        targets = np.concatenate([self.cluster.slots(name) for name in event.partners])
        slot = np.stack([np.full(n, self.cluster.slots(event.of[0])[0]), rng.choice(targets, n)])
        rows = _rows(
            slot, np.zeros((2, n)), rng.integers(1, 10_000, n), rng.integers(32768, 61000, n), np.zeros(n, bool)
        )
        rows["packets"][:] = 1
        rows["bytes"][:] = 60
        rows["tcp_flags"][:] = np.where(np.arange(2 * n) < n, SYN_ONLY, _RESET)
        return rows

    def _deploy(self, workload: str, seconds: float, lasts: float, now_ns: int) -> None:
        """New pods come up; one after the other takes the place of an old one."""
        slots = self.cluster.slots(workload).tolist()
        self.cluster.roll_out(workload)
        apart = (lasts - _READY_SECONDS) / len(slots)
        for i, slot in enumerate(slots):
            when = seconds + _READY_SECONDS + i * apart
            self._waiting.append((when, slot, self.cluster.successor(slot, now_ns)))

    def _switch(self, seconds: float, now_ns: int) -> None:
        for _, slot, new in [one for one in self._waiting if one[0] <= seconds]:
            self.cluster.replace(slot, new, now_ns)
        self._waiting = [one for one in self._waiting if one[0] > seconds]
        self.cluster.forget(now_ns - _KEEP_NS)

    def _exported(self, flows: Columns, lost: Array, length: float) -> list[Columns]:
        """By exporter: what goes in or out of the cluster is the edge router's, the rest that of the sender's node."""
        cluster, rng = self.cluster, self._rng
        source, destination = flows.pop("slot")
        outside = len(self.plan.nodes)
        is_outside = (cluster.node[source] == outside) | (cluster.node[destination] == outside)
        exporter = np.where(is_outside, outside, cluster.node[source])
        n = len(source)
        dropped = rng.binomial(flows["packets"], lost[exporter])
        ends = rng.integers(0, max(1, round(length * 1000)), n)
        flows |= {
            "src": _addresses(cluster.address[source]),
            "dst": _addresses(cluster.address[destination]),
            "src_as": cluster.number_of_as[source],
            "dst_as": cluster.number_of_as[destination],
            "in_if": np.where(source < cluster.pods, 10 + source, _UPLINK),
            "out_if": np.where(destination < cluster.pods, 10 + destination, _UPLINK),
            "dropped_packets": dropped,
            "dropped_bytes": dropped * (flows["bytes"] // flows["packets"]),
            "end_ago": ends,
            "start_ago": ends + np.where(flows["packets"] > 1, rng.integers(1, 2000, n), 0),
        }
        rates = [*(node.sampling_rate for node in self.plan.nodes), self.plan.edge.sampling_rate]
        return [
            _sampled({name: column[exporter == i] for name, column in flows.items()}, rate, rng)
            for i, rate in enumerate(rates)
        ]


def _talks(plan: Plan, cluster: Cluster) -> tuple[Array, _Talks]:
    members: list[Array] = []
    bounds: list[tuple[int, int]] = []
    for talk in plan.talks.edges:
        for party in (talk.source, talk.destination):
            slots = cluster.slots(party)
            bounds.append((sum(map(len, members)), len(slots)))
            members.append(slots)
    first, count = np.array(bounds).reshape(-1, 2, 2).transpose(2, 1, 0)
    talks = plan.talks.edges
    waves = [plan.waves[talk.wave] for talk in talks]
    return np.concatenate(members), _Talks(
        first, count,
        np.array([talk.rate for talk in talks]),
        np.array([[talk.asked for talk in talks], [talk.answered for talk in talks]]),
        np.array([talk.port for talk in talks]),
        np.array([[wave.seconds, wave.depth, wave.phase] for wave in waves]).T,
    )  # fmt: skip


def _rows(slot: Array, wanted: Array, port: Array, client_port: Array, silent: Array) -> Columns:
    """(2, n) slots and bytes there and back into 2 n rows: first all there, then all back; the silent do not answer."""
    n = len(port)
    is_udp = port == _DNS
    payload = np.clip(wanted, 0, _LARGEST).astype(np.int64)
    packets = 1 + payload // _SEGMENT + np.where(is_udp, 0, _HANDSHAKE)
    rows = {
        "slot": np.concatenate([slot, slot[::-1]], 1),
        "src_port": np.concatenate([client_port, port]),
        "dst_port": np.concatenate([port, client_port]),
        "protocol": np.tile(np.where(is_udp, UDP, TCP), 2),
        "packets": packets.reshape(-1),
        "bytes": (payload + packets * _HEADERS).reshape(-1),
        "tcp_flags": np.tile(np.where(is_udp, 0, np.where(silent, SYN_ONLY, _FLAGS)), 2),
    }
    kept = np.concatenate([np.ones(n, np.bool_), ~silent])
    return {name: column[..., kept] for name, column in rows.items()}


def _joined(one: Columns, other: Columns) -> Columns:
    return {name: np.concatenate([one[name], other[name]], -1) for name in one}


def _addresses(numbers: Array) -> Array:
    """(n, 16) uint8 as in `traffic`."""
    out = np.zeros((len(numbers), 16), np.uint8)
    out[:, 12:] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
    return out


def _sampled(flows: Columns, rate: int, rng: np.random.Generator) -> Columns:
    """What an exporter sees that looks at one packet in `rate`: flows without a packet seen are not there."""
    if rate == 1:
        return flows
    seen = rng.binomial(flows["packets"], 1 / rate)
    kept = seen > 0
    size = flows["bytes"] / flows["packets"]
    flows = flows | {"packets": seen, "bytes": np.rint(size * seen).astype(np.int64)}
    return {name: column[kept] for name, column in flows.items()}
