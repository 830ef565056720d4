"""Sink `otlp`: rows as log records, and the agent's metrics, to an OpenTelemetry Collector or any other OTLP server.

Bodies are protobuf (https://opentelemetry.io/docs/specs/otlp/, version 1).
"""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

import msgspec

from flowagent import __version__
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.export import otlp_logs, otlp_metrics
from flowagent.export.parts import Parts
from flowagent.export.post import REFUSED, Judge, Poster, Posting
from flowagent.metrics import Family
from flowagent.secret import secret
from flowagent.sections import parse_duration, parse_size

PATH = "/v1/logs"
METRICS_PATH = "/v1/metrics"
PARTIAL = "partial"
"""Why rows are missing that were in a request which was taken otherwise."""
_LEVEL = 1
"""Of gzip: attributes repeat so much that more effort saves little."""
_MAY_COME_RIGHT = (502, 503, 504)
"""Answers of 500 and above that the specification allows to try again after."""
_ANSWER = 64 << 10
_METRICS_SECONDS = 5.0
"""How long the metrics of one time may take to send."""
_SHOWN = 300
_MOST_ROWS = 1 << 31
_VARINT, _LENGTH = 0, 2
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Config(Posting, frozen=True, kw_only=True):
    """Send rows as OpenTelemetry logs."""

    header_files: dict[str, str] = msgspec.field(default_factory=dict)
    """More headers, each with a file that holds its value; read again for every request."""
    resource: dict[str, str] = msgspec.field(default_factory=dict)
    """Attributes of the resource, beside `service.name`, `service.version` and `host.name`, or instead of them."""
    gzip: bool = True
    """Compress bodies (Content-Encoding: gzip)."""
    max_body_bytes: str | int = "4MB"
    """Bytes of a body before compression at most; fewer where the server answers 413."""
    metrics_every: str | float = 0
    """Send the agent's metrics, those of /metrics, so often (30s); 0 for never."""

    def build(self, ctx: Context) -> OtlpSink:
        return OtlpSink(self, ctx)


class OtlpSink:
    """One request for what is written at once, more where that is too large for the server."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self._ctx = ctx
        self._gzip = config.gzip
        self._headers = {"Content-Type": "application/x-protobuf"}
        if config.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._header_files = _checked(config.header_files, f"{ctx.name}.header_files")
        own = {"service.name": "flowagent", "service.version": __version__, "host.name": socket.gethostname()}
        self._resource = otlp_logs.resource({**own, **config.resource})
        self._poster = _Poster(config, ctx, PATH, judge)
        self._parts = Parts(ctx, parse_size(config.max_body_bytes, f"{ctx.name}.max_body_bytes"), self._post)
        self._parts.count(PARTIAL, 0)
        self._said = ""
        self.every = parse_duration(config.metrics_every, f"{ctx.name}.metrics_every")
        elsewhere = msgspec.structs.replace(config, url=config.url.removesuffix(PATH))
        self._metrics = Poster(elsewhere, ctx, METRICS_PATH, judge)
        self._since_ns = ctx.metrics.since_ns or ctx.clock.now_ns()
        self._pushes = {"sent": 0, "failed": 0}
        self._not_sent = ""

    async def __aenter__(self) -> Self:
        await self._poster.__aenter__()
        await self._metrics.__aenter__()
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.every:
            await self.push()
        self._ctx.metrics.remove(self._families)
        await self._metrics.__aexit__(*exc)
        await self._poster.__aexit__(*exc)

    def columns(self) -> frozenset[str] | None:
        return None

    async def write(self, batch: Batch) -> int:
        logs = otlp_logs.encode(batch, self._ctx.clock.now_ns())
        return await self._parts.send(len(batch), partial(logs.request, self._resource))

    async def push(self) -> None:
        """All metrics as they are now. What fails is not sent again: the next ones say all that these did."""
        span = otlp_metrics.Span(self._since_ns, self._ctx.clock.now_ns())
        try:
            async with asyncio.timeout(_METRICS_SECONDS):
                for body in otlp_metrics.requests(self._ctx.metrics.collect(), self._resource, span):
                    await self._post_to(self._metrics, body)
        except (Retry, Rejected, TimeoutError) as error:
            self._pushes["failed"] += 1
            problem = str(error) or "no answer in time"
            if problem != self._not_sent:
                self._ctx.log.warning("metrics were not sent: %s", problem)
            self._not_sent = problem
        else:
            self._not_sent = ""
            self._pushes["sent"] += 1

    def _families(self) -> Iterable[Family]:
        yield from self._parts.families()
        text = "Times the metrics of the agent were to be sent, by what came of it."
        pushes = {(self._ctx.name, result): count for result, count in self._pushes.items()}
        yield Family("flowagent_sink_metric_pushes", "counter", text, ("sink", "result"), pushes)

    async def _post_to(self, poster: Poster, body: bytes) -> None:
        try:
            secrets = {name: secret(path, "ascii") for name, path in self._header_files.items()}
        except OSError as error:
            raise Retry(str(error)) from error
        data = gzip.compress(body, _LEVEL, mtime=0) if self._gzip else body
        await poster.post(data, {**self._headers, **secrets})

    async def _post(self, body: bytes) -> None:
        await self._post_to(self._poster, body)
        rejected, why = partial_success(self._poster.answer)
        self._parts.count(PARTIAL, rejected)
        if why != self._said and (rejected or why):
            self._ctx.log.warning("%d rows of a request were refused: %s", rejected, why)
            self._said = why


class _Poster(Poster):
    """Keeps what the server said of the last body that it took."""

    def __init__(self, settings: Posting, ctx: Context, path: str, judge: Judge) -> None:
        super().__init__(settings, ctx, path, judge)
        self.answer = b""
        self._ssl = {**self._ssl, "raise_for_status": self._keep}

    async def _keep(self, answer: Any) -> None:
        """Called by aiohttp as soon as the head of an answer is there; raises nothing."""
        self.answer = await answer.content.read(_ANSWER) if 200 <= answer.status < 300 else b""


def judge(status: int, _: str) -> str | None:
    """What the specification forbids to try again is refused."""
    return REFUSED if status >= 500 and status not in _MAY_COME_RIGHT else None


def partial_success(answer: bytes) -> tuple[int, str]:
    """How many records were refused, and why, of an ExportLogsServiceResponse; 0 where it is something else."""
    message = next((value for number, value in _fields(answer) if number == 1), b"")
    fields = dict(_fields(message)) if isinstance(message, bytes) else {}
    rejected, why = fields.get(1, 0), fields.get(2, b"")
    text = why.decode("utf-8", "replace") if isinstance(why, bytes) else ""
    count = rejected if isinstance(rejected, int) and rejected < _MOST_ROWS else 0
    return count, " ".join(text.split())[:_SHOWN]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's varints and texts, up to the first thing that is neither."""
    place = 0
    try:
        while place < len(message):
            tag, place = _varint(message, place)
            value, place = _varint(message, place)
            if tag & 7 == _LENGTH:
                yield tag >> 3, message[place : place + value]
                place += value
            elif tag & 7 == _VARINT:
                yield tag >> 3, value
            else:
                return
    except IndexError:
        return


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number, and where the next one is."""
    number = shift = 0
    while True:
        octet = message[place]
        number |= (octet & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if octet < 0x80:
            return number, place


def _checked(files: Mapping[str, str], path: str) -> Mapping[str, str]:
    for name, file in files.items():
        if not _NAME.fullmatch(name) or name.lower().startswith("content-"):
            raise ConfigError(
                f"{path}.{name}", "cannot be sent as a header, or is set by the sink; choose another name"
            )
        try:
            secret(file, "ascii")
        except OSError as error:
            raise ConfigError(f"{path}.{name}", f"{error}; write the value into it") from error
    return files
