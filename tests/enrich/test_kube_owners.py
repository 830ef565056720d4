"""Owners of owners: asked for singly, or listed where they are many."""

import asyncio
import contextlib

import pytest
from kube_api import KubeApi, owned
from kube_running import until

from flowagent.component import Context
from flowagent.enrich import kube_config, kube_owners
from flowagent.enrich.kube_client import Client
from flowagent.enrich.kube_objects import PRIMARY, Address, Owner, Thing
from flowagent.enrich.kube_owners import Owners
from flowagent.enrich.kube_store import Store


@contextlib.asynccontextmanager
async def resolving(api, *owners):
    """Owners that one pod each has; the store."""
    store = Store(0, 100_000)
    for number, owner in enumerate(owners):
        held = (Address(0, number, PRIMARY, 3),)
        store.put(Thing("Pod", f"u{number}", "shop", f"p{number}", owner, addresses=held), 1)
    async with Client(kube_config.of_url(f"http://127.0.0.1:{api.port}", "", ""), Context("k")) as client:
        resolver = Owners(client, store, Context("k"), lambda: None)
        resolver.wake()
        task = asyncio.get_running_loop().create_task(resolver.run())
        try:
            yield store, resolver
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_each_is_asked_for_once_and_only_its_metadata(api, quick):
    await api.put("replicasets", owned("web-1", "r1", ("Deployment", "web", "d")))
    await api.put("jobs", owned("job-1", "j1", ("CronJob", "job", "c")))
    owners = [Owner("ReplicaSet", "web-1", "r1"), Owner("Job", "job-1", "j1"), Owner("ReplicaSet", "web-1", "r1")]
    async with resolving(api, *owners) as (store, _):
        await until(lambda: not store.waiting)
        assert store._tops == {"r1": ("Deployment", "web"), "j1": ("CronJob", "job")}
    assert [path for path, _ in api.requests] == [
        "/apis/apps/v1/namespaces/shop/replicasets/web-1", "/apis/batch/v1/namespaces/shop/jobs/job-1"
    ]  # fmt: skip


async def test_one_without_an_owner_or_that_is_no_more_is_the_topmost(api, quick):
    await api.put("replicasets", owned("alone", "r1"))
    await api.put("replicasets", owned("again", "other", ("Deployment", "web", "d")))
    owners = [Owner("ReplicaSet", name, uid) for name, uid in (("alone", "r1"), ("again", "r2"), ("gone", "r3"))]
    async with resolving(api, *owners) as (store, _):
        await until(lambda: not store.waiting)
        assert store._tops == {o.uid: ("ReplicaSet", o.name) for o in owners}


async def test_many_are_listed_and_the_rest_asked_for(quick, monkeypatch):
    monkeypatch.setattr(kube_owners, "_MANY", 10)
    api = await KubeApi(max_page=7).start()
    for number in range(30):
        await api.put("replicasets", owned(f"r-{number}", f"r{number}", ("Deployment", f"d{number}", "d")))
    owners = [*(Owner("ReplicaSet", f"r-{n}", f"r{n}") for n in range(20)), Owner("ReplicaSet", "gone", "x")]
    async with resolving(api, *owners) as (store, _):
        await until(lambda: not store.waiting)
        assert store._tops == {f"r{n}": ("Deployment", f"d{n}") for n in range(20)} | {"x": ("ReplicaSet", "gone")}
    lists = [path for path, _ in api.requests if path.endswith("/replicasets")]
    assert (len(lists), len(api.requests)) == (5, 6)
    await api.stop()


@pytest.mark.parametrize("code", [403, 503])
async def test_what_is_refused_is_asked_for_again_later(api, quick, monkeypatch, caplog, code):
    monkeypatch.setattr(kube_owners, "_FORBIDDEN_SECONDS", 0.01)
    api.refused["replicasets"] = code
    await api.put("replicasets", owned("web-1", "r1", ("Deployment", "web", "d")))
    async with resolving(api, Owner("ReplicaSet", "web-1", "r1")) as (store, resolver):
        await until(lambda: len(api.requests) > 3)
        assert str(code) in resolver.problem
        assert "r1" in store.waiting
        api.refused.clear()
        await until(lambda: not store.waiting)
    assert caplog.text.count("stay ReplicaSets") == 1
