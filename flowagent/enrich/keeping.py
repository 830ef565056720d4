"""Names stay known while a table has them: `flowagent.names` forgets those first that were not used for longest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from flowagent import names
from flowagent.batch import Array

EVERY_SECONDS = 600.0
_AT_ONCE = 2000


async def keep_names(current: Callable[[], Iterable[Array]]) -> None:
    """Use every name of these columns of codes from time to time, until cancelled."""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        for column in current():
            distinct = list(set(column.tolist()))
            for start in range(0, len(distinct), _AT_ONCE):
                names.codes(map(names.text, distinct[start : start + _AT_ONCE]))
                await asyncio.sleep(0)
