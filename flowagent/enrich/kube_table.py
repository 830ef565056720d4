"""The names of a cluster by address and time: immutable, and made of arrays only.

An entity is a pod, service or node in one of its networks. Where an address has several holders at a time, the one
of highest rank counts, and of equals the one who came last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Self

import numpy as np

from flowagent import names
from flowagent.batch import Array
from flowagent.enrich.table import AddressTable

PARTS = (
    "name", "namespace", "type", "owner_name", "owner_type", "host_name", "host_ip", "zone", "network_name",
)  # fmt: skip
"""What is known of an entity; the columns are `src_k8s_` and `dst_k8s_` and one of these."""
_API = {"type": names.code("Service"), "namespace": names.code("default"), "name": names.code("kubernetes")}


class Holdings(NamedTuple):
    """Who held which address when; one row for each time that an address had a holder."""

    addresses: Array
    """(2, m) uint64."""
    since_ns: Array
    """(m,) int64."""
    until_ns: Array
    """(m,) int64; the first moment that it was not held, or FOREVER."""
    entity: Array
    """(m,) int32: a row of `parts`."""
    rank: Array
    """(m,) uint8."""
    parts: Mapping[str, Array]
    """For each of PARTS (k,) uint64: the numbers of texts, as in `flowagent.names`."""


class KubeTable:
    """What rows are named from; see `build`."""

    def __init__(self, holdings: Holdings, addresses: AddressTable, is_app: Array) -> None:
        self.holdings, self.addresses = holdings, addresses
        none = np.zeros(1, np.uint64)
        self.parts: dict[str, Array] = {name: np.append(codes, none) for name, codes in holdings.parts.items()}
        """As in `Holdings`, and as the last, none, so that entity -1 has no name."""
        self.is_app = np.append(is_app, np.False_)
        """Whether an entity is in a namespace of applications."""

    def __len__(self) -> int:
        return len(self.holdings.entity)

    @classmethod
    def build(cls, holdings: Holdings, infra_namespaces: Sequence[str]) -> Self:
        """Namespaces of infrastructure are names, or prefixes that end with `*`."""
        addresses, since, until, entity = _one_at_a_time(holdings)
        table = AddressTable(addresses, since, until, entity)
        return cls(holdings, table, _is_app(holdings.parts, infra_namespaces))

    def keep_names(self) -> Iterator[None]:
        """Use every name, so that `flowagent.names`, which forgets what is not used for long, knows them still.

        A few at a time, so that others get their turn.
        """
        for codes in self.holdings.parts.values():
            distinct = list(set(codes.tolist()))
            for start in range(0, len(distinct), 2000):
                names.codes(map(names.text, distinct[start : start + 2000]))
                yield


def _is_app(parts: Mapping[str, Array], infra: Sequence[str]) -> Array:
    """(k,) bool. Nodes are infrastructure, and so is the API server's service, as NetObserv has it."""
    namespaces = parts["namespace"]
    apps = [code for code in set(namespaces.tolist()) if code and not _is_infra(names.text(code), infra)]
    found = np.isin(namespaces, np.array(apps, np.uint64))
    found[np.logical_and.reduce([parts[part] == np.uint64(code) for part, code in _API.items()])] = False
    return found


def _is_infra(namespace: str, infra: Iterable[str]) -> bool:
    return any(namespace.startswith(one[:-1]) if one.endswith("*") else namespace == one for one in infra)


def _one_at_a_time(holdings: Holdings) -> tuple[Array, Array, Array, Array]:
    """Addresses, times and entities, with the times cut so that no address has two holders at once."""
    (high, low), since, until = holdings.addresses, holdings.since_ns, holdings.until_ns
    order = np.lexsort((since, low, high))
    high, low, since, until = high[order], low[order], since[order], until[order]
    entity, rank = holdings.entity[order], holdings.rank[order]
    same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    overlaps = np.flatnonzero(same & (since[1:] < until[:-1]))
    if not len(overlaps):
        return np.stack([high, low]), since, until, entity
    firsts = np.flatnonzero(np.append(True, ~same))  # of each address
    group = np.repeat(np.arange(len(firsts)), np.diff(np.append(firsts, len(low))))
    crowded = np.isin(group, group[overlaps])
    bounds = np.append(firsts, len(low))
    cut = [
        (row, begin, end)
        for which in sorted(set(group[overlaps].tolist()))
        for row, begin, end in _cut(range(bounds[which], bounds[which + 1]), since, until, rank)
    ]
    rows = np.array([row for row, _, _ in cut], np.intp)
    kept = np.append(np.flatnonzero(~crowded), rows)
    return (
        np.stack([high[kept], low[kept]]),
        np.append(since[~crowded], np.array([begin for _, begin, _ in cut], np.int64)),
        np.append(until[~crowded], np.array([end for _, _, end in cut], np.int64)),
        entity[kept],
    )


def _cut(rows: range, since: Array, until: Array, rank: Array) -> list[tuple[int, int, int]]:
    """Of holders of one address in the order of coming: who counts from when until when."""
    cut: list[tuple[int, int, int]] = []
    holding: list[tuple[int, int, int]] = []  # a heap: who counts is first
    coming = [(int(since[row]), row) for row in rows]
    at, place = coming[0][0], 0
    while holding or place < len(coming):
        if not holding:
            at = coming[place][0]
        while place < len(coming) and coming[place][0] <= at:
            row = coming[place][1]
            heappush(holding, (-int(rank[row]), -row, int(until[row])))
            place += 1
        _, row, end = holding[0]
        if end <= at:
            heappop(holding)
            continue
        if place < len(coming):
            end = min(end, coming[place][0])
        begin = at
        if cut and cut[-1][0] == -row and cut[-1][2] == at:
            begin = cut.pop()[1]
        cut.append((-row, begin, end))
        at = end
    return cut
