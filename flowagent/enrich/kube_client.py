"""Asks the API server: pages, single objects, and the lines of a watch.

Over aiohttp, which the agent has for HTTP anyway. The client libraries either decode whole objects, or have no
bookmarks, or bring a second HTTP stack (lightkube: 11 MB more of memory before the first object); what is asked for
here are a few GETs, whose answers are decoded to the fields that are used.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import NamedTuple, Self

import aiohttp

from flowagent import __version__
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.enrich.kube_config import Access, run_plugin
from flowagent.enrich.kube_objects import status
from flowagent.errors import FlowagentError

_JSON = "application/json"
_CONNECT_SECONDS, _READ_SECONDS, _WHOLE_SECONDS = 10.0, 30.0, 120.0
_LIMITS = aiohttp.ClientTimeout(_WHOLE_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
IDLE_SECONDS = 150.0
"""A watch that is silent for longer is taken for broken: bookmarks come about every minute."""
_MAX_BODY = 256 << 20
_MAX_LINE = 16 << 20
_SHOWN = 300


class ApiError(FlowagentError):
    """A request failed; `code` is the HTTP status, 0 where there was no answer. `after`: seconds to wait, if told."""

    def __init__(self, problem: str, code: int = 0, after: float | None = None) -> None:
        super().__init__(problem)
        self.code, self.after = code, after


class Answer(NamedTuple):
    """What came back."""

    code: int
    etag: str
    body: bytes


class Client:
    """One server, inside `async with`; every request is counted in `requests` by (kind, verb, code)."""

    def __init__(self, access: Access, ctx: Context) -> None:
        self._access, self._ctx = access, ctx
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        self._stamp: tuple[int, ...] | None = None
        self._plugin = ("", 0.0)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers={"User-Agent": f"flowagent/{__version__}"})
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(
        self,
        kind: str,
        verb: str,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The whole answer, whose status is 200 or 304; raises ApiError."""
        async with self._asked(kind, verb, path, params or {}, headers or {}) as answer:
            chunks, size = [], 0
            async for chunk in answer.content.iter_any():
                chunks.append(chunk)
                size += len(chunk)
                if size > _MAX_BODY:
                    raise ApiError(f"{path}: the answer has more than {_MAX_BODY >> 20} MiB", answer.status)
            return Answer(answer.status, answer.headers.get("ETag", ""), b"".join(chunks))

    async def lines(self, kind: str, path: str, params: Mapping[str, str], seconds: float) -> AsyncGenerator[bytes]:
        """Line by line as they come, for these seconds at most; what follows the last newline is dropped.

        Raises ApiError; must be closed.
        """
        limits = aiohttp.ClientTimeout(seconds, sock_connect=_CONNECT_SECONDS, sock_read=IDLE_SECONDS)
        async with self._asked(kind, "watch", path, params, {}, limits) as answer:
            begun: list[bytes] = []
            size = 0
            async for chunk in answer.content.iter_any():
                head, *more = chunk.split(b"\n")
                begun.append(head)
                size += len(head)
                if size > _MAX_LINE:
                    raise ApiError(f"{path}: a line has more than {_MAX_LINE >> 20} MiB", answer.status)
                if not more:
                    continue
                for line in (b"".join(begun), *more[:-1]):
                    if line:
                        yield line
                begun, size = [more[-1]], len(more[-1])

    @contextlib.asynccontextmanager
    async def _asked(
        self,
        kind: str,
        verb: str,
        path: str,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout = _LIMITS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is not read yet; raises ApiError, also for what breaks while it is read."""
        assert self._session is not None
        code = "error"
        try:
            headers = {"Accept": _JSON, **headers, **await self._credentials()}
            asking = self._session.get(
                self._access.server + path, params=params, headers=headers, allow_redirects=False,
                ssl=self._context(), server_hostname=self._access.cluster.server_name or None, timeout=limits,
            )  # fmt: skip
            async with asking as answer:
                code = str(answer.status)
                if answer.status not in (200, 304):
                    raise await _refusal(path, answer)
                yield answer
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            problem = str(error) or type(error).__name__
            raise ApiError(f"{path}: {problem}") from error
        finally:
            self.requests[kind, verb, code] += 1

    def _context(self) -> ssl.SSLContext | bool:
        """TLS with the certificates as they are now: files change when they are renewed."""
        if not self._access.server.startswith("https:"):
            return True
        stamp = self._access.stamp()
        if self._tls is None or stamp != self._stamp:
            self._tls, self._stamp = self._access.tls(), stamp
        return self._tls

    async def _credentials(self) -> dict[str, str]:
        token = self._access.token()
        if not token and self._access.user.exec is not None:
            if self._plugin[1] - 10 < self._ctx.clock.now_ns() / SECOND:
                self._plugin = await run_plugin(self._access)
            token = self._plugin[0]
        return {"Authorization": f"Bearer {token}"} if token else {}


async def _refusal(path: str, answer: aiohttp.ClientResponse) -> ApiError:
    text = await answer.content.read(1 << 14)
    message = status(text)[1] or " ".join(text.decode("utf-8", "replace").split())
    after = answer.headers.get("Retry-After", "")
    seconds = min(float(after), 600.0) if after.isascii() and after.isdigit() and len(after) < 9 else None
    return ApiError(f"{path}: {answer.status} {message[:_SHOWN]}".rstrip(), answer.status, seconds)
