"""Names that a table has are not forgotten."""

import asyncio

import numpy as np

from flowagent import names
from flowagent.enrich import keeping


async def test_names_that_are_used_from_time_to_time_outlive_others(monkeypatch):
    monkeypatch.setattr(names, "MAX_NAMES", len(names._texts) + 10)
    monkeypatch.setattr(keeping, "EVERY_SECONDS", 0.0)
    kept, other = names.code("a kept name"), names.code("another name")
    task = asyncio.get_running_loop().create_task(keeping.keep_names(lambda: [np.array([kept, 0], np.uint64)]))
    for i in range(2 * names.MAX_NAMES):
        names.code(f"passing {i}")
        if i % 5 == 0:
            for _ in range(3):
                await asyncio.sleep(0)
    task.cancel()
    assert names.text(kept) == "a kept name"
    assert names.text(other) == ""
