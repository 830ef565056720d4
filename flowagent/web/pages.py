"""The web UI's files, and a page that says so where they are not all there.

They are packed once, when first asked for. Each has a tag, by which a browser asks again and is told
that nothing changed; so an agent of another version never meets pages of the last one.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

from aiohttp import web

from flowagent.web.answers import Problem

PREFIX = "/ui/"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: all comes from the agent; nothing is written into the page or framed by others."""
TYPES = {
    ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain",
}  # fmt: skip
_BUILT = "vendor/SOURCE"


class File(NamedTuple):
    """What is served: packed by gzip and plain."""

    packed: bytes
    plain: bytes
    tag: str
    content_type: str


def is_page(path: str) -> bool:
    """Whether a path is of the UI, which holds nothing secret: it asks for the token itself."""
    return path == "/" or path.startswith(PREFIX)


def routes() -> list[web.RouteDef]:
    """For the application's router."""
    return [web.get("/", _index), web.get(PREFIX + "{name:.+}", _file)]


async def _index(request: web.Request) -> web.StreamResponse:
    files = _files()
    return _send(request, files["index.html" if _BUILT in files else "missing.html"])


async def _file(request: web.Request) -> web.StreamResponse:
    found = _files().get(request.match_info["name"])
    if found is None or not found.content_type:
        raise Problem(404, f"the web UI has no file {request.match_info['name']!r}")
    return _send(request, found)


def _send(request: web.Request, file: File) -> web.StreamResponse:
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("If-None-Match") == file.tag:
        return web.Response(status=304, headers=headers)
    body = file.plain
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        body = file.packed
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers, content_type=file.content_type, charset="utf-8")


@cache
def _files() -> dict[str, File]:
    """All files by their names below `static`."""
    return dict(_walk(resources.files("flowagent.web").joinpath("static"), ""))


def _walk(directory: Traversable, before: str) -> list[tuple[str, File]]:
    found = []
    for entry in directory.iterdir():
        name = before + entry.name
        if entry.is_dir():
            found += _walk(entry, name + "/")
            continue
        plain = entry.read_bytes()
        suffix = name[name.rfind(".") :] if "." in name else ""
        tag = f'"{hashlib.sha256(plain).hexdigest()[:20]}"'
        found.append((name, File(gzip.compress(plain, 6, mtime=0), plain, tag, TYPES.get(suffix, ""))))
    return found
