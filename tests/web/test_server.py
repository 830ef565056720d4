"""HTTP: every route, who may read, TLS, and addresses that cannot be had."""

import asyncio
import json
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest
from web import described

from flowagent.aggregate.policy import Config, Ranking, Spread
from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.sections import Http, Tls
from flowagent.web.server import Server

ROUTES = (
    "/", "/metrics", "/healthz", "/readyz", "/api/v1/exporters", "/api/v1/kubernetes/snapshot",
    "/api/v1/policies", "/api/v1/openapi.json", "/api/v1/status", "/api/v1/columns", "/api/v1/query",
)  # fmt: skip
OPEN = ("/", "/healthz", "/readyz")
every_route = pytest.mark.parametrize("path", ROUTES)


class Shown:
    """What the server shows, in place of an agent."""

    def __init__(self, missing=()):
        self.missing = list(missing)
        self.accepted = None

    def render_metrics(self, accept):
        self.accepted = accept
        return b"flowagent_build_info 1.0\n", "text/plain; version=0.0.4; charset=utf-8"

    def not_ready(self):
        return self.missing

    snapshot = b"what is known", '"tag"'

    def kubernetes_snapshot(self):
        return self.snapshot

    def exporters(self):
        return [{"exporter": "192.0.2.1", "templates": 3}]

    def policies(self):
        return {}

    async def status(self):
        return {"version": "1"}

    @property
    def desk(self):
        return self

    def describe(self):
        return {"dimensions": []}

    def parse(self, parameters):
        return ()

    async def answer(self, query):
        return b"{}"


@asynccontextmanager
async def serving(shown=None, **settings):
    """A server and a function that gets a path from it: (status, headers, text)."""
    settings = {"listen": "127.0.0.1:0"} | settings
    trusted = settings.pop("trusted", None)
    async with (
        Server(Http(**settings), shown or Shown(), Context("http")) as server,
        aiohttp.ClientSession() as session,
    ):

        async def get(path, method="GET", **headers):
            url = f"{'https' if trusted else 'http'}://127.0.0.1:{server.port}{path}"
            async with session.request(method, url, headers=headers, ssl=trusted or True) as response:
                return response.status, response.headers, await response.text()

        yield get


def token_file(path, text="secret\n"):
    file = path / "token"
    file.write_text(text)
    return str(file)


@every_route
async def test_every_route_answers(path):
    async with serving() as get:
        status, headers, text = await get(path)
    assert status == 200
    assert text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    expected = "no-store" if path.startswith("/api/") else "no-cache" if path == "/" else None
    assert headers.get("Cache-Control") == expected


async def test_metrics_in_the_format_that_was_asked_for():
    shown = Shown()
    async with serving(shown) as get:
        _, headers, text = await get("/metrics", Accept="application/openmetrics-text")
    assert text == "flowagent_build_info 1.0\n"
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert shown.accepted == "application/openmetrics-text"


async def test_healthy_even_where_not_ready():
    async with serving(Shown(["udp: not listening", "file: disk full"])) as get:
        assert (await get("/healthz"))[::2] == (200, "ok\n")
        assert (await get("/readyz"))[::2] == (503, "udp: not listening\nfile: disk full\n")


async def test_ready():
    async with serving() as get:
        assert (await get("/readyz"))[::2] == (200, "ready\n")


async def test_exporters_as_json():
    async with serving() as get:
        status, headers, text = await get("/api/v1/exporters")
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(text) == [{"exporter": "192.0.2.1", "templates": 3}]
    described.check("GET", "/api/v1/exporters", status, headers["Content-Type"], json.loads(text))


async def test_the_snapshot_of_a_cluster():
    shown = Shown()
    async with serving(shown) as get:
        status, headers, text = await get("/api/v1/kubernetes/snapshot")
        assert (status, headers["ETag"], text) == (200, '"tag"', "what is known")
        again = await get("/api/v1/kubernetes/snapshot", **{"If-None-Match": '"tag"'})
        assert again[0] == 304
        shown.snapshot = None
        assert (await get("/api/v1/kubernetes/snapshot"))[0] == 404
        shown.snapshot = b"", ""
        assert (await get("/api/v1/kubernetes/snapshot"))[0] == 503


async def test_the_page_links_to_every_route():
    async with serving() as get:
        _, headers, text = await get("/")
    assert headers["Content-Type"].startswith("text/html")
    assert [path for path in ROUTES[1:] if f'href="{path}"' not in text] == []


async def test_the_description_of_the_api_is_served():
    async with serving() as get:
        _, headers, text = await get("/api/v1/openapi.json")
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(text) == described.DOCUMENT


async def test_every_route_is_described_and_every_description_is_a_route():
    async with Server(Http(listen="127.0.0.1:0"), Shown(), Context("http")) as server:
        routes = {(route.resource.canonical, route.method) for route in server._runner.app.router.routes()}
    assert {route for route in routes if route[1] != "HEAD"} == {route for route, _ in described.operations()}


def test_the_described_settings_are_those_there_are():
    schemas = described.DOCUMENT["components"]["schemas"]
    for name, settings in (("Settings", Config), ("Ranking", Ranking), ("Spread", Spread)):
        assert [*schemas[name]["properties"]] == [*settings.__struct_fields__]
        defaults = msgspec.to_builtins(settings() if name == "Settings" else settings(of="src_addr"))
        for field, schema in schemas[name]["properties"].items():
            assert schema.get("default", defaults[field]) == defaults[field]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nope", "GET", 404),
        ("/metrics", "POST", 405),
        ("/api/v1/nope", "GET", 404),
        ("/api/v1/exporters", "POST", 405),
    ],
)
async def test_what_there_is_not(path, method, status):
    async with serving() as get:
        answered, headers, text = await get(path, method)
        assert answered == status
        assert headers["Content-Type"].startswith("application/json" if "/api/" in path else "text/plain")
        assert "Traceback" not in text


async def test_who_writes_without_a_token_names_the_agent_by_its_address():
    async with serving(listen="localhost:0") as get:
        for host, status in (("localhost", 405), ("127.0.0.1:1", 405), ("rebound.example", 403)):
            assert (await get("/metrics", "POST", Host=host))[0] == status
            assert (await get("/metrics", "GET", Host=host))[0] == 200
            assert (await get("/metrics", "OPTIONS", Host=host))[0] == 204


async def test_without_a_token_the_api_needs_a_host_that_no_other_can_name():
    async with serving() as get:
        assert (await get("/api/v1/status", Host="rebound.example"))[0] == 403
        assert (await get("/", Host="rebound.example"))[0] == 200
    async with serving(open=True) as get:
        assert (await get("/api/v1/status", Host="agent.example"))[0] == 200
        assert (await get("/api/v1/policies", "POST", Host="agent.example"))[0] == 403


@every_route
async def test_a_token_is_asked_for_but_by_probes(tmp_path, path):
    async with serving(token_file=token_file(tmp_path)) as get:
        status, headers, text = await get(path)
        assert status == (200 if path in OPEN else 401)
        if path not in OPEN:
            assert headers["WWW-Authenticate"] == "Bearer"
            is_api = path.startswith("/api/")
            assert text == ('{"error":"a bearer token is needed"}' if is_api else "a bearer token is needed\n")
        assert (await get(path, Authorization="Bearer secret"))[0] == 200


@pytest.mark.parametrize(
    "given",
    ["secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secret2", "Basic secret", "Bearer geheim", "Bearer ü"],
)
async def test_wrong_tokens(tmp_path, given):
    async with serving(token_file=token_file(tmp_path)) as get:
        assert (await get("/metrics", Authorization=given))[0] == 401


async def test_a_header_that_is_not_text(tmp_path):
    settings = Http(listen="127.0.0.1:0", token_file=token_file(tmp_path))
    async with Server(settings, Shown(), Context("http")) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
    assert answer.split()[1] in (b"400", b"401")


@pytest.mark.parametrize(
    ("text", "problem"), [("", "is empty; write the token into it"), ("  \n", "is empty; write the token into it")]
)
def test_an_empty_token_file(tmp_path, text, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        Server(Http(token_file=token_file(tmp_path, text)), Shown(), Context("http"))
    assert caught.value.path == "http.token_file"


def test_token_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing", "binary"):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            Server(Http(token_file=str(tmp_path / name)), Shown(), Context("http"))
        assert caught.value.path == "http.token_file"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Certificate and key for 127.0.0.1, signed by itself."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


@pytest.mark.service("openssl")
async def test_tls(certificate):
    cert, key = certificate
    async with serving(tls=Tls(cert=cert, key=key), trusted=ssl.create_default_context(cafile=cert)) as get:
        assert (await get("/healthz"))[::2] == (200, "ok\n")


@pytest.mark.service("openssl")
async def test_who_speaks_tls_does_not_speak_http(certificate):
    cert, key = certificate
    async with serving(tls=Tls(cert=cert, key=key)) as get:
        with pytest.raises(aiohttp.ClientError):
            await get("/healthz")


@pytest.mark.service("openssl")
async def test_a_certificate_that_does_not_fit_its_key(certificate, tmp_path):
    (tmp_path / "key.pem").write_text("not a key")
    for key in (str(tmp_path / "key.pem"), str(tmp_path / "missing.pem")):
        with pytest.raises(ConfigError, match=r"cannot use .*cert.pem with .*\.pem") as caught:
            async with serving(tls=Tls(cert=certificate[0], key=key)):
                pass
        assert caught.value.path == "http.tls"


async def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"cannot listen on TCP 127.0.0.1:{port}: .*Address already in use"
        ) as caught:
            async with serving(listen=f"127.0.0.1:{port}"):
                pass
    assert caught.value.path == "http.listen"
    assert caught.value.problem.endswith("choose another or end the program that has it")


async def test_an_address_that_is_not_ours():
    with pytest.raises(ConfigError, match=r"cannot listen on TCP 192\.0\.2\.1:0"):
        async with serving(listen="192.0.2.1:0"):
            pass


async def test_any_address_is_of_ipv4_and_ipv6():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    async with (
        Server(Http(listen="[::]:0"), Shown(), Context("http")) as server,
        aiohttp.ClientSession() as session,
    ):
        for host in ("127.0.0.1", "[::1]"):
            async with session.get(f"http://{host}:{server.port}/healthz") as response:
                assert response.status == 200


async def test_no_address_no_server():
    async with Server(Http(listen=None), Shown(), Context("http")) as server:
        assert server.port is None


async def test_the_port_is_free_again_afterwards():
    async with Server(Http(listen="127.0.0.1:0"), Shown(), Context("http")) as server:
        port = server.port
    async with Server(Http(listen=f"127.0.0.1:{port}"), Shown(), Context("http")) as server:
        assert server.port == port


async def test_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no ::1 here")
    async with (
        Server(Http(listen="[::1]:0"), Shown(), Context("http")) as server,
        aiohttp.ClientSession() as session,
        session.get(f"http://[::1]:{server.port}/healthz") as response,
    ):
        assert response.status == 200
