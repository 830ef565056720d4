"""HTTP: metrics, health, the API and the web UI."""

from __future__ import annotations

import hmac
import ssl
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from aiohttp import web

from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.sections import Http, is_loopback, parse_listen
from flowagent.web import pages
from flowagent.web.answers import Handler, Problem, answer, one_format
from flowagent.web.policies import Policies
from flowagent.web.policies import Store as PolicyStore
from flowagent.web.query import Questions
from flowagent.web.query import Store as HistoryStore

MAX_BODY = 64 << 10
"""Bytes of a request's body."""
MAX_LINE = 64 << 10
"""Bytes of a request's first line: a filter of 4096 characters, each as %XX of up to four bytes, fits."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_GUARDED = ("/metrics", "/api/")
"""What begins so needs the token; all else is the same for everybody."""


class Agent(PolicyStore, HistoryStore, Protocol):
    """What the server shows, and where policies are added and removed."""

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type."""

    def not_ready(self) -> list[str]:
        """What is missing."""

    def exporters(self) -> list[dict[str, Any]]:
        """The exporters known."""

    def kubernetes_snapshot(self) -> tuple[bytes, str] | None:
        """What is known of the cluster, and its ETag; None where nothing asks an API server."""


class Server:
    """Serves inside `async with`; does nothing where no address is configured."""

    def __init__(self, config: Http, agent: Agent, ctx: Context) -> None:
        self._config = config
        self._agent = agent
        self._ctx = ctx
        self._runner: web.AppRunner | None = None
        self._token = self._read_token()
        self.port: int | None = None

    def _read_token(self) -> str | None:
        if self._config.token_file is None:
            return None
        try:
            token = Path(self._config.token_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("http.token_file", f"cannot read {self._config.token_file}: {error}") from error
        if not token:
            raise ConfigError("http.token_file", f"{self._config.token_file} is empty; write the token into it")
        return token

    def _tls(self) -> ssl.SSLContext | None:
        if self._config.tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._config.tls.cert, self._config.tls.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                "http.tls", f"cannot use {self._config.tls.cert} with {self._config.tls.key}: {error}"
            ) from error
        return context

    async def __aenter__(self) -> Self:
        if self._config.listen is None:
            return self
        host, port = parse_listen(self._config.listen, "http.listen")
        app = web.Application(middlewares=[one_format(self._ctx.log), self._guard()], client_max_size=MAX_BODY)
        app.on_response_prepare.append(self._harden)
        questions = Questions(self._agent)
        app.add_routes([
            web.get("/metrics", self._metrics),
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/api/v1/exporters", self._exporters),
            web.get("/api/v1/kubernetes/snapshot", self._kubernetes),
            web.get("/api/v1/openapi.json", self._openapi),
            *Policies(self._agent).routes(),
            *questions.routes(),
            *pages.routes(),
        ])  # fmt: skip
        app.on_shutdown.append(questions.end)
        self._runner = web.AppRunner(app, access_log=None, max_line_size=MAX_LINE)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, host, port, ssl_context=self._tls())
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            self._runner = None
            raise ConfigError(
                "http.listen",
                f"cannot listen on TCP {self._config.listen}: {error.strerror}; "
                "choose another or end the program that has it",
            ) from error
        except ConfigError:
            await self._runner.cleanup()
            self._runner = None
            raise
        self.port = self._runner.addresses[0][1]
        if self._config.open and self._token is None and not is_loopback(host):
            self._ctx.log.warning("all who reach %s may read: http.open says so", self._config.listen)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def address(self) -> str | None:
        """Where a browser finds it; None while it does not serve."""
        if self.port is None or self._config.listen is None:
            return None
        host, _ = parse_listen(self._config.listen, "http.listen")
        local = "127.0.0.1" if host in ("::", "0.0.0.0") else f"[{host}]" if ":" in host else host  # noqa: S104
        return f"{'https' if self._config.tls else 'http'}://{local}:{self.port}/"

    def _guard(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._token is not None and request.path.startswith(_GUARDED):
                given = request.headers.get("Authorization", "")
                if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {self._token}".encode()):
                    raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"}, text="a bearer token is needed")
            may_read = self._config.open and request.method in _SAFE
            is_asked = request.path.startswith("/api/") or request.method not in _SAFE
            if self._token is None and is_asked and not may_read and not self._is_named(request):
                raise web.HTTPForbidden(
                    text="the Host header is neither an IP address nor localhost nor the name in http.listen; "
                    "call the agent by one of these, or set http.token_file"
                )
            return await handler(request)

        return guard

    def _is_named(self, request: web.Request) -> bool:
        """Whether the client means this agent.

        A name that others control may lead a browser here from their page (DNS
        rebinding), which then counts as of the same origin.
        """
        listen, _ = parse_listen(self._config.listen or ":0", "http.listen")
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
            return name in ("localhost", listen.lower()) or ip_address(name) is not None
        except ValueError:
            return False

    @staticmethod
    async def _harden(request: web.Request, response: web.StreamResponse) -> None:
        if request.path.startswith("/api/"):
            response.headers["Cache-Control"] = "no-store"
        policy = pages.POLICY if pages.is_page(request.path) else "default-src 'none'"
        response.headers["Content-Security-Policy"] = policy
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._agent.render_metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = self._agent.not_ready()
        return web.Response(text="\n".join(missing or ["ready"]) + "\n", status=503 if missing else 200)

    async def _exporters(self, _: web.Request) -> web.Response:
        return answer(self._agent.exporters())

    async def _kubernetes(self, request: web.Request) -> web.Response:
        found = self._agent.kubernetes_snapshot()
        if found is None:
            raise Problem(404, "no enricher of type kubernetes runs here; add one to the section enrich")
        body, tag = found
        if not body:
            raise Problem(503, "the first list of the cluster's objects is not done yet; ask again in some seconds")
        if tag == request.headers.get("If-None-Match"):
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(body=body, headers={"ETag": tag}, content_type="application/octet-stream")

    async def _openapi(self, _: web.Request) -> web.Response:
        text = resources.files("flowagent.web").joinpath("openapi.json").read_text("utf-8")
        return web.Response(text=text, content_type="application/json")
