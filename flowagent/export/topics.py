"""Topics by the values of columns, from a template such as `flows-{proto}`; never more of them than were allowed.

Values come from traffic, and a broker may make a topic of any name that it is
asked for. So the first ones that are met get topics, and rows of further ones
share one whose name has `other` instead of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.errors import ConfigError
from flowagent.export.encode import canonical
from flowagent.export.streams import group_values, spread, taken, texts
from flowagent.metrics import Family

OTHER, UNKNOWN = "other", "unknown"
_LONGEST = 249
"""Characters of a topic's name (Kafka, `Topic.MAX_NAME_LENGTH`)."""
_NEVER = re.compile(r"[^a-zA-Z0-9._-]")
_FIELD = re.compile(r"\{(\w+)\}")


class Assigned(NamedTuple):
    """For each row (n,) the number of its topic, and the names by number."""

    of_row: Array
    names: list[str]


class Topics:
    """The topics that are in use, for as long as this lives."""

    def __init__(self, template: str, limit: int, path: str) -> None:
        """`path` is where the template stands in the configuration; raises ConfigError."""
        self._template = template
        self._limit = limit
        self.columns = tuple(dict.fromkeys(_FIELD.findall(template)))
        """Those that the template names."""
        self._known: set[str] = set()
        self._folded = 0
        plain = _FIELD.sub("x", template)
        if _NEVER.search(plain) or not plain or len(plain) > _LONGEST or plain in (".", ".."):
            raise ConfigError(
                path, f"{template!r} is no topic; it has letters, digits, '.', '_', '-', and columns such as {{proto}}"
            )
        self._other = self._name([OTHER] * len(self.columns))

    def __len__(self) -> int:
        return len(self._known)

    def assign(self, batch: Batch) -> Assigned:
        """A topic for each row. Values have `_` for what a topic cannot have, and `unknown` where there is none."""
        fields = canonical(batch.select(self.columns))
        if not fields:
            return Assigned(np.zeros(len(batch), np.intp), [self._find([UNKNOWN] * len(self.columns))])
        groups = group_values(list(fields.values()), len(batch))
        columns = [
            texts(taken(fields[name], groups.first)) if name in fields else [""] * len(groups.starts)
            for name in self.columns
        ]
        numbers: dict[str, int] = {}
        of_group = np.zeros(len(groups.starts), np.intp)
        values = list(zip(*columns, strict=True))
        for group in np.argsort(groups.first).tolist():
            of_group[group] = numbers.setdefault(self._find(values[group]), len(numbers))
        other = numbers.get(self._other)
        if other is not None:
            self._folded += int(groups.sizes()[of_group == other].sum())
        return Assigned(spread(groups, of_group), list(numbers))

    def _find(self, values: Iterable[str]) -> str:
        name = self._name(values)
        if name not in self._known:
            if len(self._known) >= self._limit:
                return self._other
            self._known.add(name)
        return name

    def _name(self, values: Iterable[str]) -> str:
        of = dict(zip(self.columns, values, strict=True))
        name = _FIELD.sub(lambda found: _NEVER.sub("_", of[found[1]]) or UNKNOWN, self._template)[:_LONGEST]
        return name if name.strip(".") else UNKNOWN

    def families(self, sink: str) -> Iterable[Family]:
        """Self metrics."""
        yield Family("flowagent_sink_topics", "gauge", "Topics that were sent to.", ("sink",), {(sink,): len(self)})
        text = "Rows that share one topic, as their topics would have been too many."
        yield Family("flowagent_sink_other_topic_rows", "counter", text, ("sink",), {(sink,): self._folded})
