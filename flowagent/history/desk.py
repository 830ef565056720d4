"""Where questions about the history are asked while the agent runs: answered in a thread, equal ones once.

As long as nothing was added to the history, whoever asks the same gets the same bytes, so that many viewers of a page
cost what one costs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from flowagent.history import result
from flowagent.history.query import MEASURES, Moment, Query
from flowagent.history.store import History, View
from flowagent.metrics import Family
from flowagent.schema import COLUMNS
from flowagent.worker import Worker

MAX_WAITING = 32
"""Different questions that may wait for their answer."""
_MAX_KEPT = 8 << 20
"""Bytes of answers that are kept for others."""
_MAX_ANSWERS = 512
"""Answers that are: of small ones the questions, each with its compiled filter, are what takes memory."""

_MINUTE = Moment(-60.0)


class _Kept(NamedTuple):
    version: int
    answer: asyncio.Future[bytes]
    size: int


class Desk:
    """Takes questions; `stop` ends the thread."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._worker = Worker("history")
        self._kept: OrderedDict[Query, _Kept] = OrderedDict()
        self._rates: tuple[int, asyncio.Future[dict[str, float]]] | None = None
        self._waiting = self._answered = self._shared = 0

    @property
    def version(self) -> int:
        """Grows whenever the history has something new."""
        return self._history.version

    def parse(self, parameters: Mapping[str, str]) -> Query:
        """The question that parameters ask; raises ConfigError, whose path is the parameter."""
        query = Query.parse(parameters)
        query.check(self._history.view())
        return query

    async def answer(self, query: Query) -> bytes | None:
        """The answer as JSON; None while too many wait. Raises ConfigError where it would be too large."""
        version = self._history.version
        kept = self._kept.get(query)
        if kept is None or kept.version != version:
            if self._waiting >= MAX_WAITING:
                return None
            kept = self._ask(query, version)
        else:
            self._shared += 1
        self._kept.move_to_end(query)
        # Who goes away does not take the answer from the others.
        body = await asyncio.shield(kept.answer)
        if self._kept.get(query) is kept:
            self._kept[query] = kept._replace(size=len(body))
            self._trim()
        return body

    def _ask(self, query: Query, version: int) -> _Kept:
        view, described = self._history.view(), self._history.describe()
        self._waiting += 1
        self._answered += 1
        future = self._worker.start(lambda: msgspec.json.encode(result.answer(view, query, described)))
        future.add_done_callback(partial(self._done, query))
        kept = self._kept[query] = _Kept(version, future, 0)
        return kept

    def _done(self, query: Query, future: asyncio.Future[bytes]) -> None:
        self._waiting -= 1
        if future.cancelled() or future.exception() is not None:
            kept = self._kept.get(query)
            if kept is not None and kept.answer is future:
                del self._kept[query]

    def _trim(self) -> None:
        """Keep what is of this version, and not too much of it."""
        for query, kept in list(self._kept.items()):
            if kept.answer.done() and kept.version != self._history.version:
                del self._kept[query]
        size = sum(kept.size for kept in self._kept.values())
        while size > _MAX_KEPT or len(self._kept) > _MAX_ANSWERS:
            size -= self._kept.popitem(last=False)[1].size

    async def rates(self) -> dict[str, float] | None:
        """Records, bytes and packets a second over the last minute that the history has; None where it has nothing."""
        version = self._history.version
        view, described = self._history.view(), self._history.describe()
        if described["oldest"] is None:
            return None
        if self._rates is None or self._rates[0] != version:
            self._rates = version, self._worker.start(lambda: _rates(view, described))
        return await asyncio.shield(self._rates[1])

    def describe(self) -> dict[str, Any]:
        """What can be asked, as plain data."""
        view = self._history.view()
        dimensions = [
            {"column": column.name, "doc": column.doc, "kind": column.kind}
            for column in COLUMNS.values()
            if column.name in view.columns
        ]
        measures = [
            {"name": name, "unit": name.rpartition("_")[2]}
            for name, column in MEASURES.items()
            if column in view.measures
        ]
        return {"dimensions": dimensions, "measures": measures, "history": self._history.describe()}

    def stop(self) -> None:
        """No more questions will come."""
        self._worker.stop()

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        text = "Questions about the history by how they were answered: by looking, or with the answer to an equal one."
        samples = {("looked",): self._answered, ("shared",): self._shared}
        yield Family("flowagent_queries", "counter", text, ("answer",), samples)


def _rates(view: View, described: dict[str, Any]) -> dict[str, float]:
    measures = {name: MEASURES[name] for name in ("flows", "bytes", "packets")}
    asked = [Query(since=_MINUTE, measure=name) for name, column in measures.items() if column in view.measures]
    answers = [result.answer(view, one, described) for one in asked]
    oldest = described["oldest"]
    return {measures[a.measure]: a.total.value / max(1e-9, a.to - max(a.from_, oldest)) for a in answers}
