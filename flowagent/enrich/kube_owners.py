"""Who owns the owners of pods: the Deployment behind a ReplicaSet, the CronJob behind a Job.

Asked for when a pod names one that is not known, and only its metadata, since a cluster has ten times more
ReplicaSets than a node has pods; where many are asked for at once, by listing them. What is found never changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowagent.component import Context
from flowagent.enrich.kube_client import ApiError, Client
from flowagent.enrich.kube_objects import Owner, Partial, Resource, owner_of
from flowagent.enrich.kube_store import Store
from flowagent.enrich.kube_watch import PAGE, Backoff

_MANY = 100
_APART_SECONDS = 0.02
"""Between two requests for single objects."""
_FORBIDDEN_SECONDS = 300.0
_ONE = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"}
_LIST = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"}


def _read(partial: Partial) -> tuple[str, Owner | None]:
    return partial.metadata.uid, owner_of(partial.metadata)


_RESOURCES = {
    "ReplicaSet": Resource("replicasets", "/apis/apps/v1", Partial, _read),
    "Job": Resource("jobs", "/apis/batch/v1", Partial, _read),
}


class Owners:
    """Answers what a store waits for."""

    def __init__(self, client: Client, store: Store, ctx: Context, changed: Callable[[], None]) -> None:
        self._client, self._store, self._ctx, self._changed = client, store, ctx, changed
        self._wanted = asyncio.Event()
        self._backoff = Backoff(ctx.rng)
        self.problem: str | None = None

    def wake(self) -> None:
        """The store may wait for something."""
        if self._store.waiting:
            self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                for kind in _RESOURCES:
                    await self._resolve(kind)
            except ApiError as error:
                if self.problem is None:
                    self._ctx.log.warning("%s; owners of pods stay ReplicaSets and Jobs", error)
                self.problem = str(error)
                least = _FORBIDDEN_SECONDS if error.code in (401, 403) else error.after
                await asyncio.sleep(self._backoff.seconds(least))
            else:
                self.problem = None
                self._backoff.reset()
                if not self._store.waiting:
                    self._wanted.clear()

    def _of_kind(self, kind: str) -> dict[str, tuple[str, Owner]]:
        return {uid: wait for uid, wait in self._store.waiting.items() if wait[1].kind == kind}

    async def _resolve(self, kind: str) -> None:
        """All that the store waits for now."""
        if len(self._of_kind(kind)) >= _MANY:
            await self._list(kind)
        for uid, (namespace, owner) in self._of_kind(kind).items():
            self._store.set_tops({uid: await self._get(namespace, owner) or (owner.kind, owner.name)})
            self._changed()
            await asyncio.sleep(_APART_SECONDS)

    async def _list(self, kind: str) -> None:
        resource = _RESOURCES[kind]
        params = {"limit": str(PAGE)}
        while True:
            path = f"{resource.path}/{resource.name}"
            answer = await self._client.get(resource.name, "list", path, params, _LIST)
            try:
                page = resource.page(answer.body)
            except ValueError as error:
                raise ApiError(f"{path}: the list cannot be read: {error}") from error
            waiting = self._store.waiting
            self._store.set_tops({uid: (top.kind, top.name) for uid, top in page.items if top and uid in waiting})
            self._changed()
            if not page.next or not self._of_kind(kind):
                return
            params = {"limit": str(PAGE), "continue": page.next}

    async def _get(self, namespace: str, owner: Owner) -> tuple[str, str] | None:
        """Kind and name of an owner's owner; None where it has none, or is no more."""
        resource = _RESOURCES[owner.kind]
        path = f"{resource.path}/namespaces/{namespace}/{resource.name}/{owner.name}"
        try:
            answer = await self._client.get(resource.name, "get", path, headers=_ONE)
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        uid, top = resource.item(answer.body) or ("", None)
        return (top.kind, top.name) if top is not None and uid == owner.uid else None
