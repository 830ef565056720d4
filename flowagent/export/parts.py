"""Rows sent in as many requests as the other side's limits ask for.

What is too large is halved until it fits, and the limit learned that way is
kept (and tried to exceed, gently, as limits also go). Rows that a server
refuses cost themselves only: they are counted, the rest goes on.

A write may fail in the middle and is then tried again whole; parts that the
server had taken already are left out of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from flowagent.component import Context
from flowagent.errors import Rejected
from flowagent.export.post import REFUSED, TOO_LARGE, TOO_LONG, TOO_OLD, Refusal
from flowagent.metrics import Family

Encode = Callable[[int, int], bytes]
"""The body for the rows from a first one up to a last one (exclusive); the same bytes whenever it is asked."""
Post = Callable[[bytes], Awaitable[None]]
"""Sends a body; raises Retry or Refusal."""
_MAX_REFUSALS = 200
"""Refused requests in a row after which what is refused is not halved any more."""


class _Write:
    """What became of the rows of one write."""

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.bytes = 0
        self.refusals = 0
        """In a row."""
        self.taken: Counter[int] = Counter()
        """Hashes of the bodies that are there, now or since an earlier try."""
        self.refused: Counter[str] = Counter()
        self.why = ""

    def refuse(self, rows: int, reason: str, why: str) -> None:
        self.refused[reason] += rows
        self.why = why


class Parts:
    """Sends the rows of one write after the other."""

    def __init__(self, ctx: Context, max_bytes: int, post: Post) -> None:
        self._ctx = ctx
        self._max_bytes = self._limit = max_bytes
        self._post = post
        self._taken: Counter[int] = Counter()
        """Hashes of the bodies that were taken of the write that failed last."""
        self._failed = 0
        """The hash of all its rows."""
        self._refused = Counter({TOO_LARGE: 0, TOO_LONG: 0, TOO_OLD: 0, REFUSED: 0})
        self._said = ""

    async def send(self, rows: int, encode: Encode) -> int:
        """Bytes that were sent. Raises Retry, or Rejected where no row was taken.

        Rows are in order of time: of rows that are too old for the server, it tells the first that are not by halving.
        """
        if self._taken and self._failed != hash(encode(0, rows)):
            self._taken.clear()
        write = _Write(encode)
        try:
            if rows:
                await self._send(0, rows, write)
        except BaseException:
            self._taken += write.taken
            if self._taken:
                self._failed = hash(encode(0, rows))
            raise
        self._taken.clear()
        if write.refused:
            self._account(rows, write)
        return write.bytes

    async def _send(self, start: int, stop: int, write: _Write) -> str | None:
        """The reason why these rows were refused together; None where they were not, or need not be sent together."""
        body = write.encode(start, stop)
        rows = stop - start
        middle = start + rows // 2
        if len(body) > self._limit and rows > 1:
            await self._send(start, middle, write)
            await self._send(middle, stop, write)
            return None
        try:
            await self._send_once(body, write)
        except Refusal as refusal:
            write.refusals += 1
            reason = refusal.reason
            if rows == 1 or reason == REFUSED or write.refusals > _MAX_REFUSALS:
                write.refuse(rows, reason, str(refusal))
            elif reason == TOO_OLD:
                if await self._send(middle, stop, write) == TOO_OLD:
                    write.refuse(middle - start, reason, str(refusal))
                else:
                    await self._send(start, middle, write)
            else:
                if reason == TOO_LARGE:
                    self._limit = len(body) // 2
                await self._send(start, middle, write)
                await self._send(middle, stop, write)
            return reason
        write.refusals = 0
        write.bytes += len(body)
        return None

    async def _send_once(self, body: bytes, write: _Write) -> None:
        key = hash(body)
        if self._taken[key] > 0:
            self._taken[key] -= 1
        else:
            await self._post(body)
            self._limit = min(self._limit + len(body) // 16, self._max_bytes)
        write.taken[key] += 1

    def count(self, reason: str, rows: int) -> None:
        """These rows are left out for a reason that is known without asking."""
        self._refused[reason] += rows

    def _account(self, rows: int, write: _Write) -> None:
        refused = write.refused.total()
        self._refused.update(write.refused)
        if refused == rows:
            reason = write.refused.most_common(1)[0][0]
            raise Rejected(reason, write.why.removeprefix(f"{reason}: "))
        if write.why != self._said:
            self._ctx.log.warning("%d of %d rows were refused, %s", refused, rows, write.why)
            self._said = write.why

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        samples = {(self._ctx.name, reason): rows for reason, rows in self._refused.items()}
        text = "Rows that the other side refused, or that are too large for it."
        yield Family("flowagent_sink_refused_rows", "counter", text, ("sink", "reason"), samples)
