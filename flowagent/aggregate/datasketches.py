"""Sketches as bytes in the formats of Apache DataSketches, so that what many agents saw can be merged elsewhere.

What is exported, from plain arrays, and who reads it:

    hll               HyperLogLog registers, as HLL_8: `hll_union_agg` of Spark 3.5, `HLLSketchMerge` of Druid
    theta             the smallest hashes of a set, as a compact theta sketch: `theta_union_agg` of Spark 4.1,
                      `thetaSketch` of Druid with `isInputThetaSketch`, `uniqTheta` of ClickHouse
    frequent_strings  a Misra-Gries table of strings, as a frequent items sketch: the libraries only

The libraries (Java, C++, Python) read all three. Spark and Druid take the bytes
as they are (Druid in Base64 where the input is text). In ClickHouse a state of
`AggregateFunction(uniqTheta, ...)` is the length of the bytes as VarUInt and
then the bytes; its functions on HyperLogLog have formats of their own.

Quantiles are not exported: a DDSketch counts in buckets of values, and no
DataSketches format (KLL, REQ, t-digest) holds those.

The hashes are flowagent's own (`hashing`). So a sketch merges with those of
other agents that hash the same columns with the same seed, never with one that
was built elsewhere from raw values; no reader can tell, as the format names
its own hash by a seed only, which has to be the default one. The numbers are
little-endian on every machine.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from flowagent.batch import Array

# Bits of the flags; the last is one thing in theta sketches and another in HLL ones.
_READ_ONLY, _EMPTY, _COMPACT, _ORDERED, _OUT_OF_ORDER = 2, 4, 8, 16, 16
_SEED_HASH = 0x93CC
"""The low 16 bits of MurmurHash3_x64_128 of the default seed 9001 as 8 bytes, under the seed 0."""
_WHOLE = 2**63 - 1
"""Theta of a sketch that holds every hash there was."""
_LARGEST = 2**63 - 1
"""Java's readers have signed numbers only."""


def hll(registers: Array) -> bytes:
    """An HLL_8 sketch of these registers: 40 + 2^p bytes, or 8 when all are 0.

    `registers` is (2^p,) uint8, 4 <= p <= 21: 0, or the largest rank (leading
    zeros + 1, at most 63) of the hashes that fell there. Raises ValueError for
    anything else.

    The sketch is marked as out of order, as the result of a union is: the order
    of arrival is not known, so readers do not use the HIP estimator but the
    composite one, of relative standard error 1.04 / sqrt(2^p). It is in HLL mode
    however few items it holds: the sparse modes keep 26 bits of a hash, and
    registers have p of them.

    Readers merge by taking the larger register. Where p differs they fold slot i
    on i modulo the smaller 2^p, which is right for the registers of `hll`; but
    Spark refuses unless told, and releases of the C++ library up to 5.2 may
    estimate wrongly then, so agents had better agree on p.
    """
    k = registers.size
    p = k.bit_length() - 1
    if registers.ndim != 1 or k & (k - 1) or not 4 <= p <= 21 or registers.dtype != np.uint8:
        raise ValueError(f"registers are uint8 and 2^4 to 2^21 in number, not {registers.dtype} {registers.shape}")
    counts = np.bincount(registers, minlength=64)
    if len(counts) > 64:
        raise ValueError(f"a register is at most 63, not {len(counts) - 1}")
    if counts[0] == k:
        # In HLL mode the Java library takes no sketch for empty; this is its empty list of coupons.
        return bytes((2, 1, 7, p, 3, _EMPTY | _COMPACT, 0, 8))
    # Sums of 2^-register, of the small registers and of the large ones: both are exact.
    terms = counts * 0.5 ** np.arange(64)
    preamble = struct.pack(
        "<8B3d2I",
        *(10, 1, 7, p, 0, _COMPACT | _OUT_OF_ORDER, 0, 10),
        *(0.0, terms[:32].sum(), terms[32:].sum()),
        *(counts[0], 0),
    )
    return preamble + registers.tobytes()


def theta(hashes: Array, theta: SupportsIndex | float) -> bytes:
    """A compact ordered theta sketch (serial version 3) of these hashes: at most 24 + 8n bytes.

    `hashes` is (n,) uint64, ascending and uniform: every hash below `theta` that
    was seen, and maybe some that are not below. `theta` is an integer on the
    scale of the hashes, or a float, the share of all hashes that lie below it, in
    (0, 1]; 2^64 - 1 or more, or 1.0, says that `hashes` are all there were.
    Raises ValueError for anything else.

    For the k smallest of more hashes, `theta` is the largest of them: the
    estimate is then (k - 1) / share, unbiased, of relative standard error
    1 / sqrt(k - 2). Theta sketches hold 63 bits, and no 0: the last bit is
    dropped, 0 becomes 1, and what becomes equal is one hash, which is rare below
    2^31 of them.
    """
    if hashes.ndim != 1 or hashes.dtype != np.uint64:
        raise ValueError(f"hashes are uint64 in one dimension, not {hashes.dtype} {hashes.shape}")
    if bool((hashes[1:] < hashes[:-1]).any()):
        raise ValueError("hashes are not ascending")
    limit = _limit(theta)
    words = np.maximum(hashes >> np.uint64(1), np.uint64(1))
    first, last = words.searchsorted(np.array([1, limit], np.uint64))
    words = words[first:last]
    words = words[np.concatenate([np.ones(len(words[:1]), np.bool_), words[1:] != words[:-1]])]
    count = len(words)
    longs = 3 if limit < _WHOLE else 1 + (count > 1)
    flags = _READ_ONLY | _COMPACT | _ORDERED | (_EMPTY if limit == _WHOLE and not count else 0)
    # A sketch of none or one leaves the count out, and a whole one theta.
    preamble = struct.pack("<6BH2IQ", longs, 3, 3, 0, 0, flags, _SEED_HASH, count, 0, limit)
    return b"".join((preamble[: 8 * longs], words.astype("<u8").tobytes()))


def _limit(theta: SupportsIndex | float) -> int:
    """Theta on the scale of 63 bits."""
    if isinstance(theta, float):
        limit = int(theta * 2.0**63) if 0 < theta <= 1 else 0
    else:
        limit = operator.index(theta) >> 1
    if not 1 <= limit <= 2**63:
        raise ValueError(f"theta is an integer from 2 to 2^64 or a share up to 1.0, not {theta!r}")
    return min(limit, _WHOLE)


def frequent_strings(
    items: Sequence[str], weights: Array, *, offset: int, total: int, capacity: int | None = None
) -> bytes:
    """A frequent items sketch of strings from a Misra-Gries table: at most 32 + 12n bytes and the strings in UTF-8.

    `items` are n different strings and `weights` (n,) integers >= 0, the lower
    bounds of their counts; with `offset` added they are the upper bounds, and
    `offset` alone that of any other string. `total` is the sum of all that was
    counted, and at least that of `weights`. The reader's table has room for
    `capacity` items, or for these n, whichever is more; 3/4 of a power of two, it
    may have more. Raises ValueError for anything else, also for a string that
    has no UTF-8.

    The bounds read back are exactly these; an item of weight 0 becomes one that is
    not held. Readers merge by adding weights and offsets, and by lowering all
    weights when the table overflows, so the bounds stay right. But they skip a
    sketch without items when merging, and with it its offset and total.
    """
    values = weights.tolist()
    if weights.shape != (len(items),) or weights.dtype.kind not in "iu":
        raise ValueError(f"weights are integers, one for each of {len(items)} items: {weights.dtype} {weights.shape}")
    if len(set(items)) != len(items):
        raise ValueError("items are not all different")
    if min(values, default=0) < 0 or offset < 0 or not sum(values) <= total <= _LARGEST or offset > _LARGEST:
        raise ValueError(f"not 0 <= weights, their sum <= total < 2^63, 0 <= offset < 2^63: {total=}, {offset=}")
    held = [(item.encode(), weight) for item, weight in zip(items, values, strict=True) if weight]
    count = len(held)
    largest = _lg_size(max(count, capacity or 0))
    if not held and not total and not offset:
        return bytes((1, 1, 10, largest, 3, 5, 0, 0))
    preamble = struct.pack("<8B2I2Q", 4, 1, 10, largest, _lg_size(count), 0, 0, 0, count, 0, total, offset)
    counts = struct.pack(f"<{count}Q", *(weight for _, weight in held))
    return preamble + counts + b"".join(struct.pack("<I", len(text)) + text for text, _ in held)


def _lg_size(count: int) -> int:
    """Log2 of the smallest hash table that holds so many items: it is at most 3/4 full, and no smaller than 8."""
    lg = 3
    while count > 3 << (lg - 2):
        lg += 1
    if lg > 30:
        raise ValueError(f"a table of {count} items is too large")
    return lg
