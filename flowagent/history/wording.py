"""How values of the history read: as labels, and as filters that select them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowagent import names
from flowagent.addresses import address_text
from flowagent.literals import value_names
from flowagent.schema import COLUMNS

UNKNOWN, OTHER = "unknown", "Other"
_DIRECTIONS = {0: "ingress", 1: "egress"}


def words(column: str, value: Any) -> tuple[str, str | None]:
    """The label of a known value, and a filter that selects it; `value` is an integer, two of them for an address.

    None for the filter where there is none: of a name that is forgotten.
    """
    kind = COLUMNS[column].kind
    if kind == "name":
        text = names.text(value)
        return (text, f"{column} == {quoted(text)}") if text else (f"forgotten {value:x}", None)
    label = _LABELS[kind](column, value) if kind in _LABELS else str(value)
    filtered = str(value) if column == "direction" else label
    return label, f"{column} == {filtered}"


def quoted(text: str) -> str:
    """A text as filters have it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _number(column: str, value: int) -> str:
    return value_names(column).get(value, str(value)) if column != "direction" else _DIRECTIONS.get(value, str(value))


def _mac(_: str, value: int) -> str:
    return ":".join(f"{value:012x}"[i : i + 2] for i in range(0, 12, 2))


_LABELS: dict[str, Callable[[str, Any], str]] = {
    "int": _number,
    "addr": lambda _, words: address_text(*words),
    "mac": _mac,
    "enum": lambda column, value: COLUMNS[column].labels[value],
}
