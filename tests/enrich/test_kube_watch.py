"""Lists in pages, events, versions that are too old, and lines that break anywhere."""

import asyncio
import contextlib

import numpy as np
import pytest
from kube_api import KubeApi, pod
from kube_running import until

from flowagent.component import Context
from flowagent.enrich import kube_config, kube_watch
from flowagent.enrich.kube_client import Client
from flowagent.enrich.kube_objects import PODS
from flowagent.enrich.kube_store import Store
from flowagent.enrich.kube_watch import Backoff, Watch


@contextlib.asynccontextmanager
async def watching(api, selector=""):
    access = kube_config.of_url(f"http://127.0.0.1:{api.port}", "", "")
    store = Store(0, 1000)
    async with Client(access, Context("k")) as client:
        watch = Watch(client, PODS, store, Context("k"), lambda: None, selector)
        task = asyncio.get_running_loop().create_task(watch.run())
        try:
            yield watch, lambda: {known.name for known in store._known.values()}
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def asked(api, what):
    return [query for path, query in api.requests if path.endswith("/pods") and what in query]


async def test_a_list_in_pages_and_what_changes_then(quick):
    api = await KubeApi(max_page=3).start()
    for number in range(8):
        await api.put("pods", pod(f"p{number}"))
    async with watching(api) as (watch, names):
        assert watch.problem == "not listed yet"
        await until(lambda: watch.problem is None)
        assert names() == {f"p{number}" for number in range(8)}
        assert [query["limit"] for query in asked(api, "limit")] == ["500"] * 3
        await until(lambda: api.watches)
        await api.put("pods", pod("new"))
        await api.delete("pods", "uid-p0")
        await until(lambda: "new" in names() and "p0" not in names())
        (query,) = asked(api, "watch")
        assert query["allowWatchBookmarks"] == "true"
        assert 300 <= int(query["timeoutSeconds"]) <= 600
    await api.stop()


async def test_a_broken_watch_goes_on_where_it_was(api, quick):
    async with watching(api) as (watch, names):
        await until(lambda: api.watches)
        for number in range(3):
            await api.put("pods", pod(f"p{number}"))
            await until(lambda number=number: f"p{number}" in names())
            api.cut(b'{"type": "DELETED", "obj')
            await until(lambda: api.watches)
    assert len(asked(api, "limit")) == 1
    versions = [int(query["resourceVersion"]) for query in asked(api, "watch")]
    assert versions == sorted(versions)
    assert versions[-1] > versions[0]
    assert not watch.relists


@pytest.mark.parametrize("error_events", [False, True])
async def test_a_version_that_is_too_old_means_a_new_list(api, quick, error_events):
    api.error_events = error_events
    await api.put("pods", pod("old"))
    async with watching(api) as (watch, names):
        await until(lambda: api.watches)
        api.objects["pods"].clear()
        api.compact()
        await api.put("pods", pod("new"))
        api.cut()
        await until(lambda: names() == {"new"})
        assert watch.relists == {"gone": 1}


async def test_a_bookmark_saves_a_new_list(api, quick):
    async with watching(api) as (watch, _):
        await until(lambda: api.watches)
        for _ in range(3):
            await api.bookmark()
        await until(lambda: watch._version == str(api.version - len(api.objects) + 1))
        api.oldest = int(watch._version)
        api.cut()
        await until(lambda: len(asked(api, "watch")) == 2)
        await until(lambda: api.watches)
        assert not watch.relists


async def test_a_list_that_cannot_go_on_begins_anew(quick, monkeypatch):
    api = await KubeApi(max_page=1).start()
    for number in range(3):
        await api.put("pods", pod(f"p{number}"))
    monkeypatch.setattr(api, "oldest", 10**9)
    async with watching(api) as (watch, names):
        await until(lambda: len(asked(api, "limit")) > 4)
        assert watch.problem is not None
        assert watch.heard is None
        api.oldest = 0
        await until(lambda: watch.problem is None)
        assert names() == {"p0", "p1", "p2"}
    await api.stop()


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"type": "ADDED"}\n', b'{"type": "ADDED", "object": 5}\n'])
async def test_an_event_that_cannot_be_read_means_a_new_list(api, quick, line):
    async with watching(api) as (watch, _):
        await until(lambda: api.watches)
        ((response, _),) = api._watching
        await response.write(line)
        await until(lambda: watch.relists == {"bad": 1})
        await until(lambda: watch.problem is None)


async def test_an_object_that_cannot_be_read_costs_only_itself(api, quick):
    async with watching(api) as (watch, names):
        await until(lambda: api.watches)
        await api.put("pods", pod("bad") | {"status": {"podIPs": 5}})
        await api.put("pods", pod("good"))
        await until(lambda: names() == {"good"})
        assert (watch.bad, dict(watch.relists)) == (1, {})


async def test_of_one_node_it_asks_the_servers_memory_first_and_its_store_after_410(api, quick):
    async with watching(api, "spec.nodeName=node-a") as (watch, _):
        await until(lambda: api.watches)
        api.compact()
        api.cut()
        await until(lambda: watch.relists == {"gone": 1} and watch.problem is None)
    assert [query.get("resourceVersion") for query in asked(api, "limit")] == ["0", None]
    assert {query["fieldSelector"] for _, query in api.requests} == {"spec.nodeName=node-a"}


async def test_an_outage_is_logged_once(api, quick, caplog):
    api.refused["pods"] = 503
    async with watching(api) as (watch, _):
        await until(lambda: len(api.requests) > 5)
        assert "503" in watch.problem
        api.refused.clear()
        await until(lambda: watch.problem is None)
    assert caplog.text.count("503") == 1


async def test_a_server_that_ends_watches_at_once_is_not_asked_without_pause(api, monkeypatch):
    monkeypatch.setattr(kube_watch, "_FIRST_SECONDS", 0.2)
    api.error_events = True
    async with watching(api):
        await until(lambda: api.watches)
        for _ in range(20):
            api.cut()
            await asyncio.sleep(0.01)
    assert len(asked(api, "watch")) <= 4


def test_waits_grow_and_are_spread():
    backoff = Backoff(np.random.default_rng(1))
    waits = [backoff.seconds() for _ in range(12)]
    for wait, most in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30], strict=True):
        assert most / 2 <= wait <= most
    assert len(set(waits)) == 12
    backoff.reset()
    assert backoff.seconds(100.0) <= 100.5
