"""Pictures of the web UI for the README: `python tools/screenshots.py [DIRECTORY] [--seconds N]`.

Plays `flowagent demo` on free ports, waits until there is something to see, and has Chromium (Debian's `chromium`,
`chromium-driver`, and selenium) take each view in the light and the dark theme. Needs the UI's libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).parent.parent
VIEWS = {
    "overview": "#/overview?from=-5m&live=0",
    "sankey": "#/sankey?from=-5m&live=0",
    "chord": "#/chord?from=-5m&live=0",
    "series": "#/series?from=-5m&live=0",
    "flows": "#/flows?from=-5m&live=0",
    "loss": "#/loss?from=-5m&live=0",
}
THEMES = ("light", "dark")
SIZE = (1280, 860)


def free_port(kind: socket.SocketKind) -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def demo(seconds: float) -> Iterator[str]:
    """The address of a demo's page, once it has run for some time."""
    http, udp = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "agent.yaml"
        config.write_text(
            f'http: {{listen: "127.0.0.1:{http}"}}\n'
            f'ingest: [{{type: udp, listen: "127.0.0.1:{udp}"}}]\n'
            f"state: {{path: {name}/state}}\n"
        )
        command = [sys.executable, "-m", "flowagent", "demo", "-c", str(config)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            try:
                time.sleep(seconds)
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/columns", timeout=10):
                    yield f"http://127.0.0.1:{http}/"
            finally:
                process.terminate()


@contextlib.contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    size = "{},{}".format(*SIZE)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield driver
    finally:
        driver.quit()


def take(driver: webdriver.Chrome, address: str, theme: str, path: Path) -> None:
    """One picture."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get("about:blank")
    driver.get(address)
    end = time.perf_counter() + 20
    while not driver.execute_script("return document.body.dataset.ready"):
        if time.perf_counter() > end:
            sys.exit(f"{address} shows nothing")
        time.sleep(0.1)
    driver.save_screenshot(str(path))
    print(path)


def main() -> None:
    """All views in both themes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--seconds", type=float, default=150, help="how long the demo runs first")
    parser.add_argument("--url", help="of an agent that runs already, instead of a demo")
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    place = contextlib.nullcontext(given.url) if given.url else demo(given.seconds)
    with place as origin, chromium() as driver:
        for theme in THEMES:
            for name, address in VIEWS.items():
                take(driver, origin.rstrip("/") + "/" + address, theme, given.directory / f"{name}-{theme}.png")


if __name__ == "__main__":
    main()
