"""The webhook sink: rows as bodies of one request, in every schema and format, and in more where that is too large."""

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from answering import delivered

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.config import parse
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.export.schemas import FORMATS, encoder
from flowagent.export.webhook import Config

DOCS = Path(__file__).parents[2] / "docs" / "sinks" / "webhook.md"


def rows(n, first=0):
    numbers = np.arange(first, first + n, dtype=np.uint64)
    addresses = np.stack([np.zeros(n, np.uint64), np.uint64(0xFFFF0A000000) + numbers])
    return Batch({"src_addr": addresses, "bytes": numbers})


def config(url, **settings):
    return msgspec.convert({"url": url, **settings}, Config)


async def write(server, batch, **settings):
    async with config(server.url, **settings).build(Context("hook")) as sink:
        return await sink.write(batch)


def numbers(server):
    return sorted(json.loads(line)["bytes"] for came in server.taken for line in came.body.splitlines())


@pytest.mark.parametrize("gzip", [True, False])
async def test_rows_are_lines_of_json(serve, gzip):
    server = await serve()
    assert await write(server, rows(2), gzip=gzip) == len(server.taken[0].body)
    (came,) = server.taken
    assert came.body == b'{"src_addr":"10.0.0.0","bytes":0}\n{"src_addr":"10.0.0.1","bytes":1}\n'
    assert came.headers["Content-Type"] == "application/x-ndjson"
    assert came.headers.get("Content-Encoding") == ("gzip" if gzip else None)


@pytest.mark.parametrize(("schema", "format_"), [(s, f) for s, formats in FORMATS.items() for f in formats])
async def test_every_schema_in_every_format(serve, schema, format_):
    server = await serve()
    await write(server, rows(3), schema=schema, format=format_)
    (came,) = server.taken
    made = encoder(schema, format_)
    assert came.body == made.joined(rows(3))
    assert came.headers["Content-Type"] == ("application/x-ndjson" if format_ == "json" else made.content_type)


async def test_headers_and_credentials(serve, tmp_path):
    (tmp_path / "token").write_text("abc\n")
    server = await serve()
    await write(server, rows(1), token_file=str(tmp_path / "token"), headers={"X-Source": "n1"})
    assert server.taken[0].headers["Authorization"] == "Bearer abc"
    assert server.taken[0].headers["X-Source"] == "n1"


async def test_too_large_bodies_are_divided(serve):
    server = await serve(max_bytes=500)
    await write(server, rows(1000))
    assert numbers(server) == list(range(1000))


async def test_bodies_are_bounded(serve):
    server = await serve()
    await write(server, rows(1000), max_body_bytes="4kB")
    assert max(len(came.body) for came in server.taken) <= 4000
    assert numbers(server) == list(range(1000))


async def test_errors(serve):
    with pytest.raises(Rejected, match="refused: 422 no such field"):
        await write(await serve((422, "no such field", {})), rows(1))
    with pytest.raises(Retry) as raised:
        await write(await serve((503, "", {"Retry-After": "9"})), rows(1))
    assert raised.value.after == 9


async def test_no_rows_no_request(serve):
    server = await serve()
    assert await write(server, rows(0)) == 0
    assert server.requests == 0


async def test_no_row_is_lost_and_none_comes_twice(serve):
    server = await serve((429, "", {}), "reset", 204, "hang", 500, 302, 204, "reset")
    settings = config(server.url, timeout=0.5, batch_rows=300, spool=0, max_wait=0)
    counts = await delivered(settings, [rows(100, start) for start in range(0, 2000, 100)])
    assert numbers(server) == list(range(2000))
    assert counts == {("exported", ""): 2000}


async def test_the_example_of_the_documentation_works(serve):
    server = await serve()
    (block,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (kind,) = parse({"export": yaml.safe_load(block)}, {"PORT": str(server.port)}).export
    async with kind.settings.build(Context(kind.name)) as sink:
        await sink.write(rows(1))
    (came,) = server.taken
    assert (came.path, came.headers["X-Source"]) == ("/flows", "flowagent")
    assert json.loads(came.body) == {"SrcAddr": "10.0.0.0", "Bytes": 0, "Etype": 2048}


def test_settings_that_are_wrong():
    for settings, path in (
        ({"schema": "goflow2", "format": "msgpack"}, "hook.format"),
        ({"max_body_bytes": "big"}, "hook.max_body_bytes"),
        ({"url": "x"}, "hook.url"),
    ):
        with pytest.raises(ConfigError) as raised:
            config(**{"url": "http://x", **settings}).build(Context("hook"))
        assert raised.value.path == path


def test_columns_are_those_of_the_schema():
    assert config("http://x").build(Context("hook")).columns() is None
    assert "src_addr" in config("http://x", schema="goflow2").build(Context("hook")).columns()
