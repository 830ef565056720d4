"""Sink `webhook`: rows posted to a URL, as lines of JSON unless told otherwise."""

from __future__ import annotations

import gzip
from typing import Literal, Self

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export import schemas
from flowagent.export.parts import Parts
from flowagent.export.post import Poster, Posting
from flowagent.sections import parse_size

NDJSON = "application/x-ndjson"
_LEVEL = 3
"""Of gzip: higher ones take much longer and save little."""


class Config(Posting, frozen=True, kw_only=True):
    """Post rows to a URL."""

    schema: Literal["canonical", "netobserv", "goflow2"] = "canonical"
    """Names and values of the fields; see docs/fields.md."""
    format: Literal["json", "msgpack", "protobuf"] = "json"
    """`json` is one object a line (application/x-ndjson)."""
    gzip: bool = True
    """Compress bodies (Content-Encoding: gzip)."""
    max_body_bytes: str | int = "10MB"
    """Bytes of a body before compression at most; fewer where the server answers 413."""

    def build(self, ctx: Context) -> WebhookSink:
        return WebhookSink(self, ctx)


class WebhookSink:
    """One request for what is written at once, more where that is too large for the server."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self._ctx = ctx
        self._encoder = schemas.encoder(config.schema, config.format, path=ctx.name)
        self._gzip = config.gzip
        self._headers = {"Content-Type": NDJSON if config.format == "json" else self._encoder.content_type}
        if config.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._poster = Poster(config, ctx)
        self._parts = Parts(ctx, parse_size(config.max_body_bytes, f"{ctx.name}.max_body_bytes"), self._post)

    async def __aenter__(self) -> Self:
        await self._poster.__aenter__()
        self._ctx.metrics.add(self._parts.families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._parts.families)
        await self._poster.__aexit__(*exc)

    def columns(self) -> frozenset[str] | None:
        return self._encoder.columns

    async def write(self, batch: Batch) -> int:
        return await self._parts.send(len(batch), lambda start, stop: self._encoder.joined(batch.rows(start, stop)))

    async def _post(self, body: bytes) -> None:
        await self._poster.post(gzip.compress(body, _LEVEL, mtime=0) if self._gzip else body, self._headers)
