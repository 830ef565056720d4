"""Asks a running agent over its HTTP API, here or elsewhere; every failure says what to do about it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from flowagent import __version__
from flowagent.errors import ConfigError, FlowagentError
from flowagent.shown import printable

_LIMITS = aiohttp.ClientTimeout(30, sock_connect=5, sock_read=20)
_MAX_BODY = 64 << 20
_SHOWN = 300


class Unanswered(FlowagentError):
    """The agent cannot be asked, or refuses; `path` and `position` say what of the question was wrong, if any of it."""

    def __init__(self, problem: str, path: str = "", position: int | None = None) -> None:
        super().__init__(problem)
        self.path, self.position = path, position


class _Error(msgspec.Struct):
    error: str
    path: str = ""
    position: int | None = None


@dataclass(frozen=True)
class Access:
    """Where an agent is and what lets one in; raises ConfigError."""

    url: str
    token_file: Path | None = None
    """Read again for every request, so that it may change."""
    ca: Path | None = None
    """Certificates to trust for https; None: the system's."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError as error:
            raise ConfigError("--url", f"{self.url!r} is not a URL: {error}; write http://host:port") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigError("--url", f"{self.url!r} is not the URL of an agent; write http://host:port")

    def token(self) -> str | None:
        """The bearer token; raises ConfigError."""
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not ASCII text"
            raise ConfigError("--token-file", f"cannot read {self.token_file}: {reason}") from error
        if not token.isprintable() or not token:
            raise ConfigError("--token-file", f"{self.token_file} holds no token; write one line into it")
        return token

    def tls(self) -> ssl.SSLContext:
        """Whom to trust; raises ConfigError."""
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError("--ca", f"cannot use {self.ca}: {error.strerror or error}; name a file of PEM") from error


class Client:
    """One agent, inside `async with`."""

    def __init__(self, access: Access) -> None:
        """Raises ConfigError."""
        self._access = access
        self._base = access.url.rstrip("/")
        self._tls = access.tls() if access.url.startswith("https") else None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=_LIMITS, headers={"User-Agent": f"flowagent/{__version__}"})
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of an answer; raises Unanswered, or ConfigError for the token."""
        if self._session is None:
            raise RuntimeError("used outside of `async with`")
        token = self._access.token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with self._session.get(
                self._base + path, params=params, headers=headers, ssl=self._tls or True, allow_redirects=False
            ) as answer:
                body = await _body(answer)
                if answer.status != 200:
                    raise self._refused(answer.status, path, body)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(self._unreachable(error)) from error

    def _refused(self, status: int, path: str, body: bytes) -> Unanswered:
        try:
            said = msgspec.json.decode(body, type=_Error)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            said = _Error("")
        if status == 401:
            return Unanswered(f"{self._base} asks for a bearer token; name the file that holds it with --token-file")
        if status == 404 and path.startswith("/api/"):
            why = f" ({printable(said.error[:_SHOWN])})" if said.error else ""
            return Unanswered(f"{self._base} has no {path}{why}: no flowagent is there, an older one, or no history")
        if said.error:
            lines = said.error[:_SHOWN].split("\n")  # of a filter that is wrong with the place below it
            return Unanswered("\n".join(map(printable, lines)), printable(said.path), said.position)
        return Unanswered(f"{self._base}{path} answers with status {status}; is a flowagent there?")

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return f"{self._base}: its certificate is not trusted ({error.certificate_error}); name its CA with --ca"
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            return f"{self._base} does not speak TLS as it should ({error.os_error}); perhaps it is http://"
        if isinstance(error, aiohttp.ClientConnectorError):
            start = "start it with `flowagent run` (or `flowagent demo`), or name another with --url"
            why = os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)
            return f"no agent answers at {self._base} ({why}); {start}"
        if isinstance(error, TimeoutError):
            return f"{self._base} does not answer in time; is the agent overloaded, or another program there?"
        return f"{self._base} ends the connection ({error or type(error).__name__}); is a flowagent there?"

    async def json(self, path: str) -> Any:
        """An answer as plain data; raises Unanswered."""
        body = await self.get(path)
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Unanswered(f"{self._base}{path} answers no JSON; is a flowagent there?") from error


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > _MAX_BODY:
            raise Unanswered(f"the answer has more than {_MAX_BODY >> 20} MiB; ask for less with --top")
    return bytes(body)
