"""An enricher at work for a test: runs it, waits for it, gives it flows, and reads the examples of its page."""

import asyncio
import contextlib
import re
from pathlib import Path

import msgspec
import numpy as np

from flowagent import names
from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.config import parse

PAGE = Path(__file__).parents[2] / "docs" / "enrichment.md"
WAIT_SECONDS = 10
SIDES = ("src_addr", "dst_addr", "exporter")


def addresses(*texts):
    """(2, n) uint64."""
    return np.array([address_words(text) for text in texts], np.uint64).reshape(-1, 2).T


def flows(**columns):
    """A batch: addresses from texts, other columns from arrays."""
    return Batch({name: addresses(*v) if name in SIDES else np.asarray(v) for name, v in columns.items()})


def said(rows, name):
    """A column of names as texts."""
    return [text.decode() for text in names.texts(rows[name]).tolist()]


def samples(enricher, name):
    """Values of one of its metrics."""
    return next(dict(f.samples) for f in enricher.families() if f.name == f"flowagent_{name}")


@contextlib.asynccontextmanager
async def running(settings, name="kind"):
    """The enricher at work."""
    enricher = settings.build(Context(name))
    async with enricher, asyncio.timeout(60):
        task = asyncio.get_running_loop().create_task(enricher.run())
        try:
            yield enricher
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition):
    """Wait until something is so; what it is then."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (found := condition()):  # noqa: ASYNC110 - anything may be waited for
            await asyncio.sleep(0.005)
    return found


def example(kind, **variables):
    """The settings of the first example of a kind in the page, as the configuration reads them."""
    for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        raw = msgspec.yaml.decode(text)
        if isinstance(raw, dict) and any(entry.get("type") == kind for entry in raw.get("enrich", ())):
            config = parse(raw, {name: str(value) for name, value in variables.items()})
            return next(k.settings for k in config.enrich if k.type == kind)
    raise AssertionError(f"{PAGE} has no example of {kind}")
