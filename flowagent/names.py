"""Names as numbers: the texts that enrichment adds, each by a 64-bit hash of it, so that rows stay numbers.

Rows carry the code; grouping, hashing and comparing need no text. Texts come back where somebody reads. A code
says the same for ever and on every machine; of the texts this process remembers the last million used, so memory is
bounded, and a code whose text is forgotten reads as an empty text and is never taken for another. The empty text,
which stands for what is not known, is 0.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.grouping import group_rows
from flowagent.schema import COLUMNS

MAX_NAMES = 1 << 20
MAX_BYTES = 253
"""A longer text is cut: the longest name in Kubernetes and in DNS."""
CODE = np.dtype(np.uint64)

_codes: dict[str, int] = {}
_texts: OrderedDict[int, str] = OrderedDict()


def code(text: str) -> int:
    """The number of a text, which is remembered."""
    if not text:
        return 0
    known = _codes.get(text)
    if known is not None:
        _texts.move_to_end(known)
        return known
    cut = _cut(text)
    if cut != text:
        return code(cut)
    known = hashed(text)
    _codes[text] = known
    _texts[known] = text
    if len(_texts) > MAX_NAMES:
        _codes.pop(_texts.popitem(last=False)[1])
    return known


def hashed(text: str) -> int:
    """The same number of a text that nobody is to remember, as no row may have it: one to look for."""
    cut = _cut(text)
    return (int.from_bytes(hashlib.blake2b(cut.encode(), digest_size=8).digest(), "big") or 1) if cut else 0


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore").replace("\0", "")


def text(code: int) -> str:
    """The text of a number; empty where it is 0 or forgotten."""
    return _texts.get(code, "")


def codes(texts: Iterable[str]) -> Array:
    """(n,) uint64: the numbers of texts."""
    return np.fromiter(map(code, texts), CODE)


def texts(codes: Array) -> Array:
    """(n,) "S": the texts of numbers as UTF-8, in the width of the longest."""
    if not len(codes):
        return np.zeros(0, "S1")
    groups = group_rows([codes])
    distinct = np.array([text(one).encode() for one in codes[groups.first].tolist()], "S")
    which = np.empty(len(codes), np.intp)
    which[groups.order] = np.repeat(np.arange(len(distinct)), groups.sizes())
    return distinct.take(which)


def spelled(batch: Batch) -> Batch:
    """The rows with their names as texts, unknown where there is none; a column that names no row is left out."""
    coded = [name for name, values in batch.columns.items() if values.dtype == CODE and _is_name(name)]
    if not coded:
        return batch
    known = {name: batch[name] != 0 for name in coded}
    used = [name for name in coded if known[name].any()]
    rows = batch.select(name for name in batch.columns if name not in known or name in used)
    return rows.with_columns(
        {name: texts(batch[name]) for name in used}, {name: known[name] for name in used if not known[name].all()}
    )


def _is_name(name: str) -> bool:
    return name in COLUMNS and COLUMNS[name].kind == "name"
