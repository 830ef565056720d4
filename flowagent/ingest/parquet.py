"""Rows from Parquet files, for `flowagent estimate`, in the canonical names; needs the extra `flowagent[parquet]`.

Addresses, MAC addresses and labels are text, as lines of JSON have them; everything else is numbers. Integers do
for all of them: an IPv4 address of 32 bits, a MAC address of 48, the index of a label. A missing integer may be a
NaN among floats; times may be timestamps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flowagent.batch import Batch
from flowagent.errors import ConfigError
from flowagent.ingest.values import Problem, Read, Values, batch_of

CHUNK_ROWS = 65536
"""Rows that are read at once, at most."""
MAGIC = b"PAR1"
"""What a Parquet file begins with."""


def read(source: Path | BinaryIO, columns: Collection[str], problem: Problem) -> Iterator[Batch]:
    """Yield the rows of a file, at most CHUNK_ROWS at a time.

    Batches hold those of the `columns` that are known in any of their rows. Each row with a wrong value is told to
    `problem` and left out; so is a file from its first damage on. Raises ConfigError where pyarrow is missing or a
    column is of a type that cannot be read, and OSError.
    """
    place = str(source if isinstance(source, Path) else getattr(source, "name", "input"))
    try:
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ConfigError(place, "is Parquet, which needs a package more; install flowagent[parquet]") from error
    try:
        with parquet.ParquetFile(source) as file:
            there = set(file.schema_arrow.names)
            readers = [Values(name) for name in columns if name in there]
            first = 1
            for part in file.iter_batches(CHUNK_ROWS, columns=[reader.name for reader in readers]):
                read = ((r.name, _column(part.column(r.name), r, place)) for r in readers)
                batch, wrong = batch_of(read, part.num_rows)
                for row, reason in wrong.items():
                    problem(f"{place}: row {first + row}: {reason}")
                first += part.num_rows
                yield batch
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        problem(f"{place}: is damaged or cut off; what could be read was: {error}")


def _column(array: Any, reader: Values, place: str) -> Read:
    """A column from pyarrow's array."""
    import pyarrow as pa

    types, plain = pa.types, array.type
    if types.is_dictionary(plain):
        plain = plain.value_type
    if types.is_null(plain):
        return Read(np.zeros(len(array), np.uint8), np.zeros(len(array), np.bool_), {})
    if reader.is_text and (types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)):
        return _texts(array, reader)
    is_time = types.is_timestamp(plain)
    if not (types.is_integer(plain) or types.is_floating(plain) or is_time):
        raise ConfigError(place, f"the column {reader.name} is of type {array.type}; expected {reader.what}")
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_time:
        array = array.cast(pa.timestamp("ns")).cast(pa.int64())
    known = array.is_valid().to_numpy(zero_copy_only=False)
    return reader.of_array(array.fill_null(0).to_numpy(zero_copy_only=False), known)


def _texts(array: Any, reader: Values) -> Read:
    """Each text of the dictionary is read once."""
    import pyarrow as pa

    if not pa.types.is_dictionary(array.type):
        array = array.cast(pa.large_string()).dictionary_encode()
    distinct = reader.of_texts([*array.dictionary.to_pylist(), None])
    # Where unknown, the index is that of the None at the end.
    rows = array.indices.cast(pa.int64()).fill_null(len(distinct.known) - 1).to_numpy()
    wrong = {}
    if distinct.wrong:
        bad = np.isin(rows, list(distinct.wrong))
        wrong = {row: distinct.wrong[int(rows[row])] for row in np.flatnonzero(bad).tolist()}
    return Read(distinct.values.take(rows, axis=-1), distinct.known[rows], wrong)
