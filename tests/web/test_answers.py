"""JSON in and out: what is taken as a body, what an error looks like, what numbers become."""

import gzip
import json
import logging
import math
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from flowagent.web.answers import Problem, _parsed, answer, one_format, read_object

JSON = "application/json; charset=utf-8"


async def echo(request):
    return answer(await read_object(request))


async def broken(_):
    raise ZeroDivisionError("of all things")


async def refused(_):
    raise Problem(418, "a teapot", "pot", 0)


@asynccontextmanager
async def serving():
    """A function that asks an application of a few routes: (status, headers, bytes)."""
    app = web.Application(middlewares=[one_format(logging.getLogger("flowagent"))], client_max_size=1000)
    app.add_routes([
        web.post("/api/echo", echo), web.get("/api/broken", broken), web.get("/broken", broken),
        web.get("/api/refused", refused), web.get("/page", refused),
    ])  # fmt: skip
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:

            async def ask(method, path, data=None, headers=None):
                async with session.request(method, path, data=data, headers=headers) as response:
                    return response.status, response.headers, await response.read()

            yield ask
    finally:
        await runner.cleanup()


async def post(body, **headers):
    """What becomes of a body: (status, plain data)."""
    async with serving() as ask:
        headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        status, answered, text = await ask("POST", "/api/echo", body, headers)
    assert answered["Content-Type"] == JSON
    return status, json.loads(text)


@pytest.mark.parametrize("value", [{}, {"é": [1, -2.5, None, True, "ü\n"]}, {"a": 2**70}])
async def test_objects_are_taken(value):
    assert await post(json.dumps(value)) == (200, value)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "text/plain; application/json", "", "json"]
)
async def test_other_types_of_content_are_refused(content_type):
    status, body = await post(b"{}", Content_Type=content_type)
    assert status == 415
    assert "application/json" in body["error"]


async def test_parameters_of_the_type_do_not_matter():
    assert await post(b"{}", Content_Type="Application/JSON; charset=utf-8") == (200, {})


@pytest.mark.parametrize(
    ("body", "position", "text"),
    [
        (b"", 0, "expecting value in line 1, column 1"),
        (b'{"a": 1', 7, "delimiter"),
        ('{"é": x}'.encode(), 6, "expecting value"),
        (b'{\n"a" 1}', 6, "in line 2, column 5"),
        (b"{} {}", 3, "extra data"),
        (b'{"a": "\xff"}', 7, "UTF-8"),
    ],
)
async def test_what_is_not_json_is_pointed_at(body, position, text):
    status, error = await post(body)
    assert (status, error["position"]) == (400, position)
    assert text in error["error"]
    assert "path" not in error


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b"[1]", "is a list"),
        (b"null", "is a NoneType"),
        (b'{"a": ' + b"1" * 900 + b"}", None),
    ],
)
async def test_other_things_that_are_no_objects(body, text):
    status, value = await post(body)
    assert status == (400 if text else 200)
    assert text is None or text in value["error"]


def deep(levels):
    return b'{"a": ' + b"[" * levels + b"]" * levels + b"}"


def test_numbers_without_end_and_nesting_without_end():
    for body in (b'{"a": ' + b"1" * 5000 + b"}", deep(100_000)):
        with pytest.raises(Problem) as caught:
            _parsed(body)
        assert caught.value.status == 400


async def test_large_bodies_are_refused_however_they_come():
    large = b'{"a": "' + b"x" * 2000 + b'"}'

    async def parts():
        yield large

    for body, headers in ((large, {}), (parts(), {}), (gzip.compress(large), {"Content_Encoding": "gzip"})):
        status, error = await post(body, **headers)
        assert status == 413
        assert "1000" in error["error"]


async def test_a_body_that_is_not_what_its_encoding_says():
    status, error = await post(b"no gzip", Content_Encoding="gzip")
    assert status == 400
    assert error["error"]


async def test_problems_have_their_fields():
    async with serving() as ask:
        status, headers, body = await ask("GET", "/api/refused")
    assert (status, headers["Content-Type"]) == (418, JSON)
    assert json.loads(body) == {"error": "a teapot", "path": "pot", "position": 0}


async def test_a_fault_is_an_error_object_and_in_the_log(caplog):
    async with serving() as ask:
        status, headers, body = await ask("GET", "/api/broken")
        assert (status, headers["Content-Type"]) == (500, JSON)
        assert json.loads(body)["error"].startswith("ZeroDivisionError")
        assert (await ask("GET", "/broken"))[1]["Content-Type"].startswith("text/plain")
    assert "of all things" in caplog.text


async def test_below_api_errors_are_objects_and_elsewhere_text():
    async with serving() as ask:
        status, headers, body = await ask("GET", "/api/nope?x=1")
        assert (status, headers["Content-Type"]) == (404, JSON)
        assert json.loads(body) == {"error": "there is nothing at /api/nope; see /api/v1/openapi.json"}
        status, headers, body = await ask("GET", "/nope")
        assert (status, headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
        status, headers, body = await ask("DELETE", "/api/echo")
        assert (status, headers["Allow"]) == (405, "OPTIONS, POST")
        assert json.loads(body) == {"error": "there is no DELETE here; allowed: OPTIONS, POST"}


async def test_options_tell_the_methods_and_give_no_other_origin_leave():
    async with serving() as ask:
        headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        status, answered, body = await ask("OPTIONS", "/api/echo", headers=headers)
        assert (status, answered["Allow"], body) == (204, "OPTIONS, POST", b"")
        assert not [name for name in answered if name.lower().startswith("access-control")]
        assert (await ask("OPTIONS", "/page"))[1]["Allow"] == "GET, HEAD, OPTIONS"
        assert (await ask("OPTIONS", "/api/nope"))[0] == 404


async def test_head_has_no_body():
    async with serving() as ask:
        status, headers, body = await ask("HEAD", "/api/refused")
    assert (status, headers["Content-Type"], body) == (418, JSON, b"")


def test_no_number_is_null_and_large_ones_are_numbers():
    body = answer({"a": [math.nan, math.inf, -math.inf], "b": 2**64, "c": 1e300}).body
    assert json.loads(body, parse_constant=pytest.fail) == {"a": [None] * 3, "b": 2**64, "c": 1e300}
