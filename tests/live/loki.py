"""Servers that speak Loki's push API, and what they have stored: VictoriaLogs, built from source, or a given Loki."""

import calendar
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple, Self

from live.polling import free_port, until

LOKI_URL = os.environ.get("FLOWAGENT_TEST_LOKI_URL")
"""A Loki to run the tests against, instead of VictoriaLogs."""
MOST = 5000
"""Lines that Loki gives at once."""
_MODULE = "github.com/VictoriaMetrics/VictoriaLogs"
_VERSION = "v1.51.1-0.20260624061259-dc94972a8708"
# It asks for a version of VictoriaMetrics that the module proxy lacks; the next release does.
_GO_MOD = f"""\
module flowagent.example/victorialogs

go 1.26

require (
    {_MODULE} {_VERSION}
    github.com/VictoriaMetrics/VictoriaMetrics v1.148.8
)
"""
_BUILD_SECONDS = 900


class Stored(NamedTuple):
    """A line as the server has it."""

    time_ns: int
    labels: dict[str, str]
    """Those of the stream, and structured metadata."""
    fields: dict[str, Any]
    """What stands in the line."""


def victoria_logs() -> Path:
    """The program; built when it is not in the cache: half a minute, and as long for the downloads."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowagent-tests"
    program = cache / f"victoria-logs-{_VERSION}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        (Path(directory) / "go.mod").write_text(_GO_MOD)
        built = Path(directory) / "victoria-logs"
        done = subprocess.run(
            ["go", "build", "-mod=mod", "-o", built, f"{_MODULE}/app/victoria-logs"],
            cwd=directory, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        built.replace(program)
    return program


class VictoriaLogs:
    """On a port of the loopback; its data lie in its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port(socket.SOCK_STREAM)
        self._process: subprocess.Popen | None = None
        # Lines are kept as they are, instead of being taken apart.
        self.push_url = f"http://127.0.0.1:{self._port}/insert/loki/api/v1/push?disable_message_parsing=1"

    def start(self) -> Self:
        """Start it, again too; returns when it answers."""
        command = [
            victoria_logs(),
            f"-storageDataPath={self._directory / 'data'}",
            f"-httpListenAddr=127.0.0.1:{self._port}",
            "-retentionPeriod=100y",
            "-futureRetention=100y",
            "-inmemoryDataFlushInterval=1s",
        ]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._answers, "VictoriaLogs answers")
        return self

    def stop(self) -> None:
        """It writes to disk what it has."""
        self._process.terminate()
        self._process.wait(15)

    def lines(self, **labels: str) -> list[Stored]:
        """All of the streams that have these labels."""
        self._get("internal/force_flush")  # makes visible what came
        found = self._get("select/logsql/query", query=_selector(labels))
        return [_victoria_line(json.loads(line)) for line in found.splitlines()]

    def _get(self, path: str, **parameters: str) -> str:
        return _get(f"http://127.0.0.1:{self._port}/{path}", **parameters)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._directory / "log").read_text()
        try:
            return bool(self._get("health"))
        except OSError:
            return False


class Loki:
    """One that runs already."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.push_url = self._url

    def lines(self, **labels: str) -> list[Stored]:
        """Those of the last week and the next hour."""
        now = time.time()  # noqa: TID251
        text = _get(
            f"{self._url}/loki/api/v1/query_range",
            query=_selector(labels), limit=MOST, start=int(now - 6 * 86400), end=int(now + 3600),
        )  # fmt: skip
        return [
            Stored(int(time_ns), stream["stream"], json.loads(line))
            for stream in json.loads(text)["data"]["result"]
            for time_ns, line, *_ in stream["values"]
        ]


def _selector(labels: dict[str, str]) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items()) + "}"


def _victoria_line(row: dict[str, str]) -> Stored:
    labels = {name: value for name, value in row.items() if name[0] != "_"}
    second, fraction = re.fullmatch(r"([^.]*)(?:\.(\d+))?Z", row["_time"]).groups()
    seconds = calendar.timegm(time.strptime(second, "%Y-%m-%dT%H:%M:%S"))
    return Stored(seconds * 10**9 + int((fraction or "").ljust(9, "0")), labels, json.loads(row["_msg"]))


def _get(url: str, **parameters: object) -> str:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
        return answer.read().decode()
