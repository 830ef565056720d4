"""TLS towards servers: whom they trust, who they are, and files that are no good."""

import ssl
import subprocess

import pytest
from answering import Answering

from flowagent.component import Context
from flowagent.errors import ConfigError, Retry
from flowagent.export.post import Poster, Posting
from flowagent.tls import ClientTls

pytestmark = pytest.mark.service("openssl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Make certificates for a name, signed by themselves: files of certificate and key."""
    directory = tmp_path_factory.mktemp("tls")

    def make(name, *options):
        cert, key = directory / f"{name}.pem", directory / f"{name}.key"
        if not cert.exists():
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                 *(options or ["-nodes"]), "-days", "1", "-subj", f"/CN={name}",
                 "-addext", f"subjectAltName={'IP' if name[0].isdigit() else 'DNS'}:{name}",
                 "-keyout", key, "-out", cert],
                check=True,
                capture_output=True,
            )  # fmt: skip
        return str(cert), str(key)

    return make


async def post(server_pair, tls, client_ca=None):
    """One request to a server of this certificate, which may want to know the client's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    context.load_cert_chain(*server_pair)
    context.verify_mode = ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE
    server = await Answering().start(context)
    try:
        async with Poster(Posting(url=server.url, tls=tls), Context("out")) as poster:
            await poster.post(b"x", {})
        return server.requests
    finally:
        await server.stop()


async def test_a_server_that_is_trusted(pair):
    server = pair("127.0.0.1")
    assert await post(server, ClientTls(ca=server[0])) == 1


async def test_a_server_that_is_not(pair):
    for tls in (None, ClientTls(), ClientTls(ca=pair("other.example")[0])):
        with pytest.raises(Retry, match="certificate verify failed"):
            await post(pair("127.0.0.1"), tls)


async def test_any_server_where_told_so(pair):
    assert await post(pair("127.0.0.1"), ClientTls(verify=False)) == 1


async def test_the_name_may_be_another(pair):
    server = pair("loki.example")
    with pytest.raises(Retry, match="certificate verify failed"):
        await post(server, ClientTls(ca=server[0]))
    assert await post(server, ClientTls(ca=server[0], server_name="loki.example")) == 1


async def test_the_client_shows_its_certificate(pair):
    server, (cert, key) = pair("127.0.0.1"), pair("agent.example")
    assert await post(server, ClientTls(ca=server[0], cert=cert, key=key), client_ca=cert) == 1
    with pytest.raises(Retry):
        await post(server, ClientTls(ca=server[0]), client_ca=cert)


def test_files_that_are_no_good(pair, tmp_path):
    (cert, key), (_, other), (locked, its_key) = (
        pair("127.0.0.1"), pair("other.example"), pair("locked.example", "-passout", "pass:secret"),
    )  # fmt: skip
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for settings, path in (
        ({"ca": str(junk)}, "out.tls.ca"),
        ({"ca": str(tmp_path / "missing")}, "out.tls.ca"),
        ({"cert": cert}, "out.tls.cert"),
        ({"cert": cert, "key": other}, "out.tls.cert"),
        ({"cert": cert, "key": str(tmp_path / "missing")}, "out.tls.cert"),
        ({"cert": locked, "key": its_key}, "out.tls.cert"),
        ({"key": key}, "out.tls.key"),
    ):
        with pytest.raises(ConfigError) as raised:
            ClientTls(**settings).context("out.tls")
        assert raised.value.path == path
