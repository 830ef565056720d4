"""Rows from objects in canonical names, as the schema `canonical` writes them: JSON or MessagePack.

Names come back as codes (see `names`). Of elements without a column those that are numbers, times or addresses come
back; texts and octets of others do not.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.ingest.decoded import Decoded, finish
from flowagent.ingest.objects import Format, Object, Table, read
from flowagent.ingest.values import Read, Values
from flowagent.literals import WrongError

_ALWAYS = frozenset({"weight", "inclusion_prob", "records"})


@lru_cache(maxsize=1024)
def reader(name: str) -> Values | None:
    """What reads a column; None where there is none of this name, or it cannot be read."""
    try:
        return Values(name)
    except WrongError:
        return None


class CanonicalDecoder:
    """Messages of one or several rows."""

    name = "canonical"

    def __init__(self, form: Format = "json") -> None:
        self._form = form
        self._wanted: frozenset[str] | None = None

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""
        self._wanted = None if columns is None else columns | _ALWAYS

    def decode(self, values: list[bytes]) -> Decoded:
        """The rows of these messages; one with a value that can be none of its column is left out."""
        errors: Counter[str] = Counter()
        rows, origin = read(values, self._form, errors)
        batch, kept = self.batch(rows, errors)
        return finish(batch, origin[kept], +errors, is_weighted=False)

    def batch(self, rows: list[Object], errors: Counter[str]) -> tuple[Batch, Array]:
        """The rows of these objects, and (n,) bool: which objects they are."""
        table = Table(rows)
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for name in table.keys:
            values = reader(name) if self._wanted is None or name in self._wanted else None
            if values is not None:
                place(columns, valid, name, column(table, name, values))
        kept = table.kept(errors)
        return Batch(columns, len(table), valid).take(kept), kept


def column(table: Table, key: str, values: Values) -> Read:
    """The values of a key, as those of a column."""
    types = (str,) if values.is_text else (int, float) if values.type is float else (int,)
    found = table.values(key, *types)
    assert found is not None
    read_ = values.of_texts(found) if values.is_text else values.of_numbers(found)
    if read_.wrong:
        table.wrong[list(read_.wrong)] = True
    return read_


def place(columns: dict[str, Array], valid: dict[str, Array], name: str, found: Read) -> None:
    """Add a column, where any value of it is known."""
    if found.known.any():
        columns[name] = found.values
        if not found.known.all():
            valid[name] = np.asarray(found.known)
