"""A thread for calls that may block on a disk or a pipe, so that the loop never does.

Not `asyncio.to_thread`: the interpreter waits for that one's threads when it
ends, and a reader of stdout that stopped reading would keep the agent alive
for good. This thread dies with the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class Worker:
    """Runs calls one after the other, in the order of asking; begins at the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, call: Callable[[], _T]) -> _T:
        """What the call returns or raises. Where this is cancelled, the call goes on and its result is dropped."""
        return await self.start(call)

    def start(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """The same as a future, which may be waited for again after a time limit was over (`asyncio.shield`)."""
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._calls.put((call, future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return future

    def stop(self) -> None:
        """End the thread when it has done what was asked of it; not waited for."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _work(self) -> None:
        while (job := self._calls.get()) is not None:
            call, future = job
            try:
                result, error = call(), None
            except BaseException as raised:  # noqa: BLE001 - whoever waits gets it
                result, error = None, raised
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
