"""The web UI's files: complete, cached by tag, guarded by a strict policy, small."""

import gzip
import re
from contextlib import asynccontextmanager
from importlib import resources

import aiohttp
import pytest
from aiohttp import web

from flowagent.web import pages
from flowagent.web.answers import one_format

STATIC = resources.files("flowagent.web").joinpath("static")
LINKS = (
    "/metrics", "/healthz", "/readyz", "/api/v1/exporters", "/api/v1/kubernetes/snapshot", "/api/v1/policies",
    "/api/v1/openapi.json", "/api/v1/status", "/api/v1/columns", "/api/v1/query",
)  # fmt: skip
MAX_PACKED = 250_000
MAX_LINES, MAX_ALL_LINES = 400, 2_000
built = pytest.mark.service(str(STATIC.joinpath("vendor", "SOURCE")))  # python hatch_build.py brings it


@asynccontextmanager
async def serving():
    """The files alone, and a function that gets one: (status, headers, bytes as they come)."""
    app = web.Application(middlewares=[one_format(None)])
    app.add_routes(pages.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def get(path, **headers):
            url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
            async with session.get(url, headers={"Accept-Encoding": "identity"} | headers) as response:
                return response.status, response.headers, await response.read()

        yield get
    await runner.cleanup()


@built
async def test_every_file_that_the_page_names_is_served():
    async with serving() as get:
        _, headers, page = await get("/")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        names = re.findall(r'(?:src|href)="(/ui/[^"]+)"', page.decode())
        assert len(names) > 10
        for name in names:
            status, headers, body = await get(name)
            assert (status, bool(body)) == (200, True), name
            assert headers["Content-Type"].split(";")[0] in pages.TYPES.values()


async def test_modules_import_what_there_is():
    for entry in STATIC.iterdir():
        if entry.name.endswith(".js"):
            for name in re.findall(r'from "\./([^"]+)"', entry.read_text("utf-8")):
                assert STATIC.joinpath(name).is_file(), f"{entry.name} imports {name}"


@pytest.mark.parametrize("name", ["index.html", "missing.html"])
def test_without_javascript_the_page_links_to_the_api(name):
    text = STATIC.joinpath(name).read_text("utf-8")
    assert [path for path in LINKS if f'href="{path}"' not in text] == []
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", text), "the policy forbids it"


async def test_a_page_says_so_where_the_libraries_are_missing(monkeypatch):
    files = {name: file for name, file in pages._files().items() if not name.startswith("vendor/")}
    monkeypatch.setattr(pages, "_files", lambda: files)
    async with serving() as get:
        status, _, body = await get("/")
        assert status == 200
        assert b"left out" in body
        assert (await get("/ui/style.css"))[0] == 200


async def test_files_are_packed_and_asked_again_by_their_tags():
    async with serving() as get:
        _, headers, plain = await get("/ui/style.css")
        assert headers["Cache-Control"] == "no-cache"
        assert plain == STATIC.joinpath("style.css").read_bytes()
        _, packed_headers, packed = await get("/ui/style.css", **{"Accept-Encoding": "gzip, br"})
        assert packed_headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed) == plain
        status, _, body = await get("/ui/style.css", **{"If-None-Match": headers["ETag"]})
        assert (status, body) == (304, b"")
        assert (await get("/ui/style.css", **{"If-None-Match": '"other"'}))[0] == 200


@pytest.mark.parametrize(
    "path", ["/ui/nope.js", "/ui/", "/ui/vendor", "/ui/vendor/SOURCE", "/ui/..%2f__init__.py", "/ui/%2e%2e/server.py"]
)
async def test_nothing_else_is_served(path):
    async with serving() as get:
        assert (await get(path))[0] == 404


def own():
    """The UI's own files, vendored ones left out."""
    return [entry for entry in STATIC.iterdir() if entry.is_file()]


def test_own_files_are_short():
    lines = {e.name: len(e.read_text("utf-8").splitlines()) for e in own() if e.name.endswith((".js", ".css", ".html"))}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
    assert sum(count for name, count in lines.items() if name.endswith(".js")) < MAX_ALL_LINES


def test_own_files_begin_with_what_they_are():
    for entry in own():
        if entry.name.endswith(".js"):
            assert entry.read_text("utf-8").startswith("// "), entry.name


@built
def test_all_that_a_browser_loads_is_small():
    packed = {name: len(file.packed) for name, file in pages._files().items() if not name.endswith((".txt", "SOURCE"))}
    assert sum(packed.values()) < MAX_PACKED, packed


@built
def test_every_library_has_its_licence():
    names = {entry.name for entry in STATIC.joinpath("vendor").iterdir()}
    libraries = {name.split(".")[0].lower() for name in names if name.endswith((".js", ".css"))}
    assert {name.removesuffix(".LICENSE.txt") for name in names if name.endswith(".txt")} == libraries
