"""Where the names of a cluster come from: the API server, or a snapshot that another agent hands out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Self

from flowagent.component import Context
from flowagent.enrich import kube_snapshot
from flowagent.enrich.kube_client import ApiError, Client
from flowagent.enrich.kube_config import Access
from flowagent.enrich.kube_objects import KINDS, NODES, PODS, SERVICES
from flowagent.enrich.kube_owners import Owners
from flowagent.enrich.kube_store import Store
from flowagent.enrich.kube_table import Holdings
from flowagent.enrich.kube_watch import Backoff, Watch
from flowagent.metrics import Family

_PREFIX = "flowagent_kubernetes"


class ApiSource:
    """Follows pods, services, nodes and the owners of pods; calls `changed` when they may have changed."""

    def __init__(
        self,
        access: Access,
        ctx: Context,
        changed: Callable[[], None],
        pods: str,
        history_ns: int,
        max_addresses: int,
    ) -> None:
        """`pods` is a field selector."""
        self._ctx, self._changed = ctx, changed
        self._client = Client(access, ctx)
        self._store = Store(history_ns, max_addresses)
        self._owners = Owners(self._client, self._store, ctx, changed)
        self._watches = [
            Watch(self._client, resource, self._store, ctx, self._wake, selector)
            for resource, selector in ((PODS, pods), (SERVICES, ""), (NODES, ""))
        ]
        self._version = -1

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.run(), name=f"{self._ctx.name} {watch.resource.name}")
            group.create_task(self._owners.run(), name=f"{self._ctx.name} owners")

    def _wake(self) -> None:
        self._changed()
        # Not while pods are listed: many owners are best asked for at once.
        if self._watches[0].heard is not None:
            self._owners.wake()

    @property
    def problem(self) -> str | None:
        """What is not known yet; None when every kind was listed once and the owners were asked for."""
        missing = [f"{w.resource.name}: {w.problem}" for w in self._watches if w.heard is None]
        if missing:
            return "; ".join(missing)
        if self._store.waiting and self._owners.problem is None:
            return f"owners of {len(self._store.waiting)} objects are asked for"
        return None

    def holdings(self, now_ns: int) -> Holdings | None:
        """What is known; None where that is what it was."""
        self._store.expire(now_ns)
        if self._store.version == self._version:
            return None
        self._version = self._store.version
        return self._store.holdings()

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        now = self._ctx.clock.monotonic()
        objects = {(w.resource.name,): self._store.objects[KINDS[w.resource.name]] for w in self._watches}
        yield Family(f"{_PREFIX}_objects", "gauge", "Objects that are known.", ("kind",), objects)
        ages = {(w.resource.name,): now - w.heard for w in self._watches if w.heard is not None}
        yield Family(f"{_PREFIX}_age_seconds", "gauge", "Since the server last told something.", ("kind",), ages)
        relists = {(w.resource.name, why): n for w in self._watches for why, n in w.relists.items()}
        text = "Whole lists after the first, by reason: gone (too old to go on), bad (not readable)."
        yield Family(f"{_PREFIX}_relists", "counter", text, ("kind", "reason"), relists)
        yield Family(f"{_PREFIX}_bad_objects", "counter", "Objects that could not be read.", ("kind",),
                     {(w.resource.name,): w.bad for w in self._watches})  # fmt: skip
        text = "Addresses, and objects, that were forgotten because there were too many."
        yield Family(f"{_PREFIX}_evictions", "counter", text, (), {(): self._store.evictions})
        yield _requests(self._client)


class SnapshotSource:
    """Asks another agent every so many seconds what it knows; what it said last stays while it is out of reach."""

    def __init__(
        self,
        access: Access,
        path: str,
        every: float,
        ctx: Context,
        changed: Callable[[], None],
        max_addresses: int,
    ) -> None:
        self._client = Client(access, ctx)
        self._ctx, self._changed = ctx, changed
        self._path, self._every, self._max = path, every, max_addresses
        self._holdings: Holdings | None = None
        self._etag = ""
        self._heard: float | None = None
        self._evictions = 0
        self._is_failing = False
        self._backoff = Backoff(ctx.rng)
        self.problem: str | None = "no snapshot yet"
        """What is not known yet; None when a snapshot came."""

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._ask()
                self._backoff.reset()
                self._is_failing = False
                wait = self._every * (0.9 + 0.2 * float(self._ctx.rng.random()))
            except (ApiError, kube_snapshot.SnapshotError) as error:
                if not self._is_failing:
                    self._ctx.log.warning("%s; the last known names stay", error)
                self._is_failing = True
                if self._heard is None:
                    self.problem = str(error)
                wait = self._backoff.seconds(error.after if isinstance(error, ApiError) else None)
            await asyncio.sleep(wait)

    async def _ask(self) -> None:
        headers = {"If-None-Match": self._etag} if self._etag else {}
        answer = await self._client.get("snapshot", "get", self._path, headers=headers)
        if answer.code != 304:
            holdings, left_out = kube_snapshot.decode(answer.body, self._max)
            self._evictions += left_out
            self._holdings, self._etag = holdings, answer.etag
            self._changed()
        self._heard = self._ctx.clock.monotonic()
        self.problem = None

    def holdings(self, now_ns: int) -> Holdings | None:  # noqa: ARG002 - it is the other agent that forgets
        """What came since this was last asked; None where nothing did."""
        holdings, self._holdings = self._holdings, None
        return holdings

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        age = {} if self._heard is None else {("snapshot",): self._ctx.clock.monotonic() - self._heard}
        yield Family(f"{_PREFIX}_age_seconds", "gauge", "Since the server last told something.", ("kind",), age)
        text = "Addresses, and objects, that were forgotten because there were too many."
        yield Family(f"{_PREFIX}_evictions", "counter", text, (), {(): self._evictions})
        yield _requests(self._client)


def _requests(client: Client) -> Family:
    text = "Requests by HTTP status, or error where none came; of a watch when it ends."
    return Family(f"{_PREFIX}_requests", "counter", text, ("kind", "verb", "code"), dict(client.requests))
