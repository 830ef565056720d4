"""A running Prometheus server with a short scrape interval."""

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from live.polling import free_port, until


class Prometheus:
    """Scrapes the targets each second, with these experimental features on; its data lie in its directory."""

    def __init__(self, directory: Path, targets: Sequence[str], features: Sequence[str] = ()) -> None:
        directory.mkdir()
        self._features = features
        self._directory = directory
        self._port = free_port(socket.SOCK_STREAM)
        self._process: subprocess.Popen | None = None
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "flowagent", "static_configs": [{"targets": list(targets)}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def start(self) -> Self:
        """Start it; returns when every target was scraped."""
        command = [
            "prometheus",
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            *(f"--enable-feature={feature}" for feature in self._features),
        ]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._scraped, "every target is up")
        return self

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        return self._get("query", query=expression)["result"]

    def value(self, expression: str) -> float:
        """The one value that the query gives; NaN where there is none."""
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else float("nan")

    def metadata(self, target: str) -> dict[str, tuple[str, str]]:
        """Type and help of each metric of a target, by name."""
        found = self._get("targets/metadata", match_target=f'{{instance="{target}"}}')
        return {metric["metric"]: (metric["type"], metric["help"]) for metric in found}

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def _scraped(self) -> bool:
        assert self._process.poll() is None, (self._directory / "log").read_text()
        try:
            return self.value("min(up)") == 1
        except OSError:
            return False
