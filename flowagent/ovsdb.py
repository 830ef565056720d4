"""A client for OVSDB (RFC 7047), the database that configures Open vSwitch: JSON-RPC over a socket, one call at a time.

The package `ovs` could talk to it, too, but keeps a copy of whole tables in memory and has a poll loop of its own,
which blocks where asyncio waits. A few calls need neither.

    async with connect("unix:/var/run/openvswitch/db.sock") as database:
        [found] = await database.transact(select("Bridge", "name"))
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from flowagent.errors import FlowagentError

DEFAULT = "unix:/var/run/openvswitch/db.sock"
DATABASE = "Open_vSwitch"
TIMEOUT = 5.0
"""Seconds that connecting and each call may take."""
MAX_MESSAGE = 16 << 20
"""Bytes of an answer; some 100,000 interfaces fit."""
EMPTY: list[Any] = ["set", []]
"""The value of a column that is not set."""
Operation = dict[str, Any]
Row = dict[str, Any]


class OvsdbError(FlowagentError):
    """The database cannot be reached, does not understand, or refuses; the message says which and what to do."""


@contextlib.asynccontextmanager
async def connect(remote: str = DEFAULT, seconds: float = TIMEOUT) -> AsyncIterator[Connection]:
    """A connection to `unix:PATH` or `tcp:HOST:PORT`; raises OvsdbError, and so do its calls, each within `seconds`."""
    with _mapped(remote, seconds):
        async with asyncio.timeout(seconds):
            reader, writer = await _open(remote)
    try:
        yield Connection(remote, seconds, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Connection:
    """An open connection, made by `connect`."""

    def __init__(self, remote: str, seconds: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._remote, self._seconds = remote, seconds
        self._reader, self._writer = reader, writer
        self._messages = Splitter(MAX_MESSAGE)
        self._waiting: list[dict[str, Any]] = []
        self._calls = 0

    async def transact(self, *operations: Operation) -> list[Any]:
        """All of these operations or none; for each what it gives: the rows of a `select`, else an object."""
        results = await self.call("transact", [DATABASE, *operations])
        for result in results:
            if isinstance(result, dict) and "error" in result:
                # A `wait` is the only operation that can time out, and `unchanged` waits for nothing.
                what = "somebody else made a change at this moment; try again: " * (result["error"] == "timed out")
                says = f"{result['error']}: {result.get('details', '')}".rstrip(": ")
                raise OvsdbError(f"{self._remote} refuses: {what}{says}")
        return [result.get("rows", result) if isinstance(result, dict) else result for result in results]

    async def columns(self) -> dict[str, frozenset[str]]:
        """The columns of each table that this version has."""
        schema = await self.call("get_schema", [DATABASE])
        return {name: frozenset(table["columns"]) for name, table in schema["tables"].items()}

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        """The result of a method."""
        self._calls += 1
        number = self._calls
        with _mapped(self._remote, self._seconds):
            async with asyncio.timeout(self._seconds):
                await self._send({"id": number, "method": method, "params": list(params)})
                while (message := await self._receive()).get("id") != number or "method" in message:
                    if message.get("method") == "echo":
                        await self._send({"id": message.get("id"), "result": message.get("params"), "error": None})
        if (error := message.get("error")) is not None:
            parts = (error.get("error"), error.get("details")) if isinstance(error, dict) else (error,)
            raise OvsdbError(f"{self._remote} refuses {method}: {': '.join(str(p) for p in parts if p)}")
        return message.get("result")

    async def _send(self, message: Mapping[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode())
        await self._writer.drain()

    async def _receive(self) -> dict[str, Any]:
        while not self._waiting:
            data = await self._reader.read(1 << 16)
            if not data:
                raise OvsdbError(f"{self._remote} closed the connection")
            self._waiting += [json.loads(message) for message in self._messages.feed(data)]
        return self._waiting.pop(0)


class Splitter:
    """Cuts a stream into its JSON objects, which nothing separates (RFC 7047, section 4): where their braces close."""

    _OUTSIDE, _INSIDE = re.compile(rb'[{}"]'), re.compile(rb'["\\]')

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._next = self._depth = 0
        self._in_text = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The objects that these bytes complete; ValueError for what is no object or above the limit."""
        self._buffer += data
        while found := (self._INSIDE if self._in_text else self._OUTSIDE).search(self._buffer, self._next):
            self._next = found.end()
            match found[0]:
                case b'"':
                    self._in_text = not self._in_text
                case b"\\":
                    self._next += 1
                case b"{":
                    self._depth += 1
                case _:
                    self._depth -= 1
            if self._depth < 0 or (self._in_text and not self._depth):
                break
            if not self._depth and not self._in_text:
                yield bytes(self._buffer[: self._next])
                del self._buffer[: self._next]
                self._next = 0
        self._next = max(self._next, len(self._buffer))
        begin = self._buffer[:64].lstrip()
        if begin and begin[0] != ord("{"):
            raise ValueError(f"{bytes(begin)!r} is no JSON object")
        if len(self._buffer) > self._limit:
            raise ValueError(f"a message of more than {self._limit} bytes")


def select(table: str, *columns: str, where: Sequence[Any] = ()) -> Operation:
    """The operation that reads these columns (none: all), of rows that match all conditions."""
    return {"op": "select", "table": table, "where": list(where)} | ({"columns": list(columns)} if columns else {})


def update(table: str, uuid: str, row: Row) -> Operation:
    """The operation that changes columns of one row."""
    return {"op": "update", "table": table, "where": is_row(uuid), "row": row}


def unchanged(table: str, uuid: str, row: Row) -> Operation:
    """The operation that makes its transaction fail where columns of a row have other values by now."""
    return {
        "op": "wait", "timeout": 0, "table": table, "where": is_row(uuid), "columns": list(row), "until": "==",
        "rows": [row],
    }  # fmt: skip


def is_row(uuid: str) -> list[Any]:
    """The condition that holds for one row."""
    return [["_uuid", "==", ["uuid", uuid]]]


def values(value: Any) -> list[Any]:
    """What a column holds, as a list of its atoms: none, one or many; a UUID is its text."""
    if not isinstance(value, list):
        return [value]
    kind, content = value
    if kind == "set":
        return [atom[1] if isinstance(atom, list) else atom for atom in content]
    return [content]


def mapping(value: Any) -> dict[str, Any]:
    """What a column of pairs holds."""
    return dict(value[1])


def as_map(pairs: Mapping[str, str]) -> list[Any]:
    """Pairs as the value of a column."""
    return ["map", [list(pair) for pair in sorted(pairs.items())]]


async def _open(remote: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    kind, _, rest = remote.partition(":")
    if kind == "unix" and rest:
        return await asyncio.open_unix_connection(rest)
    host, _, port = rest.rpartition(":")
    if kind != "tcp" or not host or not port.isdecimal():
        raise OvsdbError(f"{remote!r} is no database; write unix:PATH or tcp:HOST:PORT, such as {DEFAULT}")
    return await asyncio.open_connection(host.removeprefix("[").removesuffix("]"), int(port))


@contextlib.contextmanager
def _mapped(remote: str, seconds: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise OvsdbError(f"{remote} does not answer within {seconds:g} s") from error
    except FileNotFoundError as error:
        raise OvsdbError(f"there is no socket {remote}; start ovsdb-server, or name its socket with --db") from error
    except PermissionError as error:
        raise OvsdbError(f"{remote} may not be opened by this user; run as root or as the socket's group") from error
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OvsdbError(f"{remote} cannot be reached: {reason}; is ovsdb-server running?") from error
    except (ValueError, AttributeError) as error:  # no JSON, or none of JSON-RPC
        raise OvsdbError(f"{remote} does not speak OVSDB: {error}") from error
