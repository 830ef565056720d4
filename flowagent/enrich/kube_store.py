"""What the API server told so far, kept so that a table of it is a copy of arrays.

An address that is given up keeps its holder for a while, so that flows that are told of late find who it was. The
number of addresses, and with it memory, is bounded: the oldest past holders go first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Set

import numpy as np
from msgspec import Struct

from flowagent import names
from flowagent.enrich.kube_objects import KINDS, Address, Owner, Thing
from flowagent.enrich.kube_slots import Slots
from flowagent.enrich.kube_table import PARTS, Holdings
from flowagent.enrich.table import FOREVER

_NO_ROW = -1
PASSED_ON = ("ReplicaSet", "Job")
"""Kinds of owners whose own owner is the one to name."""
_HOLDINGS = {"high": "u8", "low": "u8", "since": "i8", "until": "i8", "entity": "i4", "rank": "u1"}


class _Known(Struct, gc=False):
    """What is kept of an object; its names and addresses are in the arrays."""

    kind: str
    name: str
    seen: int = 0
    """Hash of all that was said of it last: most news of an object change nothing that counts here."""
    is_over: bool = False
    rows: tuple[int, ...] = ()
    """For each of its addresses the row of `_held`, or _NO_ROW."""


class Store:
    """Objects by uid, the addresses that they hold, and those that they held less than `history_ns` ago."""

    def __init__(self, history_ns: int, max_addresses: int) -> None:
        self._history_ns, self._max = history_ns, max_addresses
        self._known: dict[str, _Known] = {}
        self._held = Slots(_HOLDINGS)
        self._past: deque[int] = deque()
        """Rows of addresses that are given up, in that order."""
        self._entities = Slots({**dict.fromkeys(PARTS, names.CODE), "uses": "i4", "owner": "u8"})
        self._zones: dict[str, str] = {}
        """Of nodes by name."""
        self._tops: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """Kind and name of the topmost owner, by the uid of an owner that is passed on."""
        self.waiting: OrderedDict[str, tuple[str, Owner]] = OrderedDict()
        """By uid, namespace and all of owners whose own owners are not known."""
        self.objects = dict.fromkeys(KINDS.values(), 0)
        """How many there are by kind."""
        self.evictions = 0
        """Addresses, and objects without any, that were left out because there were too many."""
        self.version = 0
        """Grows with every change of what a table would say."""

    def __len__(self) -> int:
        """Addresses held now and before."""
        return len(self._held)

    def put(self, thing: Thing, now_ns: int) -> None:
        """An object is new or changed."""
        known = self._known.get(thing.uid)
        if known is None:
            if len(self._known) >= self._max:
                self.evictions += 1
                return
            known = self._known[thing.uid] = _Known(thing.kind, thing.name)
            self.objects[thing.kind] += 1
        seen = hash(thing)
        if known.seen != seen or _NO_ROW in known.rows:
            known.seen = seen
            self._enter(known, thing, now_ns)

    def remove(self, uid: str, now_ns: int) -> None:
        """An object is gone."""
        known = self._known.pop(uid, None)
        if known is None:
            return
        self.version += 1
        self.objects[known.kind] -= 1
        self._give_up(known.rows, now_ns)
        if known.kind == "Node":
            self._zones.pop(known.name, None)

    def retain(self, kind: str, uids: Set[str], now_ns: int) -> None:
        """Of this kind there are these objects and no others."""
        for uid in [uid for uid, known in self._known.items() if known.kind == kind and uid not in uids]:
            self.remove(uid, now_ns)

    def expire(self, now_ns: int) -> None:
        """Forget who held an address too long ago."""
        while self._past and self._held["until"][self._past[0]] <= now_ns - self._history_ns:
            self._release(self._past.popleft())
            self.version += 1

    def set_tops(self, tops: Mapping[str, tuple[str, str]]) -> None:
        """Kind and name of the topmost owner of what the owners of these uids made."""
        if not tops:
            return
        self._tops.update(tops)
        while len(self._tops) > self._max:
            self._tops.popitem(last=False)
        for uid in tops:
            self.waiting.pop(uid, None)
        keys = np.fromiter(map(_key, tops), np.uint64)
        order = np.argsort(keys)
        place = np.minimum(np.searchsorted(keys, self._entities["owner"], sorter=order), len(keys) - 1)
        which = order[place]
        there = keys[which] == self._entities["owner"]
        for part, texts in zip(("owner_type", "owner_name"), zip(*tops.values(), strict=True), strict=True):
            self._entities[part][there] = names.codes(texts)[which[there]]
        self.version += 1

    def holdings(self) -> Holdings:
        """All of it, as copies."""
        count, entities = self._held.size, self._entities.size
        used = self._held["entity"][:count] >= 0
        columns = {name: self._held[name][:count][used] for name in _HOLDINGS}
        return Holdings(
            np.stack([columns["high"], columns["low"]]), columns["since"], columns["until"],
            columns["entity"], columns["rank"],
            {name: self._entities[name][:entities].copy() for name in PARTS},
        )  # fmt: skip

    def _enter(self, known: _Known, thing: Thing, now_ns: int) -> None:
        """Give an object the addresses that it has now."""
        self.version += 1
        if thing.kind == "Node":
            self._set_zone(thing.name, thing.zone)
        if thing.is_over:
            if not known.is_over:
                known.is_over = True
                self._end(known, thing, now_ns)
            return
        known.is_over = False
        old = {self._held_as(row): row for row in known.rows if row != _NO_ROW}
        # What an object has at first it has had since it began; who saw it later than that does not matter.
        since_ns = now_ns if old else min(thing.since_ns or now_ns, now_ns)
        now = {(one.high, one.low, one.rank, names.code(one.network)): one for one in thing.addresses}
        kept = {key: old.pop(key) for key in now if key in old}
        self._give_up(tuple(old.values()), now_ns)
        entities = {key[3]: int(self._held["entity"][row]) for key, row in kept.items()}
        known.rows = tuple(
            kept[key] if key in kept else self._hold(one, since_ns, entities) for key, one in now.items()
        )
        self._name(thing, known.rows)

    def _held_as(self, row: int) -> tuple[int, int, int, int]:
        """Both words of a row's address, its rank, and the number of its network."""
        held = self._held
        network = self._entities["network_name"][held["entity"][row]]
        return int(held["high"][row]), int(held["low"][row]), int(held["rank"][row]), int(network)

    def _end(self, known: _Known, thing: Thing, now_ns: int) -> None:
        """An object is there still, but its addresses are free."""
        until_ns = min(thing.until_ns or now_ns, now_ns)
        if not known.rows and thing.until_ns > now_ns - self._history_ns:
            entities: dict[int, int] = {}
            known.rows = tuple(self._hold(one, thing.since_ns, entities) for one in thing.addresses)
            self._name(thing, known.rows)
        self._give_up(known.rows, until_ns)
        known.rows = ()

    def _hold(self, address: Address, since_ns: int, entities: dict[int, int]) -> int:
        """A row for an address that is held from now on, by the object's entity in that network."""
        if len(self._held) >= self._max:
            self.evictions += 1
            if not self._past:
                return _NO_ROW
            self._release(self._past.popleft())
        row = self._held.take()
        network = names.code(address.network)
        entity = entities.get(network)
        if entity is None:
            entity = entities[network] = self._entities.take()
            self._entities["uses"][entity] = 0
            self._entities["network_name"][entity] = network
        self._entities["uses"][entity] += 1
        values = (address.high, address.low, since_ns, FOREVER, entity, address.rank)
        for name, value in zip(_HOLDINGS, values, strict=True):
            self._held[name][row] = value
        return row

    def _give_up(self, rows: tuple[int, ...], until_ns: int) -> None:
        until, since = self._held["until"], self._held["since"]
        for row in rows:
            if row != _NO_ROW:
                until[row] = max(until_ns, since[row])
                self._past.append(row)

    def _release(self, row: int) -> None:
        entity = int(self._held["entity"][row])
        self._held["entity"][row] = -1
        self._held.give(row)
        uses = self._entities["uses"]
        uses[entity] -= 1
        if not uses[entity]:
            self._entities.give(entity)

    def _set_zone(self, node: str, zone: str) -> None:
        """Pods are in the zone of their node, which may be told of after them."""
        if self._zones.get(node, "") != zone:
            there = self._entities["host_name"] == np.uint64(names.code(node))
            self._entities["zone"][there] = names.code(zone)
        self._zones[node] = zone

    def _name(self, thing: Thing, rows: tuple[int, ...]) -> None:
        """Write what is known of an object to its entities."""
        entities = {int(self._held["entity"][row]) for row in rows if row != _NO_ROW}
        if not entities:
            return
        self.version += 1
        owner_type, owner_name = self._owner(thing)
        zone = self._zones.get(thing.host_name, "") if thing.kind == "Pod" else thing.zone
        key = _key(thing.owner.uid) if thing.owner is not None else 0
        texts = {
            "name": thing.name, "namespace": thing.namespace, "type": thing.kind,
            "owner_name": owner_name, "owner_type": owner_type,
            "host_name": thing.host_name, "host_ip": thing.host_ip, "zone": zone,
        }  # fmt: skip
        for part, text in texts.items():
            code = names.code(text)
            for entity in entities:
                self._entities[part][entity] = code
        for entity in entities:
            self._entities["owner"][entity] = key

    def _owner(self, thing: Thing) -> tuple[str, str]:
        """Kind and name of the topmost owner that is known; an object without one is its own."""
        owner = thing.owner
        if owner is None:
            return thing.kind, thing.name
        top = self._tops.get(owner.uid)
        if top is not None:
            self._tops.move_to_end(owner.uid)
            return top
        if owner.kind in PASSED_ON:
            self.waiting[owner.uid] = thing.namespace, owner
            if len(self.waiting) > self._max:
                self.waiting.popitem(last=False)
        return owner.kind, owner.name


def _key(uid: str) -> int:
    return hash(uid) & (1 << 64) - 1
