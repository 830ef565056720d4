"""An answer as a graph: what goes through each value, and from which to which. Every column adds up to the total."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowagent.pictures.theme import Key
from flowagent.shown import Answer, Value, printable


@dataclass(frozen=True)
class Node:
    """A value of a dimension."""

    column: int
    label: str
    is_grey: bool
    """It stands for many values, or for none that is known."""
    value: float
    error: float

    @property
    def key(self) -> Key:
        """What it is the same as in other columns."""
        return self.label, self.is_grey


@dataclass(frozen=True)
class Link:
    """What goes from one node to one of the next column; indexes of nodes."""

    source: int
    target: int
    value: float
    error: float


@dataclass(frozen=True)
class Graph:
    """Nodes by column and falling value, those that are grey last, and the links between neighbouring columns."""

    nodes: list[Node]
    links: list[Link]
    total: float

    def column(self, number: int) -> list[int]:
        """The nodes of a column."""
        return [i for i, node in enumerate(self.nodes) if node.column == number]


@dataclass
class _Sum:
    value: float = 0.0
    variance: float = 0.0

    def add(self, value: float, error: float) -> None:
        self.value += value
        # Rows are of different flows, which are sampled each for itself.
        self.variance += error * error

    @property
    def error(self) -> float:
        return math.sqrt(self.variance)


def build(answer: Answer) -> Graph:
    """Columns are the answer's dimensions, in their order, so that no cycle can be."""
    counts = range(len(answer.dimensions))
    through: dict[tuple[int, int], _Sum] = {}
    between: dict[tuple[int, int, int], _Sum] = {}
    for row in answer.rows:
        if row.value <= 0:
            continue
        for i in counts:
            through.setdefault((i, row.at[i]), _Sum()).add(row.value, row.error)
            if i:
                between.setdefault((i - 1, row.at[i - 1], row.at[i]), _Sum()).add(row.value, row.error)
    order = sorted(through, key=lambda key: (key[0], _greyness(_value(answer, key)), -through[key].value, key[1]))
    place = {key: i for i, key in enumerate(order)}
    nodes = [
        Node(key[0], printable(value.label), _greyness(value) > 0, through[key].value, through[key].error)
        for key in order
        for value in [_value(answer, key)]
    ]
    links = [
        Link(place[column, a], place[column + 1, b], found.value, found.error)
        for (column, a, b), found in between.items()
    ]
    return Graph(nodes, links, sum(row.value for row in answer.rows if row.value > 0))


def _value(answer: Answer, key: tuple[int, int]) -> Value:
    return answer.dimensions[key[0]].values[key[1]]


def _greyness(value: Value) -> int:
    return 2 * value.other + value.unknown
