"""Keys of groups as plain values and as the texts of labels."""

from __future__ import annotations

from collections.abc import Sequence

from flowagent import names
from flowagent.addresses import address_text
from flowagent.batch import Array, Batch
from flowagent.schema import COLUMNS

OTHER = "other"
"""Stands for all keys beyond a bound."""
Key = tuple[object, ...]
"""A group's value of each column; an address is two words, None is unknown."""


def keys_of(batch: Batch, names: Sequence[str], rows: Array) -> list[Key]:
    """The keys of these rows (positions): a value for each of the columns, which the batch need not have."""
    columns: list[list[object]] = []
    for name in names:
        if name not in batch:
            columns.append([None] * len(rows))
            continue
        values = batch[name][..., rows]
        plain: list[object] = list(map(tuple, values.T.tolist())) if values.ndim == 2 else values.tolist()
        if name in batch.valid:
            known = batch.valid[name][rows].tolist()
            plain = [v if k else None for v, k in zip(plain, known, strict=True)]
        columns.append(plain)
    return list(zip(*columns, strict=True)) if columns else [()] * len(rows)


def readable(name: str, value: object) -> object:
    """A value as outputs show it: addresses and the like as text, numbers as they are, None where unknown."""
    column = COLUMNS[name]
    if column.kind == "addr" and isinstance(value, tuple):
        return address_text(*value)
    if column.kind == "name" and isinstance(value, int):
        return names.text(value)
    if column.kind == "enum" and isinstance(value, int):
        return column.labels[value]
    if column.kind == "mac" and isinstance(value, int):
        return value.to_bytes(6, "big").hex(":")
    return value


def label(name: str, value: object) -> str:
    """The same as the text of a label; empty where unknown."""
    return "" if value is None else str(readable(name, value))


def group_label(names: Sequence[str], key: Key | None) -> str:
    """A group as one label, `proto=6,vlan=`; empty where no groups are told apart, and `other` for None."""
    if key is None:
        return OTHER
    return ",".join(f"{name}={label(name, value)}" for name, value in zip(names, key, strict=True))
