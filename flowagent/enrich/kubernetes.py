"""Enricher `kubernetes`: which pod, service or node held an address at the time of the flow.

It follows the API server, or takes what another agent knows of it (`snapshot_url`). While neither can be reached,
the last known names stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import msgspec
import numpy as np

from flowagent import names
from flowagent.addresses import address_words
from flowagent.batch import Array, Batch, constant
from flowagent.clock import SECOND
from flowagent.component import Context, Settings
from flowagent.enrich import kube_config, kube_snapshot
from flowagent.enrich.kube_source import ApiSource, SnapshotSource
from flowagent.enrich.kube_table import PARTS, Holdings, KubeTable
from flowagent.errors import ConfigError
from flowagent.metrics import Family
from flowagent.schema import EGRESS, INGRESS, INNER
from flowagent.sections import parse_duration
from flowagent.worker import Worker

SNAPSHOT_PATH = "/api/v1/kubernetes/snapshot"
_SIDES = ("src", "dst")
_LAYER, _CLUSTER, _DIRECTION = "k8s_flow_layer", "k8s_cluster_name", "node_direction"
_LOOPBACK = np.uint64(address_words("127.0.0.1")[1]), np.uint64(address_words("::1")[1])
_APART_SECONDS = 1.0
"""Between two tables."""
_MANY = 5_000
"""Addresses from which on a table is made in a thread."""
_KEEP_SECONDS, _FAULT_SECONDS = 600.0, 10.0
_SNAPSHOT_SECONDS, _ASKED_SECONDS = 5.0, 60.0
"""How often a new snapshot is made at most, and how long after somebody asked for one."""


class Config(Settings, frozen=True):
    """Name pods, services and nodes by their addresses."""

    mode: Literal["node", "full"] = "node"
    """`node` follows the pods of one node, `full` those of the whole cluster; both all services and nodes."""
    node: str | None = None
    """Name of that node; default: $NODE_NAME, else the host's name."""
    kubeconfig: str | None = None
    """File that says where the API server is; default: $KUBECONFIG, else as a pod, else ~/.kube/config."""
    history: str | float = "10m"
    """How long an address keeps its past holders, for flows that are told of late."""
    max_addresses: Annotated[int, msgspec.Meta(ge=1)] = 200_000
    """Addresses held in memory, past holders among them; the oldest of those go first."""
    infra_namespaces: tuple[str, ...] = ("kube-*", "openshift-*")
    """Namespaces whose flows are infrastructure; `*` at the end stands for anything."""
    cluster: str | None = None
    """Name of the cluster."""
    snapshot_url: str | None = None
    """Take names from another flowagent, `http://host:port`, instead of the API server."""
    snapshot_every: str | float = "10s"
    """How often to ask it."""
    snapshot_token_file: str | None = None
    """File with its bearer token; read again for every request."""
    snapshot_ca: str | None = None
    """File with the certificates to trust for `https`; default: the system's."""

    def build(self, ctx: Context) -> Kubernetes:
        return Kubernetes(self, ctx)


class Kubernetes:
    """Names by the table that `run` keeps up to date."""

    needs = frozenset({"src_addr", "dst_addr", "exporter", "end_ns", "received_ns"})

    def __init__(self, config: Config, ctx: Context) -> None:
        """Raises ConfigError."""
        self._ctx, self._config = ctx, config
        self._history_ns = round(parse_duration(config.history, f"{ctx.name}.history") * SECOND)
        self.adds = frozenset(
            [f"{side}_k8s_{part}" for side in _SIDES for part in PARTS]
            + [_LAYER, _DIRECTION]
            + [_CLUSTER] * bool(config.cluster)
        )
        self._node = config.node or os.environ.get("NODE_NAME") or socket.gethostname()
        self._changed = asyncio.Event()
        self._source = self._make_source()
        self._table: KubeTable | None = None
        self._was_ready = False
        self._hits = self._misses = 0
        self._rebuild_seconds = 0.0
        self._snapshot: tuple[bytes, str] | None = None
        self._snapshot_of: KubeTable | None = None
        self._made = self._asked = -np.inf
        self._worker = Worker("kubernetes")

    def _make_source(self) -> ApiSource | SnapshotSource:
        config, ctx = self._config, self._ctx
        every = parse_duration(config.snapshot_every, f"{ctx.name}.snapshot_every")
        if config.snapshot_url is None:
            access = kube_config.find(config.kubeconfig, os.environ, f"{ctx.name}.kubeconfig")
            selector = f"spec.nodeName={self._node}" if config.mode == "node" else ""
            return ApiSource(access, ctx, self._changed.set, selector, self._history_ns, config.max_addresses)
        server, path = _split(config.snapshot_url, f"{ctx.name}.snapshot_url")
        if every <= 0:
            raise ConfigError(f"{ctx.name}.snapshot_every", "is 0; write how often to ask, such as 10s")
        access = kube_config.of_url(server, config.snapshot_ca or "", config.snapshot_token_file or "")
        return SnapshotSource(access, path, every, ctx, self._changed.set, config.max_addresses)

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._worker.stop()
        await self._source.__aexit__(*exc)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, run in (("source", self._source.run), ("tables", self._rebuild), ("names", self._keep)):
                group.create_task(self._guarded(run), name=f"{self._ctx.name} {name}")

    async def _guarded(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Whatever goes wrong, names that are known stay, and it is tried again."""
        while True:
            try:
                await run()
            except Exception:
                self._ctx.log.exception("goes on after an unexpected error")
                await asyncio.sleep(_FAULT_SECONDS)

    async def _rebuild(self) -> None:
        """A new table when something changed, or is over, but not more often than once a second."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SNAPSHOT_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            is_whole = self._source.problem is None
            holdings = self._source.holdings(self._ctx.clock.now_ns())
            if holdings is not None:
                await self._build(holdings)
            self._was_ready |= is_whole
            await self._renew_snapshot()
            if holdings is not None:
                await asyncio.sleep(_APART_SECONDS)

    async def _build(self, holdings: Holdings) -> None:
        began = self._ctx.clock.monotonic()
        build = partial(KubeTable.build, holdings, self._config.infra_namespaces)
        self.learn(await self._worker.run(build) if len(holdings.entity) > _MANY else build())
        self._rebuild_seconds = self._ctx.clock.monotonic() - began

    def learn(self, table: KubeTable) -> None:
        """Name rows by this table from now on."""
        self._table = table

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            for _ in self._table.keep_names() if self._table is not None else ():
                await asyncio.sleep(0)

    def ready(self) -> str | None:
        """None once it has known all there was, even if it cannot follow any more."""
        return None if self._was_ready else self._source.problem or "the table is not made yet"

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        """See `Enricher`: names are numbers, as in `flowagent.names`."""
        missing = (self.adds & wanted) - batch.columns.keys()
        table = self._table
        if not missing or table is None or not len(batch):
            return batch
        is_layered, is_directed = _LAYER in missing and self.ready() is None, _DIRECTION in missing
        added: dict[str, Array] = {}
        held: dict[str, Array] = {}
        times = self._times(batch)
        for side in _SIDES:
            parts = [part for part in PARTS if f"{side}_k8s_{part}" in missing]
            if f"{side}_addr" in batch and (parts or is_layered or is_directed):
                held[side] = entity = self._find(table, batch[f"{side}_addr"], times)
                added |= {f"{side}_k8s_{part}": table.parts[part].take(entity, mode="wrap") for part in parts}
        if is_layered:
            is_app = np.zeros(len(batch), np.bool_)
            for entity in held.values():
                is_app |= table.is_app.take(entity, mode="wrap")
            codes = np.array([names.code("infra"), names.code("app")], names.CODE)
            added[_LAYER] = codes.take(is_app.view(np.uint8))
        if _CLUSTER in missing:
            added[_CLUSTER] = constant(names.code(self._config.cluster or ""), len(batch), names.CODE)
        valid: dict[str, Array] = {}
        if is_directed and len(held) == len(_SIDES) and "exporter" in batch:
            hosts = (table.parts["host_name"].take(held[side], mode="wrap") for side in _SIDES)
            seen, known = directions(self._reporters(table, batch, times), *hosts)
            if known.any():
                added[_DIRECTION], valid[_DIRECTION] = seen, known
        return batch.with_columns(added, valid) if added else batch

    def _find(self, table: KubeTable, addresses: Array, times: Array) -> Array:
        """Who held them; counted."""
        entity = table.addresses.find(addresses, times)
        found = int(np.count_nonzero(entity >= 0))
        self._hits += found
        self._misses += len(entity) - found
        return entity

    def _reporters(self, table: KubeTable, batch: Batch, times: Array) -> Array:
        """(n,) uint64: the nodes that exporters are on; what comes by loopback is of this one."""
        high, low = batch["exporter"]
        nodes = table.parts["host_name"].take(table.addresses.find(batch["exporter"], times), mode="wrap")
        is_local = (high == 0) & ((low == _LOOPBACK[0]) | (low == _LOOPBACK[1]))
        return np.where(is_local, np.uint64(names.code(self._node)), nodes)

    def _times(self, batch: Batch) -> Array:
        """(n,) int64: the end of each flow where it is known and near to its receipt, else the receipt."""
        now_ns = self._ctx.clock.now_ns()
        received = _or_else(batch, "received_ns", np.int64(now_ns))
        ended = _or_else(batch, "end_ns", received)
        believed = (ended <= received) & (ended >= received - np.int64(self._history_ns))
        return np.broadcast_to(np.where(believed, ended, received), (len(batch),))

    def snapshot(self) -> tuple[bytes, str]:
        """What is known, for `snapshot_url` of other agents, and its ETag; (b"", "") before anything is known."""
        if self._table is None:
            return b"", ""
        self._asked = self._ctx.clock.monotonic()
        if self._snapshot is None:
            self._snapshot = kube_snapshot.encode(self._table.holdings)
        return self._snapshot

    async def _renew_snapshot(self) -> None:
        """In a thread, so that nobody waits for it."""
        table, now = self._table, self._ctx.clock.monotonic()
        is_due = now - self._made >= _SNAPSHOT_SECONDS and now - self._asked < _ASKED_SECONDS
        if table is not None and table is not self._snapshot_of and is_due:
            self._snapshot = await self._worker.run(partial(kube_snapshot.encode, table.holdings))
            self._snapshot_of, self._made = table, now

    def families(self) -> Iterable[Family]:
        yield Family("flowagent_kubernetes_addresses", "gauge", "Addresses with a name, past holders among them.", (),
                     {(): len(self._table) if self._table is not None else 0})  # fmt: skip
        yield Family("flowagent_kubernetes_hits", "counter", "Addresses of rows that a name was found for.", (),
                     {(): self._hits})  # fmt: skip
        yield Family("flowagent_kubernetes_misses", "counter", "Addresses of rows that nobody in the cluster holds.",
                     (), {(): self._misses})  # fmt: skip
        yield Family("flowagent_kubernetes_rebuild_seconds", "gauge", "How long the last table took to make.", (),
                     {(): self._rebuild_seconds})  # fmt: skip
        yield from self._source.families()


def directions(reporter: Array, source: Array, destination: Array) -> tuple[Array, Array]:
    """(n,) uint8 and (n,) bool: where flows go as their reporter sees it, and whether that is known.

    From the nodes (n,) uint64 of the exporter and of both ends, 0 where they are not known.
    """
    is_inner = (source == destination) & (source != 0)
    leaves = (source == reporter) & (reporter != 0)
    comes = (destination == reporter) & (reporter != 0)
    values = np.where(is_inner, np.uint8(INNER), np.where(leaves, np.uint8(EGRESS), np.uint8(INGRESS)))
    return values, is_inner | leaves | comes


def _or_else(batch: Batch, name: str, other: Array | np.int64) -> Array:
    """A column of times, and another's values where it is not known."""
    if name not in batch:
        return np.asarray(other)
    mask = batch.valid.get(name)
    return batch[name] if mask is None else np.where(mask, batch[name], other)


def _split(url: str, path: str) -> tuple[str, str]:
    """Server and path of a snapshot's URL; raises ConfigError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(path, f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigError(path, f"{url!r} is not a URL of a flowagent; write http://host:port")
    where = parts.path if parts.path.endswith(SNAPSHOT_PATH) else parts.path.rstrip("/") + SNAPSHOT_PATH
    return f"{parts.scheme}://{parts.netloc}", where
