"""What a message of a topic or a line of a file becomes: rows, and why others did not become any."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Protocol

import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.scale import measure
from flowagent.schema import SAMPLING_SOURCES

BAD_MESSAGE, BAD_VALUE, NO_FIELDS = "bad_message", "bad_value", "no_fields"
"""Why there is no row: it cannot be read, a value can be none of its column, nothing in it is known."""
_WIRE = SAMPLING_SOURCES.index("wire")
_WEIGHTED = ("bytes", "packets", "dropped_bytes", "dropped_packets")


class Decoded(NamedTuple):
    """Rows, and (n,) intp: which of the values that were given each comes from."""

    batch: Batch
    origin: Array
    errors: Counter[str]
    """Rows and messages that were left out, by reason."""


class RowDecoder(Protocol):
    """One schema in one format."""

    name: str
    """As metrics call it."""

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""

    def decode(self, values: list[bytes]) -> Decoded:
        """The rows of these messages, each of which may hold several."""


def finish(batch: Batch, origin: Array, errors: Counter[str], *, is_weighted: bool) -> Decoded:
    """Rows as stages want them: each tells the records it stands for, and its probability where it was sampled.

    `is_weighted` says that counts have the weight of a sampled row in them, which is taken out again.
    """
    known = np.zeros(len(batch), np.bool_)
    for name in batch.columns:
        known |= batch.is_known(name)
    if not known.all():
        errors[NO_FIELDS] += int(np.count_nonzero(~known))
        batch, origin = batch.take(known), origin[known]
    batch = _with_source(_with_records(_with_probability(batch)))
    return Decoded(_unweighted(batch) if is_weighted else batch, origin, errors)


def _with_source(batch: Batch) -> Batch:
    """Of rows that do not say how their rate is known, nobody here knows better than that they say it."""
    if "sampling_source" in batch:
        return batch
    source = np.where(batch.is_known("sampling_rate"), np.uint8(_WIRE), np.uint8(0))
    return batch.with_columns({"sampling_source": source})


def _with_records(batch: Batch) -> Batch:
    if "records" not in batch:
        return batch.with_columns({"records": constant(1, len(batch), np.uint64)})
    if "records" not in batch.valid:
        return batch
    return batch.with_columns({"records": np.where(batch.valid["records"], batch["records"], np.uint64(1))})


def _with_probability(batch: Batch) -> Batch:
    """A weight is said as probability; the stages make weights of these again."""
    if "weight" not in batch:
        return batch
    weight, is_sampled = batch["weight"], batch.is_known("weight")
    prob, known = np.ones(len(batch)), batch.is_known("inclusion_prob")
    np.divide(1.0, weight, out=prob, where=is_sampled & (weight > 1))
    if "inclusion_prob" in batch:
        prob = np.where(known, batch["inclusion_prob"], prob)
    rows = batch.select(name for name in batch.columns if name not in ("weight", "inclusion_prob"))
    known = known | is_sampled
    return rows.with_columns({"inclusion_prob": prob}, {} if known.all() else {"inclusion_prob": known})


def _unweighted(batch: Batch) -> Batch:
    if "inclusion_prob" not in batch:
        return batch
    prob = np.where(batch.is_known("inclusion_prob"), batch["inclusion_prob"], 1.0)
    columns = {
        name: np.where(prob < 1, np.rint(measure(batch, name) * prob).astype(np.uint64), batch[name])
        for name in _WEIGHTED
        if name in batch
    }
    return batch.with_columns(columns, {name: batch.valid[name] for name in columns if name in batch.valid})
