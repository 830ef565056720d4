"""A terminal that a test looks at and types into: tmux, with a server of its own."""

import os
import subprocess
from pathlib import Path
from typing import Self


class Terminal:
    """Runs a command inside `with`; it is gone when the command ends."""

    def __init__(self, directory: Path, *command: str, width: int = 110, height: int = 24) -> None:
        self._tmux = ["tmux", "-S", str(directory / "tmux"), "-f", os.devnull]
        self._command, self._size = command, (width, height)

    def __enter__(self) -> Self:
        width, height = map(str, self._size)
        self._run("new-session", "-d", "-x", width, "-y", height, *self._command)
        return self

    def __exit__(self, *exc: object) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], capture_output=True, text=True, check=True).stdout

    @property
    def screen(self) -> str:
        """What it shows."""
        return self._run("capture-pane", "-p")

    def type(self, *keys: str) -> None:
        """Press keys, by the names that tmux has for them."""
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def has_ended(self) -> bool:
        return subprocess.run([*self._tmux, "has-session"], capture_output=True, check=False).returncode != 0
