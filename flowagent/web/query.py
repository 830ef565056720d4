"""The API of the history: questions, a stream of their answers, what can be asked, and how the agent is."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from flowagent.errors import ConfigError
from flowagent.filters import FilterError
from flowagent.sections import parse_duration
from flowagent.web.answers import Problem, answer

MAX_STREAMS = 64
_EVERY = (1.0, 60.0)
"""Seconds between two answers of a stream: least and most."""
_BEAT = 15.0
"""Seconds after which a stream that has nothing to say shows that it lives."""
_PATIENCE = 30.0
"""Seconds that a reader may take to take what is written."""


class Desk(Protocol):
    """What answers."""

    @property
    def version(self) -> int:
        """Grows whenever an answer may be another one."""

    def parse(self, parameters: Mapping[str, str]) -> Hashable:
        """A question; raises ConfigError, whose path is the parameter."""

    async def answer(self, query: Any) -> bytes | None:
        """The answer as JSON, None while too many are asked; raises ConfigError where it would be too large."""

    def describe(self) -> dict[str, Any]:
        """What can be asked."""


class Store(Protocol):
    """Where the desk is."""

    @property
    def desk(self) -> Desk: ...

    async def status(self) -> dict[str, Any]:
        """How the agent is."""


class Questions:
    """The routes, and what they do with the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._streams = 0
        self._ending = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        """For the application's router."""
        return [
            web.get("/api/v1/query", self._query, allow_head=False),
            web.get("/api/v1/stream", self._stream, allow_head=False),
            web.get("/api/v1/columns", self._columns),
            web.get("/api/v1/status", self._status),
        ]

    async def end(self, _: web.Application) -> None:
        """Streams end now."""
        self._ending.set()

    async def _query(self, request: web.Request) -> web.Response:
        query = self._parsed(parameters(request))
        return web.Response(body=await self._answered(query), content_type="application/json", charset="utf-8")

    async def _columns(self, _: web.Request) -> web.Response:
        return answer(self._store.desk.describe())

    async def _status(self, _: web.Request) -> web.Response:
        return answer(await self._store.status())

    def _parsed(self, given: Mapping[str, str]) -> Hashable:
        try:
            return self._store.desk.parse(given)
        except ConfigError as error:
            raise _wrong(error) from error

    async def _answered(self, query: Hashable) -> bytes:
        try:
            body = await self._store.desk.answer(query)
        except ConfigError as error:
            raise _wrong(error) from error
        if body is None:
            raise Problem(503, "too many questions are asked at once; ask again in a second")
        return body

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        given = parameters(request)
        every = _seconds(given.pop("every", "2s"))
        query = self._parsed(given)
        if self._streams >= MAX_STREAMS:
            raise Problem(503, f"{MAX_STREAMS} streams are open already; close one, or ask /api/v1/query")
        self._streams += 1
        version = self._store.desk.version  # before the answer, so that nothing new meanwhile is missed
        try:
            first = await self._answered(query)  # while a status can be told
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            await self._follow(response, query, every, first, version)
        except (ConnectionError, TimeoutError):
            # The reader is gone, or as good as: what it did not take is not waited for any longer.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams -= 1
        return response

    async def _follow(
        self, response: web.StreamResponse, query: Hashable, every: float, body: bytes, version: int
    ) -> None:
        """Write the answer, and again whenever it may be another one, until the reader or the agent is gone."""
        desk = self._store.desk
        silent = 0.0
        try:
            await _write(response, b"event: result\ndata: " + body + b"\n\n")
            while not await self._ends_within(every):
                silent += every
                if desk.version != version:
                    version, silent = desk.version, 0.0
                    body = await self._answered(query)
                    await _write(response, b"event: result\ndata: " + body + b"\n\n")
                elif silent >= _BEAT:
                    silent = 0.0
                    await _write(response, b": still here\n\n")
        except Problem as problem:
            await _write(response, b"event: problem\ndata: " + msgspec.json.encode(problem.fields) + b"\n\n")

    async def _ends_within(self, seconds: float) -> bool:
        """Wait; whether the agent ends meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                return await self._ending.wait()
        except TimeoutError:
            return False


async def _write(response: web.StreamResponse, event: bytes) -> None:
    async with asyncio.timeout(_PATIENCE):
        await response.write(event)


def parameters(request: web.Request) -> dict[str, str]:
    """The parameters of a request, each given once; raises Problem."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise Problem(400, "is given twice", name)
        given[name] = value
    return given


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text, "every")
    except ConfigError as error:
        raise _wrong(error) from error
    least, most = _EVERY
    if not least <= seconds <= most:
        raise Problem(400, f"{text!r} is out of range; from {least:g}s to {most:g}s", "every")
    return seconds


def _wrong(error: ConfigError) -> Problem:
    position = error.position if isinstance(error, FilterError) else None
    return Problem(400, error.problem, error.path, position)
