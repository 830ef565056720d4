"""Values as rows print them, back into columns: the inverse of `plain_values` in `export/encode.py`.

A value that cannot be one of its column is wrong; the others of its column are read all the same.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from flowagent import names
from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, Batch
from flowagent.ingest.rates import MAX_RATE
from flowagent.literals import read_operand

_MAPPED = (V4_MAPPED >> 32).to_bytes(12, "big")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_LIMITS: dict[str, tuple[float, float]] = {"inclusion_prob": (1e-30, 1.0), "sampling_rate": (1.0, MAX_RATE)}
"""Totals are divided by the one and multiplied by the other, and must stay finite."""
_SHOWN = 80
"""Characters of a wrong value that a reason shows."""

Problem = Callable[[str], None]
"""Is told what could not be read, where and why."""


class Read(NamedTuple):
    """A column that was read, of n values; `values` and `known` are as in a Batch."""

    values: Array
    """What is wrong or unknown is 0."""
    known: Array
    """bool (n,)."""
    wrong: dict[int, str]
    """Rows whose value can be none of the column, and why."""


class Values:
    """Reads the values of one column: canonical, or of an IANA element that is a number, a time or an address.

    Raises `literals.WrongError` where there is no such column.
    """

    def __init__(self, name: str) -> None:
        self._operand = read_operand(name, 0)
        self.name = name
        self.is_text = self._operand.kind in ("addr", "mac", "enum", "name")
        """Whether rows print its values as text."""
        self.what = self._operand.what
        """Its values in words."""

    @property
    def type(self) -> type[str] | type[int] | type[float]:
        """Of its values in Python."""
        return str if self.is_text else float if self._operand.is_float else int

    def of_texts(self, texts: Sequence[str | None]) -> Read:
        """From text, or None where unknown; each distinct text is looked at once."""
        distinct = dict.fromkeys(texts)
        packed, bad = bytearray(), np.zeros(len(distinct), np.bool_)
        pack, nothing = self._packing()
        for i, text in enumerate(distinct):
            try:
                packed += nothing if text is None else pack(text)
            except (OSError, ValueError):
                packed += nothing
                bad[i] = True
        numbers = dict(zip(distinct, range(len(distinct)), strict=True))
        words = np.frombuffer(packed, ">u8").reshape(len(distinct), len(nothing) // 8).T.astype(self._operand.dtype)
        inverse = np.fromiter(map(numbers.__getitem__, texts), np.intp, len(texts))
        known = inverse != numbers.get(None, -1)
        rows = np.flatnonzero(bad[inverse]).tolist() if bad.any() else ()
        wrong = {row: f"{self.name}: {str(texts[row])[:_SHOWN]!r} is not {self.what}" for row in rows}
        return Read((words if self._operand.kind == "addr" else words[0]).take(inverse, axis=-1), known, wrong)

    def of_numbers(self, numbers: Sequence[float | None]) -> Read:
        """From Python's numbers of `type`, or None where unknown."""
        known = np.ones(len(numbers), np.bool_)
        try:
            values = np.array(numbers, self._operand.dtype)
        except TypeError:
            known = np.array([number is not None for number in numbers])
            numbers = [0 if number is None else number for number in numbers]
            return self.of_numbers(numbers)._replace(known=known)
        except OverflowError:
            least, most = self._operand.ends
            outside = {row: number for row, number in enumerate(numbers) if number and not least <= number <= most}
            inside = [0 if row in outside else number for row, number in enumerate(numbers)]
            return self.of_numbers(inside)._replace(wrong={r: self._outside(n) for r, n in outside.items()})
        return self.of_array(values, known)

    def of_array(self, values: Array, known: Array) -> Read:
        """From an array of integers or floats: NaN is unknown, an address is a number of 32 bits, an enum its index."""
        if values.dtype.kind == "f":
            known = known & ~np.isnan(values)
        least, most = (0, 0xFFFFFFFF) if self._operand.kind == "addr" else self._operand.ends
        if self._operand.is_float:
            least, most = _LIMITS.get(self.name, (np.finfo("f8").min, np.finfo("f8").max))
            inside = (values >= least) & (values <= most)
        elif values.dtype.kind == "f":
            # The greatest 64-bit integer is no float, but one more is.
            inside = (values >= least) & (values < most + 1.0) & (values == np.trunc(values))
        else:
            inside = (values >= least) & (values <= most)
        rows = np.flatnonzero(known & ~inside)
        wrong = {row: self._outside(values[row].item()) for row in rows.tolist()}
        numbers = np.where(known & inside, values, 0).astype(self._operand.dtype)
        if self._operand.kind == "addr":
            numbers = np.stack([np.zeros_like(numbers), numbers | np.uint64(V4_MAPPED)])
        return Read(numbers, known, wrong)

    def _outside(self, number: float) -> str:
        least, most = _LIMITS.get(self.name, self._operand.ends)
        return f"{self.name}: {number} is not a number from {least} to {most}"

    def _packing(self) -> tuple[Callable[[str], bytes], bytes]:
        """What makes words of 8 bytes from a text, and those of no text; ValueError or OSError where it cannot."""
        if self._operand.kind == "addr":
            return _packed_address, bytes(16)
        if self._operand.kind == "mac":
            return _packed_mac, bytes(8)
        if self._operand.kind == "name":
            return lambda text: names.code(text).to_bytes(8, "big"), bytes(8)
        labels = self._operand.labels

        def pack(text: str) -> bytes:
            if text not in labels:
                raise ValueError
            return labels[text].to_bytes(8, "big")

        return pack, bytes(8)


def _packed_address(text: str) -> bytes:
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return _MAPPED + socket.inet_pton(socket.AF_INET, text)


def _packed_mac(text: str) -> bytes:
    if _MAC.fullmatch(text) is None:
        raise ValueError
    return bytes(2) + bytes.fromhex(text.replace(":", ""))


def batch_of(read: Iterable[tuple[str, Read]], length: int) -> tuple[Batch, dict[int, str]]:
    """The rows of which no value is wrong, and for each other row why it is left out."""
    columns: dict[str, Array] = {}
    valid: dict[str, Array] = {}
    wrong: dict[int, str] = {}
    for name, one in read:
        wrong |= one.wrong
        if one.known.any():
            columns[name] = one.values
            if not one.known.all():
                valid[name] = one.known
    batch = Batch(columns, length, valid)
    if wrong:
        keep = np.ones(length, np.bool_)
        keep[list(wrong)] = False
        batch = batch.take(keep)
    return batch, dict(sorted(wrong.items()))
