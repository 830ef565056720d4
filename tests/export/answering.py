"""An HTTP server in this process that answers as it is told, and remembers what it was sent."""

import asyncio
import gzip
import ssl
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import NamedTuple, Self

from aiohttp import web

from flowagent.batch import Batch
from flowagent.channel import Item
from flowagent.component import Context
from flowagent.delivery import Delivery
from flowagent.outcome import Outcomes, Ticket
from flowagent.outlet import Outlet


class Request(NamedTuple):
    """One that came whole."""

    path: str
    headers: dict[str, str]
    body: bytes
    """As it was before gzip."""


class Answering:
    """Does the next step of its script with each request, then what `otherwise` says of it.

    A step is a status, a tuple (status, text, headers), "hang", "reset" (read the whole, then cut the line), or None
    for what `otherwise` says. Bodies over `max_bytes` are refused with 413 before they are read.
    """

    def __init__(self, *script, otherwise: Callable[[Request], object] = lambda _: 204, max_bytes: int = 1 << 26):
        self.script = list(script)
        self.taken: list[Request] = []
        """What was answered with success."""
        self.requests = 0
        self._otherwise = otherwise
        self._max_bytes = max_bytes
        self._over = asyncio.Event()

    async def start(self, tls: ssl.SSLContext | None = None) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def stop(self) -> None:
        self._over.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        step = self.script.pop(0) if self.script else None
        if request.content_length > self._max_bytes:
            return web.Response(status=413, text="too much")
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body  # aiohttp may have done it
        came = Request(request.path_qs, dict(request.headers), body)
        if step is None:
            step = self._otherwise(came)
        if step == "hang":
            await self._over.wait()
            step = 503
        if step == "reset":
            request.transport.abort()
            step = 503
        status, text, headers = (step, "", {}) if isinstance(step, int) else step
        if 200 <= status < 300:
            self.taken.append(came)
        return web.Response(status=status, text=text, headers=headers)


async def delivered(settings: Delivery, batches: Iterable[Batch]) -> dict[tuple[str, str], int]:
    """What became of rows that were given to a sink as the pipeline does it, but for the pauses between tries."""
    ctx = Context("out", rng=SimpleNamespace(random=lambda: -0.5))
    outcomes = Outcomes()
    async with Outlet(settings.build(ctx), ctx, outcomes, settings) as outlet:
        for batch in batches:
            outcomes.decoded += len(batch)
            outlet.channel.put(Item(batch, Ticket(outcomes, len(batch), 1)))
        outlet.close("shutdown")
        await asyncio.wait_for(outlet.run(), 20)
    return {outcome: rows for outcome, rows in outcomes.counts.items() if rows}
