"""HTTP POST to one URL: session, TLS, credentials, and what answers and broken connections mean to a sink.

Shared by the sinks that speak HTTP. No retries here, and no redirects: a
redirected POST may arrive as a GET without its body.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Self
from urllib.parse import SplitResult, urlsplit

import aiohttp
import msgspec

from flowagent import __version__
from flowagent.clock import SECOND
from flowagent.component import Context, Settings
from flowagent.delivery import Delivery
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.secret import secret
from flowagent.tls import ClientTls

TOO_LARGE, TOO_LONG, TOO_OLD, REFUSED = "too_large", "too_long", "too_old", "refused"
"""Reasons of a `Refusal`: too much at once, a row that is too long, rows that are too old, anything else."""
_LONGEST = 3600.0
"""Seconds that a server may ask to be left alone for."""
_SHOWN = 300
"""Characters of an answer that are looked at in messages."""
_ANSWER = 64 << 10
"""Bytes of an answer that are read."""
_CONNECT_SECONDS = 10.0
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_OURS = ("authorization", "content-type", "content-encoding", "content-length", "host", "transfer-encoding")
_ADVICE = {
    401: "check the credentials", 403: "check the credentials", 407: "check the credentials",
    404: "check the path of url", 405: "check the path of url",
}  # fmt: skip


class Basic(Settings, frozen=True):
    """User name and password."""

    username: str
    password_file: str
    """File with the password; read again for every request."""


class Posting(Delivery, frozen=True, kw_only=True):
    """Base of the Configs of sinks that post."""

    url: str
    """Where to; `http` or `https`."""
    basic: Basic | None = None
    """`{username: NAME, password_file: FILE}`."""
    token_file: str | None = None
    """File with a bearer token; read again for every request."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """More headers to send."""
    tls: ClientTls | None = None
    """`{ca: FILE, cert: FILE, key: FILE, server_name: NAME, verify: true}` for `https`; default: the system's CAs."""


Judge = Callable[[int, str], str | None]
"""Takes status and text of an answer; gives a reason to refuse for good, or None for what HTTP says of the status."""


class Refusal(Rejected):
    """The server refuses what was sent, for good; `status` and `text` are its answer."""

    def __init__(self, reason: str, status: int, text: str) -> None:
        super().__init__(reason, f"{status} {_shown(text)}".strip())
        self.status = status
        self.text = text


class Poster:
    """Posts bodies to one URL, inside `async with`; connects when there is something to send."""

    def __init__(self, settings: Posting, ctx: Context, path: str = "", judge: Judge = lambda *_: None) -> None:
        """`path` goes behind a URL that does not end with it already; raises ConfigError."""
        self._ctx = ctx
        self._judge = judge
        self._settings = settings
        parts = _split(settings.url, f"{ctx.name}.url")
        if not parts.path.endswith(path):
            parts = parts._replace(path=parts.path.rstrip("/") + path)
        self.url = parts.geturl()
        self._host = parts.netloc
        self._headers = {"User-Agent": f"flowagent/{__version__}", **_checked(settings.headers, f"{ctx.name}.headers")}
        self._ssl = self._tls(parts)
        if settings.basic is not None and settings.token_file is not None:
            raise ConfigError(f"{ctx.name}.token_file", "cannot be used together with basic; leave out one of them")
        try:
            self._authorization()
        except OSError as error:
            raise ConfigError(f"{ctx.name}.{self._secret_name()}", f"{error}; write the secret into it") from error
        self._is_open = parts.scheme == "http" and parts.hostname not in _LOCAL
        self._session: aiohttp.ClientSession | None = None

    def _tls(self, parts: SplitResult) -> dict[str, object]:
        """What aiohttp wants to know of TLS."""
        tls = self._settings.tls
        if tls is None:
            return {}
        path = f"{self._ctx.name}.tls"
        if parts.scheme != "https":
            raise ConfigError(path, f"has no use with {self.url}; write https:// in url")
        return {"ssl": tls.context(path), "server_hostname": tls.server_name}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=self._headers)
        if self._is_open and (self._settings.basic or self._settings.token_file):
            self._ctx.log.warning("credentials go to %s unencrypted; https:// in url would hide them", self._host)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Returns when the server took the body; raises Retry or Refusal."""
        assert self._session is not None
        try:
            headers = {**headers, **self._authorization()}
            # As a file: of bytes that are many, aiohttp warns.
            data = io.BytesIO(body)
            posting = self._session.post(self.url, data=data, headers=headers, allow_redirects=False, **self._ssl)  # type: ignore[arg-type]
            async with posting as answer:
                text = (await answer.content.read(_ANSWER)).decode("utf-8", "replace")
                if not 200 <= answer.status < 300:
                    raise self._error(answer, text)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise Retry(f"cannot post to {self._host}: {error or type(error).__name__}") from error

    def _error(self, answer: aiohttp.ClientResponse, text: str) -> Retry | Refusal:
        status = answer.status
        reason = self._judge(status, text)
        if reason is None and status == 413:
            reason = TOO_LARGE
        if reason is None and 400 <= status < 500 and status not in (408, 425, 429, *_ADVICE):
            reason = REFUSED
        if reason is not None:
            return Refusal(reason, status, text)
        problem = f"{self._host} answers {status} {_shown(text)}".strip()
        if 300 <= status < 400:
            problem = f"{self.url} is redirected to {answer.headers.get('Location')}; write that in url"
        elif status in _ADVICE:
            problem += f"; {_ADVICE[status]}"
        return Retry(problem, _retry_after(answer.headers.get("Retry-After", ""), self._ctx.clock.now_ns()))

    def _secret_name(self) -> str:
        return "token_file" if self._settings.basic is None else "basic.password_file"

    def _authorization(self) -> dict[str, str]:
        """The header, from the files as they are now; OSError where they cannot be used."""
        basic, token_file = self._settings.basic, self._settings.token_file
        if basic is not None:
            pair = f"{basic.username}:{secret(basic.password_file)}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {} if token_file is None else {"Authorization": f"Bearer {secret(token_file)}"}


def _split(url: str, path: str) -> SplitResult:
    """The parts of a URL that can be posted to."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(path, f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(path, f"{url!r} is not a URL to post to; write http://host:port or https://host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(path, "holds credentials; give them in basic or token_file")
    return parts._replace(fragment="")


def _checked(headers: Mapping[str, str], path: str) -> Mapping[str, str]:
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise ConfigError(f"{path}.{name}", f"{value!r} cannot be sent as a header")
        if name.lower() in _OURS:
            raise ConfigError(f"{path}.{name}", "is set by the sink; credentials go into basic or token_file")
    return headers


def _shown(text: str) -> str:
    """The beginning of an answer, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _retry_after(text: str, now_ns: int) -> float | None:
    """Seconds, from a number of them or a date (RFC 9110, section 10.2.3); None where that says nothing."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_ns / SECOND
    return min(seconds, _LONGEST) if seconds > 0 else None
