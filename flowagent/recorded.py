"""A history from files, so that the questions an agent answers can be asked of captures and of exported rows.

captures                 -> replay: decoder and stages  -> history
lines of JSON, Parquet   -> ingest/ndjson, ingest/parquet -> history
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.config import Config
from flowagent.errors import ConfigError
from flowagent.history.query import MEASURES, Query
from flowagent.history.store import History
from flowagent.ingest import ndjson, parquet
from flowagent.ingest.rates import Overrides
from flowagent.replay import Pace, Replay
from flowagent.schema import COLUMNS
from flowagent.sections import History as HistorySettings
from flowagent.sections import Window, did_you_mean

MAX_ROWS = 20_000_000
"""Rows that are held while they are put in order."""
_TIMES = ("received_ns", "end_ns", "start_ns")
_SCALE = ("sampling_rate", "sampling_source", "inclusion_prob")
_ROWS = (".ndjson", ".jsonl", ".json", ".parquet")
_EVERYTHING = HistorySettings(memory="1GB", keep="366d", rows=1_000_000)
"""Nothing is left out that fits into memory."""


def history(paths: Sequence[Path], query: Query, config: Config, problem: Callable[[str], None]) -> History:
    """What the files hold, in steps as the query has them; raises ConfigError and OSError.

    `problem` is told of rows that cannot be read. Steps are of 10 s where the query has none.
    """
    step = query.step or 10.0
    kinds = {_is_rows(path) for path in paths}
    if len(kinds) > 1:
        raise ConfigError("--from", "names captures and exported rows; what of both is the same cannot be told")
    settings = msgspec.structs.replace(_EVERYTHING, step=step)
    if kinds == {True}:
        return _of_rows(paths, query, settings, problem)
    every = min(config.window.seconds or step, step)
    measures = (*dict.fromkeys((*config.window.measures, *MEASURES.values())),)
    window = msgspec.structs.replace(config.window, every=every, measures=measures)
    rates = next((getattr(k.settings, "sampling_rates", {}) for k in config.ingest if k.type == "udp"), {})
    job = Replay(paths, pace=Pace(0), overrides=Overrides(rates))
    found = job.history(config._replace(window=window, history=settings))
    for summary in job.summaries:
        for reason, count in summary.errors.items():
            problem(f"{summary.file}: {reason}: {count}")
    return found


def _is_rows(path: Path) -> bool:
    """Whether a file holds exported rows: by its name, else by its first byte."""
    if not path.is_file():
        raise ConfigError("--from", f"{path} is no file that is there; name captures, exported rows or a URL")
    suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zst")]
    if suffixes and suffixes[-1] in _ROWS:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}; name captures or exported rows"
        raise ConfigError("--from", problem) from error
    return head.startswith(b"{") or head == parquet.MAGIC


def _of_rows(paths: Sequence[Path], query: Query, settings: HistorySettings, problem: Callable[[str], None]) -> History:
    measures = tuple(dict.fromkeys((MEASURES[query.measure], "bytes", "packets", "records")))
    where = () if query.where is None else tuple(sorted(query.where.columns))
    columns = tuple(dict.fromkeys((*query.dimensions, *where)))
    for name in query.dimensions:
        if name not in COLUMNS or COLUMNS[name].merge != "key":
            known = [column.name for column in COLUMNS.values() if column.merge == "key"]
            raise ConfigError("dimensions", f"{name!r} is not a column to group by{did_you_mean(name, known)}")
    keys = tuple(name for name in columns if name in COLUMNS and COLUMNS[name].merge == "key")
    found = History(settings, Window(every=settings.step, key=keys, measures=measures), np.random.default_rng(0))
    rows = Batch.concat(list(_read(paths, (*columns, *measures, *_SCALE, *_TIMES), query, problem)))
    if not len(rows):
        return found
    column = MEASURES[query.measure]
    if column not in rows and column != "records":  # each row is one record at least
        raise ConfigError("measure", f"{column} is in no row; rows have the canonical columns that `file` writes")
    length_ns = round(settings.step_seconds(Window(every=settings.step)) * SECOND)
    step = _times(rows) // length_ns
    order = np.argsort(step, kind="stable")
    bounds = np.flatnonzero(np.diff(step[order], prepend=step[order[0]] - 1))
    for part in np.split(order, bounds[1:]):
        start_ns = int(step[part[0]]) * length_ns
        found.add(rows.take(part), start_ns)
        found.seal(start_ns + length_ns, final=True)
    return found


def _read(
    paths: Sequence[Path], columns: Sequence[str], query: Query, problem: Callable[[str], None]
) -> Iterator[Batch]:
    """Only rows that the query is about, so that the others take no memory."""
    wanted = list(dict.fromkeys(columns))
    count = 0
    for path in paths:
        with path.open("rb") as file:
            read = parquet.read if file.peek(4).startswith(parquet.MAGIC) else ndjson.read
            for batch in read(file, wanted, problem):
                rows = batch if query.where is None else batch.take(query.where(batch))
                count += len(rows)
                if count > MAX_ROWS:
                    raise ConfigError("--from", f"holds more than {MAX_ROWS:,} rows; name fewer files, or a --filter")
                if len(rows):
                    yield rows


def _times(rows: Batch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(n,) int64: when each row was received, else when it ended or began; 0 where nothing is known."""
    times = np.zeros(len(rows), np.int64)
    for name in reversed(_TIMES):
        if name in rows:
            times = np.where(rows.is_known(name), rows[name], times)
    return times
