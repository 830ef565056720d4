"""The generator over TCP and TLS: whole messages, templates once, and collectors that hang up or are not trusted."""

import socket
import ssl
import struct
import subprocess
import threading

import pytest
from literal_flow_decoder import BYTES, PACKETS, Decoder

from flowagent.clock import SystemClock
from flowagent.errors import ConfigError
from flowagent.generate import Exporter, Settings


class Collector:
    """Takes one connection and all that comes over it; `most` bytes, then hangs up."""

    def __init__(self, context=None, most=1 << 30):
        self._context, self._most = context, most
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(5)
        self.target = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.data = b""
        self._thread = threading.Thread(target=self._take)

    def __enter__(self):
        self._thread.start()
        return self

    def _take(self):
        try:
            sock, _ = self._server.accept()
            with self._context.wrap_socket(sock, server_side=True) if self._context else sock as peer:
                peer.settimeout(5)
                while len(self.data) < self._most and (data := peer.recv(65536)):
                    self.data += data
        except OSError:
            pass

    def __exit__(self, *_):
        self._thread.join()
        self._server.close()

    @property
    def messages(self):
        found, at = [], 0
        while at < len(self.data):
            (size,) = struct.unpack_from("!H", self.data, at + 2)
            found.append(self.data[at : at + size])
            at += size
        assert at == len(self.data)
        return found


def exporter(collector, **settings):
    settings = {"target": collector.target, "transport": "tcp", "rate": 0, "ring": 8, "keys": 50} | settings
    return Exporter(Settings(**settings), SystemClock())


def agrees(collector, sent):
    decoder = Decoder()
    decoded = [decoder.decode(message) for message in collector.messages]
    assert sent.datagrams == len(decoded)
    assert sent.payload == len(collector.data)
    assert sent.records == sum(len(m.records) for m in decoded)
    assert (sent.packets, sent.bytes) == tuple(sum(m.sum(what) for m in decoded) for what in (PACKETS, BYTES))


@pytest.mark.parametrize("protocol", ["ipfix", "ovs"])
def test_what_arrives_is_what_was_sent(protocol):
    with Collector() as collector:
        sent = exporter(collector, protocol=protocol).send(records=5000)
    assert sent.records >= 5000
    agrees(collector, sent)


def test_templates_are_sent_once():
    with Collector() as collector:
        exporter(collector, template_interval=0.1, rate=1000).send(duration=0.4)
    with_templates = [m for m in collector.messages if struct.unpack_from("!H", m, 16)[0] in (2, 3)]
    assert 0 < len(with_templates) < 5
    assert collector.messages[: len(with_templates)] == with_templates


def test_who_hangs_up_is_named():
    with Collector(most=1000) as collector, pytest.raises(ConfigError, match=r"target: .* closed the connection"):
        exporter(collector).send()


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=r"target: .*cannot be used"):
        Exporter(Settings(target=f"127.0.0.1:{port}", transport="tcp"), SystemClock()).send(records=1)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"transport": "sctp"}, "'sctp' is none; one of: udp, tcp, tls"),
        ({"transport": "tcp", "protocol": "netflow5"}, "netflow5 goes over udp only"),
        ({"transport": "tcp", "ca": "x.pem"}, "certificates go with tls only"),
    ],
)
def test_wrong_settings(settings, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        Settings(**settings)
    assert caught.value.path == "transport"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    cert, key = (str(tmp_path_factory.mktemp("tls") / name) for name in ("cert.pem", "key.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "1", "-subj", "/CN=c", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


def server(pair, client_ca=None):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    context.load_cert_chain(*pair)
    context.verify_mode = ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE
    return context


@pytest.mark.service("openssl")
def test_tls_with_certificates_of_both(pair):
    with Collector(server(pair, client_ca=pair[0])) as collector:
        sent = exporter(collector, transport="tls", ca=pair[0], cert=pair[0], key=pair[1]).send(records=2000)
    agrees(collector, sent)


@pytest.mark.service("openssl")
def test_a_collector_that_is_not_trusted(pair):
    with (
        Collector(server(pair)) as collector,
        pytest.raises(ConfigError, match=r"target: .*certificate verify failed"),
    ):
        exporter(collector, transport="tls").send(records=1)


def test_certificates_that_cannot_be_read():
    with Collector() as collector, pytest.raises(ConfigError, match="tls: cannot use the certificates"):
        exporter(collector, transport="tls", ca="nowhere.pem").send(records=1)
