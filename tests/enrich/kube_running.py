"""The Kubernetes enricher at work: runs it, waits for it, asks it for names, and serves what it knows."""

import asyncio
import contextlib

import numpy as np
from aiohttp import web
from kube_api import node, owned, pod, service

from flowagent import names
from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.enrich import kubernetes

WAIT_SECONDS = 10


@contextlib.asynccontextmanager
async def running(settings, ctx=None):
    """The enricher at work."""
    enricher = settings.build(ctx or Context("kubernetes"))
    async with enricher, asyncio.timeout(60):
        task = asyncio.get_running_loop().create_task(enricher.run())
        try:
            yield enricher
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition):
    """Wait until something is so; what it is then."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (found := condition()):  # noqa: ASYNC110 - anything may be waited for
            await asyncio.sleep(0.005)
    return found


def addresses(*texts):
    """(2, n) uint64."""
    return np.array([address_words(text) for text in texts], np.uint64).reshape(-1, 2).T


def flows(*pairs, **times):
    """A batch of flows from and to these addresses; times are columns."""
    columns = {"src_addr": addresses(*(a for a, _ in pairs)), "dst_addr": addresses(*(b for _, b in pairs))}
    return Batch({**columns, **{name: np.array(values, np.int64) for name, values in times.items()}})


def named(enricher, address, part="name", at_ns=None):
    """What the enricher calls an address."""
    times = {} if at_ns is None else {"received_ns": [at_ns], "end_ns": [at_ns]}
    rows = enricher.enrich(flows((address, address), **times), enricher.adds)
    column = f"src_k8s_{part}"
    return names.text(int(rows[column][0])) if column in rows else ""


class Asked(list):
    """Statuses of the answers so far."""

    wrong = None
    """What is sent instead of a snapshot."""


@contextlib.asynccontextmanager
async def serving(enricher):
    """The enricher's snapshot over HTTP, as an agent serves it: a URL, and what is answered there."""
    asked = Asked()

    async def answer(request):
        data, etag = enricher.snapshot()
        if asked.wrong is not None:
            data, etag = asked.wrong, '"wrong"'
        is_known = request.headers.get("If-None-Match") == etag
        asked.append(304 if is_known else 200)
        return web.Response(status=304) if is_known else web.Response(body=data, headers={"ETag": etag})

    app = web.Application()
    app.router.add_get(kubernetes.SNAPSHOT_PATH, answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


def is_ready(enricher):
    return lambda: enricher.ready() is None


async def shop(api):
    """A small cluster."""
    await api.put("nodes", node("node-a", "192.0.2.1", zone="east", external="198.51.100.1"))
    await api.put("replicasets", owned("web-5d4", "rs-1", ("Deployment", "web", "d-1")))
    await api.put("pods", pod("web-5d4-abc", "10.0.0.5", owner=("ReplicaSet", "web-5d4", "rs-1")))
    await api.put("pods", pod("dns", "10.0.0.6", namespace="kube-system"))
    await api.put("services", service("front", "172.30.0.9", external=["203.0.113.7"]))


def samples(enricher, name):
    return next(f.samples for f in enricher.families() if f.name == f"flowagent_kubernetes_{name}")
