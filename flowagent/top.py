"""`flowagent top`: who talks most, live in a terminal, once as a table, or as JSON for scripts.

the agent's HTTP API -> client -> Answer -> top_view -> terminal
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TextIO

import msgspec
from rich.console import Console, ConsoleDimensions
from rich.live import Live

from flowagent import shown
from flowagent.client import Client, Unanswered
from flowagent.errors import ConfigError
from flowagent.shown import Answer
from flowagent.top_view import SORTS, Look, header, screen, table

MEASURES = ("bytes", "packets", "flows", "dropped_bytes", "dropped_packets")
SETS = (
    ("src_k8s_owner_name", "dst_k8s_owner_name"),
    ("src_k8s_namespace", "dst_k8s_namespace"),
    ("src_k8s_zone", "dst_k8s_zone"),
    ("src_subnet_label", "dst_subnet_label"),
    ("src_addr", "dst_addr"),
    ("src_addr",),
    ("dst_addr",),
    ("proto", "dst_port"),
    ("exporter",),
)
"""Dimensions to go through with a key, those that the agent has."""
_MORE, _MOST = 10, 500
_PIPE_WIDTH = 140


class Ask(NamedTuple):
    """What is asked; dimensions empty: the first of SETS of which something is known."""

    dimensions: tuple[str, ...] = ()
    measure: str = "bytes"
    filter: str = ""
    top: int = 20
    over: str = "1m"

    def params(self) -> dict[str, str]:
        """As a query string says it."""
        asked = {"from": f"-{self.over}", "measure": self.measure, "dimensions": ",".join(self.dimensions),
                 "top": str(self.top), "fold": "row"}  # fmt: skip
        return asked | ({"filter": self.filter} if self.filter else {})


class Top:
    """What is known and shown; `key` changes it as keys are pressed."""

    def __init__(self, client: Client, ask: Ask) -> None:
        self.ask, self.look = ask, Look(filter=ask.filter)
        self.answer: Answer | None = None
        self.body = b""
        """The answer as it came."""
        self.status: Mapping[str, Any] = {}
        self.is_over = False
        self.changed = asyncio.Event()
        """Something else is to be asked."""
        self._client = client
        self._sets = [ask.dimensions] if ask.dimensions else []
        self._is_choosing = False
        """Nothing is known yet, so dimensions are still to be chosen."""

    async def begin(self) -> None:
        """Learn what the agent has, and ask for the first time; raises Unanswered."""
        known = await self._client.json("/api/v1/columns")
        try:
            columns = {dimension["column"] for dimension in known["dimensions"]}
        except (TypeError, KeyError) as error:
            raise Unanswered("the agent's /api/v1/columns is not what it should be; is it another version?") from error
        self._is_choosing = not self.ask.dimensions
        self._sets += [one for one in SETS if columns.issuperset(one) and one not in self._sets]
        await (self._choose() if self._is_choosing else self.renew())

    async def _choose(self) -> None:
        """Take the first dimensions of which something is known, for now the first of all where there are none."""
        for one in (*self._sets, *self._sets[:1]):
            self.ask = self.ask._replace(dimensions=one)
            await self.renew()
            if self._says_something():
                self._is_choosing = False
                return

    def _says_something(self) -> bool:
        values = [value for dimension in self.answer.dimensions for value in dimension.values] if self.answer else []
        return any(not value.unknown and not value.other for value in values)

    async def renew(self) -> None:
        """Ask again; raises Unanswered."""
        self.status = await self._client.json("/api/v1/status")
        self.body = await self._client.get("/api/v1/query", self.ask.params())
        try:
            self.answer = shown.decode(self.body)
        except ValueError as error:
            raise Unanswered(
                f"the agent's answer is not what it should be ({error}); is it another version?"
            ) from error

    def key(self, key: str) -> None:
        """A key was pressed."""
        if self.look.prompt is not None:
            self._type(key)
            return
        actions: dict[str, Callable[[], None]] = {
            "q": self._quit, "\x03": self._quit, "d": self._next_set, "m": self._next_measure, "s": self._next_sort,
            "r": self._reverse, "f": self._open_prompt, "/": self._open_prompt, "p": self._pause, " ": self._pause,
            "+": lambda: self._rows(_MORE), "-": lambda: self._rows(-_MORE),
        }  # fmt: skip
        if key in actions:
            actions[key]()

    def _quit(self) -> None:
        self.is_over = True

    def _reverse(self) -> None:
        self.look.is_reversed = not self.look.is_reversed

    def _open_prompt(self) -> None:
        self.look.prompt = self.look.filter

    def _pause(self) -> None:
        self.look.is_paused = not self.look.is_paused
        if not self.look.is_paused:
            self.changed.set()

    def _next_set(self) -> None:
        if self._sets:
            self._is_choosing = False
            now = self._sets.index(self.ask.dimensions) if self.ask.dimensions in self._sets else -1
            self._change(dimensions=self._sets[(now + 1) % len(self._sets)])

    def _next_measure(self) -> None:
        self._change(measure=MEASURES[(MEASURES.index(self.ask.measure) + 1) % len(MEASURES)])

    def _next_sort(self) -> None:
        self.look.sort = SORTS[(SORTS.index(self.look.sort) + 1) % len(SORTS)]

    def _rows(self, more: int) -> None:
        self._change(top=min(max(self.ask.top + more, _MORE), _MOST))

    def _change(self, **changes: Any) -> None:
        self.ask = self.ask._replace(**changes)
        self.changed.set()

    def _type(self, key: str) -> None:
        """A key goes into the prompt."""
        text = self.look.prompt or ""
        if key in ("\r", "\n"):
            self.look.prompt, self.look.filter = None, text.strip()
            self._change(filter=self.look.filter)
        elif key in ("\x1b", "\x03"):
            self.look.prompt = None
        elif key in ("\x7f", "\b"):
            self.look.prompt = text[:-1]
        elif key == "\x15":
            self.look.prompt = ""
        elif key.isprintable():
            self.look.prompt = text + key

    async def wait(self, seconds: float) -> None:
        """Until something was asked for or so much time is over; then ask again, unless paused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        if not self.is_over and (self.changed.is_set() or not self.look.is_paused):
            await self._renew_or_say()

    async def _renew_or_say(self) -> None:
        """Ask again; what fails is said, and what was known stays."""
        self.changed.clear()
        try:
            await (self._choose() if self._is_choosing else self.renew())
        except (Unanswered, ConfigError) as error:
            self.look.problem = str(error)
        else:
            self.look.problem = ""


async def once(client: Client, ask: Ask, out: TextIO, *, as_json: bool) -> None:
    """Print the answer, as a table or as the API's JSON; raises Unanswered."""
    top = Top(client, ask)
    async with client:
        await top.begin()
    if as_json:
        out.write(msgspec.json.format(top.body, indent=1).decode() + "\n")
        return
    if top.answer is None:
        raise Unanswered("the agent has no columns to ask for")
    is_terminal = out.isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else _PIPE_WIDTH
    console = Console(file=out, markup=False, emoji=False, highlight=False, width=width)
    for line in header(top.answer, top.status, top.look):
        console.print(line, overflow="ellipsis", no_wrap=True)
    console.print(table(top.answer, top.look, bars=24 * is_terminal))


async def live(client: Client, ask: Ask, every: float, out: TextIO) -> None:
    """Show it until `q`; raises Unanswered where the agent cannot be asked at all."""
    top = Top(client, ask)
    console = Console(file=out, markup=False, emoji=False, highlight=False)
    async with client:
        await top.begin()
        with Live(console=console, screen=True, auto_refresh=False) as view:

            def draw() -> None:
                # Asked each time, as it changes; what the environment says of it does not.
                console.size = ConsoleDimensions(*os.get_terminal_size(out.fileno()))
                if top.answer is not None:
                    view.update(screen(top.answer, top.status, top.look, console.width, console.height), refresh=True)
                if top.is_over:
                    top.changed.set()

            with _keys(top.key, draw):
                while not top.is_over:
                    draw()
                    await top.wait(every)


@contextlib.contextmanager
def _keys(pressed: Callable[[str], None], then: Callable[[], None]) -> Iterator[None]:
    """Each key as it is pressed, and `then` after it and after a change of the terminal's size."""
    import termios
    import tty

    loop, fd = asyncio.get_running_loop(), sys.stdin.fileno()

    def read() -> None:
        text = os.read(fd, 1024).decode("utf-8", "ignore")
        # Arrows and the like begin with escape and are not for us; escape alone is.
        for key in [text] if text == "\x1b" else [] if text.startswith("\x1b") else text or "q":
            pressed(key)
        then()

    def interrupted() -> None:
        pressed("\x03")
        then()

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    loop.add_reader(fd, read)
    loop.add_signal_handler(signal.SIGWINCH, then)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        for number in (signal.SIGWINCH, signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
