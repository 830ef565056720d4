"""Servers that are away, and what an agent keeps on disk meanwhile."""

import gzip
import json
import sqlite3
import ssl
import struct
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, NamedTuple, Self

from live.agent import Agent

from flowagent.frames import unpack

_ANY = ("127.0.0.1", 0)


class Receiver:
    """An HTTP server for lines of JSON. Until `start` its port refuses connections.

    `answer` is the status of all answers, or None for none at all; `rows` are those of requests answered with success.
    """

    def __init__(self) -> None:
        self.answer: int | None = 204
        self.headers: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []
        self.requests = 0
        self._over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(_ANY, Handler, bind_and_activate=False)
        self._server.server_bind()  # nobody else gets the port
        self.url = f"http://127.0.0.1:{self._server.server_port}/rows"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def start(self) -> Self:
        self._server.server_activate()
        self._thread.start()
        return self

    @property
    def is_up(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """For good."""
        self._over.set()
        if self.is_up:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests += 1
        answer = self.answer
        if answer is None:
            self._over.wait(60)
            return
        if answer < 300:
            self.rows += [json.loads(line) for line in gzip.decompress(body).splitlines()]
        request.send_response(answer)
        for name, value in {**self.headers, "Content-Length": "0"}.items():
            request.send_header(name, value)
        request.end_headers()


class Collector:
    """Takes IPFIX over TLS with a certificate of its own CA, `ca`; `messages` are those that came whole."""

    def __init__(self, directory: Path) -> None:
        self.ca = directory / "collector.pem"
        make_certificate(directory / "collector.key", self.ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, directory / "collector.key")
        self.messages: list[bytes] = []
        self.versions: list[str] = []
        self.refused: list[str] = []
        """Why clients hung up in the handshake."""
        self.ended = 0
        """Connections that were read to their end."""
        collector = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                try:
                    with context.wrap_socket(self.request, server_side=True) as tls, tls.makefile("rb") as stream:
                        collector.versions.append(tls.version())
                        collector._read(stream)
                        collector.ended += 1
                except ssl.SSLError as error:
                    collector.refused.append(error.reason)

        self._server = ThreadingTCPServer(_ANY, Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for connections that are open

    def _read(self, stream: Any) -> None:
        while header := stream.read(16):
            version, length = struct.unpack_from(">HH", header)
            assert version == 10
            self.messages.append(header + stream.read(length - 16))


def make_certificate(key: Path, certificate: Path) -> None:
    """Of 127.0.0.1, which signs for itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "1", "-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip


class Frame(NamedTuple):
    """Rows that were put into a spool together."""

    id: int
    records: int
    bytes: list[int]
    """Of each row."""


def spool_file(agent: Agent, sink: str = "webhook") -> Path:
    return agent.directory / "state" / "spool" / f"{sink}.sqlite"


def spooled(agent: Agent, sink: str = "webhook") -> list[Frame]:
    """What is on disk, oldest first, whether the agent runs, has ended or was killed; changes nothing there."""
    file = spool_file(agent, sink)
    if not file.exists():
        return []
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        found = db.execute("SELECT id, records, data FROM frames ORDER BY id").fetchall()
    finally:
        db.close()
    return [Frame(number, records, unpack(data)["bytes"].tolist()) for number, records, data in found]


def records_on_disk(agent: Agent, sink: str = "webhook") -> int:
    return sum(frame.records for frame in spooled(agent, sink))
