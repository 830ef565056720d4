"""Follows one kind of objects: lists them all, then watches what changes, for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

import numpy as np

from flowagent.component import Context
from flowagent.enrich.kube_client import ApiError, Client
from flowagent.enrich.kube_objects import KINDS, Resource, Thing, event, status
from flowagent.enrich.kube_store import Store

PAGE = 500
"""Objects in a page of a list."""
GONE = 410
_FIRST_SECONDS, _MOST_SECONDS = 0.5, 30.0
_WATCH_SECONDS = 300.0
_SHORT_SECONDS = 1.0


class Backoff:
    """How long to wait after a failure: about twice as long each time, with jitter, so that agents spread."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._failures = 0

    def reset(self) -> None:
        """It went well."""
        self._failures = 0

    def seconds(self, at_least: float | None = None) -> float:
        """It failed again: how long to wait now."""
        most = min(_MOST_SECONDS, _FIRST_SECONDS * 2.0**self._failures)
        self._failures = min(self._failures + 1, 20)
        return (at_least or 0.0) + most * (0.5 + 0.5 * float(self._rng.random()))


class Watch:
    """Brings a store up to date with the objects of a resource; `changed` is called when it might have changed."""

    def __init__(
        self,
        client: Client,
        resource: Resource[Thing],
        store: Store,
        ctx: Context,
        changed: Callable[[], None],
        selector: str = "",
    ) -> None:
        """`selector` is a field selector, empty for all objects."""
        self.resource = resource
        self._client, self._store, self._ctx, self._changed = client, store, ctx, changed
        self._params = {"fieldSelector": selector} if selector else {}
        self._version: str | None = None
        self._backoff = Backoff(ctx.rng)
        self.heard: float | None = None
        """When the server last told something (`Clock.monotonic`); None before the first whole list."""
        self.problem: str | None = "not listed yet"
        """What keeps it from following; None when it follows."""
        self.relists: Counter[str] = Counter()
        """Lists after the first one, by reason."""
        self.bad = 0
        """Objects that could not be read."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = self._ctx.clock.monotonic()
            try:
                if self._version is None:
                    await self._list()
                await self._follow(self._version or "")
                if self._ctx.clock.monotonic() - began < _SHORT_SECONDS:
                    await asyncio.sleep(self._backoff.seconds())
            except ApiError as error:
                if error.code == GONE:
                    self._relist("gone")
                elif str(error) != self.problem:
                    self._ctx.log.warning("%s; the last known names stay", error)
                self.problem = str(error)
                await asyncio.sleep(self._backoff.seconds(error.after))

    def _relist(self, reason: str) -> None:
        self._version = None
        if self.heard is not None:
            self.relists[reason] += 1

    async def _list(self) -> None:
        """All objects there are, page by page."""
        params = {**self._params, "limit": str(PAGE)}
        if self._params and self.heard is None:
            # Of one node, the server finds them in its memory; without this it would search all that are stored.
            params["resourceVersion"] = "0"
        seen: set[str] = set()
        while True:
            answer = await self._client.get(self.resource.name, "list", self.resource.path, params)
            now_ns = self._ctx.clock.now_ns()
            try:
                page = self.resource.page(answer.body)
            except ValueError as error:
                raise ApiError(f"{self.resource.path}: the list cannot be read: {error}") from error
            self.bad += page.bad
            for thing in page.items:
                self._store.put(thing, now_ns)
                seen.add(thing.uid)
            self._changed()
            if not page.next:
                break
            params = {**self._params, "limit": str(PAGE), "continue": page.next}
        self._store.retain(KINDS[self.resource.name], seen, now_ns)
        self._version = page.version
        self._is_fine()
        self._changed()

    async def _follow(self, version: str) -> None:
        """Changes after a version, until the server ends it or it breaks."""
        seconds = _WATCH_SECONDS * (1 + float(self._ctx.rng.random()))
        params = {
            **self._params, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version,
            "timeoutSeconds": str(round(seconds)),
        }  # fmt: skip
        lines = self._client.lines(self.resource.name, self.resource.path, params, seconds + 30)
        async with contextlib.aclosing(lines):
            async for line in lines:
                self._take(line)
                self._is_fine()

    def _take(self, line: bytes) -> None:
        try:
            kind, version, raw = event(line)
        except ValueError as error:
            self._relist("bad")  # what it said is lost
            raise ApiError(f"{self.resource.path}: an event cannot be read: {error}") from error
        if kind == "ERROR":
            code, message = status(raw)
            raise ApiError(f"{self.resource.path}: {code} {message}", code)
        if version:
            self._version = version
        if kind == "BOOKMARK":
            return
        thing = self.resource.item(raw)
        if thing is None:
            self.bad += 1
        elif kind == "DELETED":
            self._store.remove(thing.uid, self._ctx.clock.now_ns())
        else:
            self._store.put(thing, self._ctx.clock.now_ns())
        self._changed()

    def _is_fine(self) -> None:
        self.heard = self._ctx.clock.monotonic()
        self.problem = None
        self._backoff.reset()
