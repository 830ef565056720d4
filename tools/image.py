"""Build and try the image without a container engine: `python tools/image.py [EXTRAS]`, in about half a minute.

The Dockerfile is the only truth: its RUN and COPY lines are carried out in a scratch directory that stands for the
image's root. The agent then runs as the image's user without capabilities, with everything but its state read-only
where the machine lets us (root, and namespaces), and has to become healthy and ready, take a datagram, and end
with 0 when it is told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PLACES = ("/src", "/wheels", "/opt/flowagent", "/var/lib/flowagent")
"""Directories of the image that are in the scratch directory instead."""
PORT = 8077
"""Where the agent serves in the image."""
WAIT = 20.0
"""Seconds for the agent to become ready, and to end."""
ONLY_SAID = ("LABEL", "VOLUME", "EXPOSE")
"""Instructions that do nothing while an image is built or run here."""


class Instruction(NamedTuple):
    """One line of a Dockerfile, continuation lines joined."""

    word: str
    text: str


class Image(NamedTuple):
    """What a built image says about running it, with places of the scratch directory."""

    user: int
    env: dict[str, str]
    command: list[str]
    health: list[str]


def instructions(text: str) -> list[Instruction]:
    """What a Dockerfile says, in order."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]


class Builder:
    """Carries instructions out below `scratch`."""

    def __init__(self, scratch: Path, context: Path, arguments: dict[str, str]) -> None:
        self._scratch = scratch
        self._context = context
        self._arguments = arguments
        self._variables: dict[str, str] = {}
        self._args: dict[str, str] = {}
        self._stage = -1
        self._directory = scratch
        self._said: dict[str, str] = {}

    def build(self, text: str) -> Image:
        """All stages; what the last one says counts."""
        for word, rest in instructions(text):
            if word in ONLY_SAID:
                continue
            if word in ("USER", "ENTRYPOINT", "CMD", "HEALTHCHECK"):
                self._said[word] = rest
            else:
                getattr(self, f"_{word.lower()}")(rest)
        command = [*json.loads(self._said["ENTRYPOINT"]), *json.loads(self._said["CMD"])]
        health = json.loads(self._said["HEALTHCHECK"].partition("CMD")[2])
        return Image(int(self._said["USER"]), self._variables, command, health)

    def _here(self, text: str) -> str:
        """A text with the image's places as they are here."""
        return re.sub(rf"(?<![\w.])({'|'.join(PLACES)})(?![\w.])", rf"{self._scratch}\1", text)

    def _from(self, _: str) -> None:
        self._stage += 1
        self._variables, self._args, self._said = {}, {}, {}

    def _arg(self, text: str) -> None:
        name, _, default = text.partition("=")
        self._args[name] = self._arguments.get(name, default)

    def _env(self, text: str) -> None:
        for word in shlex.split(self._here(text)):
            name, _, value = word.partition("=")
            self._variables[name] = value.replace("$PATH", os.environ["PATH"])

    def _workdir(self, text: str) -> None:
        self._directory = Path(self._here(text))
        self._directory.mkdir(parents=True, exist_ok=True)

    def _copy(self, text: str) -> None:
        if text.startswith("--from="):  # both stages share the scratch directory
            return
        *sources, target = text.split()
        place = self._directory / target
        for name in sources:
            source = self._context / name
            if source.is_dir():
                shutil.copytree(source, place)
            else:
                shutil.copy(source, place)

    def _run(self, text: str) -> None:
        print(f"RUN {text}", flush=True)
        env = {
            **os.environ,
            **self._args,
            **self._variables,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        env.pop("PIP_NO_CACHE_DIR", None)  # here a cache saves time, and nobody ships it
        if self._stage:  # the image's own Python is this machine's, which stays as it is
            env["PYTHONPYCACHEPREFIX"] = str(self._scratch / "pycache")
        if os.geteuid():
            text = re.sub(r"--(owner|group)=\d+ ", "", text)
        done = subprocess.run(
            ["sh", "-ec", self._here(text)],
            cwd=self._directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{done.stdout}\nthe line ended with {done.returncode}")


def clean_tree(target: Path) -> None:
    """The files that git has or would take, without what was built beside them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def confined(command: list[str], user: int, state: Path) -> list[str]:
    """The command as a container would run it, as far as the machine lets us."""
    if os.geteuid():
        print("not root: runs as the caller, and nothing is read-only")
        return command
    powerless = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs",
                 "--inh-caps=-all", "--bounding-set=-all", *command]  # fmt: skip
    mounts = f"mount --make-rprivate / && mount --bind {state} {state} && mount -o remount,ro,bind / && cd {state}"
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *powerless]


def free_port(kind: socket.SocketKind) -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def get(url: str) -> str:
    """The body of a page; empty while there is none or its status is an error."""
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            body: bytes = answer.read()
            return body.decode()
    except OSError:
        return ""


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone afterwards."""
    with subprocess.Popen(command, env=env, cwd=cwd) as process:
        try:
            yield process
        finally:
            process.kill()


def wait(what: str, look: str, wanted: str, process: subprocess.Popen[bytes]) -> None:
    """Until a page has a text."""
    end = time.perf_counter() + WAIT
    while wanted not in get(look):
        if process.poll() is not None:
            sys.exit(f"the agent ended with {process.returncode} before it was {what}")
        if time.perf_counter() > end:
            sys.exit(f"not {what} within {WAIT:g} s: {look} lacks {wanted!r}")
        time.sleep(0.05)
    print(f"{what}: yes", flush=True)


def try_out(image: Image, scratch: Path) -> None:
    """Run the agent, send it a datagram, end it."""
    state = Path(image.env["STATE_DIRECTORY"])
    udp, http = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
    config = scratch / "agent.yaml"
    config.write_text(
        f'ingest: [{{type: udp, listen: "127.0.0.1:{udp}"}}]\n'
        "export: [{type: file, path: rows.ndjson}]\n"
        f'http: {{listen: "127.0.0.1:{http}"}}\n'
    )
    env = {**image.env, "HOME": "/"}
    place = f"http://127.0.0.1:{http}"
    words = confined([*image.command, "-c", str(config)], image.user, state)
    with running(words, env, state) as process:
        wait("healthy", f"{place}/healthz", "ok", process)
        wait("ready", f"{place}/readyz", "ready", process)
        health = [word.replace(f":{PORT}/", f":{http}/") for word in image.health]
        subprocess.run(health, env=env, check=True, timeout=WAIT)
        send = [image.command[0], "generate", f"--target=127.0.0.1:{udp}", "--protocol=netflow5", "--records=1"]
        sent = json.loads(subprocess.run(send, env=env, check=True, timeout=WAIT, stdout=subprocess.PIPE).stdout)
        counter = 'flowagent_ingest_records_total{protocol="netflow5",source="udp"}'
        wait("counting", f"{place}/metrics", f"{counter} {sent['records']}.0", process)
        process.send_signal(signal.SIGTERM)
        if process.wait(WAIT):
            sys.exit(f"SIGTERM: the agent ended with {process.returncode}")
    rows = (state / "rows.ndjson").read_text().splitlines()
    records = sum(json.loads(row)["records"] for row in rows)
    if records != sent["records"]:
        sys.exit(f"rows of {records} records are in the file instead of {sent['records']}")
    print("drained and ended with 0: yes")


def main() -> None:
    """Build, then run."""
    arguments = {"EXTRAS": sys.argv[1]} if len(sys.argv) > 1 else {}
    with tempfile.TemporaryDirectory(prefix="flowagent-image-") as name:
        scratch = Path(name).resolve()
        scratch.chmod(0o755)
        context = scratch / "context"
        context.mkdir()
        clean_tree(context)
        began = time.perf_counter()
        image = Builder(scratch, context, arguments).build((ROOT / "Dockerfile").read_text("utf-8"))
        print(f"built in {time.perf_counter() - began:.0f} s")
        try_out(image, scratch)


if __name__ == "__main__":
    main()
