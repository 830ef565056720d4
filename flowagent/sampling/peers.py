"""Who was seen before: pairs of addresses, in bounded memory."""

from __future__ import annotations

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.hashing import hash_rows

_BITS = 22
"""4 MiB, one byte for 4 million hash values."""
_STEPS = 8
"""The horizon is kept in this many steps, so a pair is forgotten after 1 to 1 1/8 of it."""


class Peers:
    """Remembers for `horizon_ns` which pairs of addresses talked, in either direction.

    A new pair whose hash was taken already passes for a known one: with d
    pairs within the horizon this happens to about d in 4 million of them.
    """

    def __init__(self, horizon_ns: int) -> None:
        self._step_ns = max(1, horizon_ns // _STEPS)
        self._seen = np.zeros(1 << _BITS, np.uint8)
        """When last seen: the step modulo 255, plus 1; 0 for never."""
        self._step = -1

    def are_new(self, batch: Batch, now_ns: int) -> Array:
        """(n,) bool: rows of pairs not seen within the horizon; they are remembered from now on."""
        self._advance(now_ns // self._step_ns)
        if "src_addr" not in batch or "dst_addr" not in batch:
            return np.zeros(len(batch), np.bool_)
        # The sum does not depend on the direction.
        both = hash_rows(batch, ("src_addr",)) + hash_rows(batch, ("dst_addr",))
        place = (both >> np.uint64(64 - _BITS)).astype(np.intp)
        new: Array = self._seen[place] == 0
        self._seen[place] = self._step % 255 + 1
        return new

    def _advance(self, step: int) -> None:
        if step == self._step:
            return
        if self._step >= 0 and _STEPS - 255 < step - self._step <= _STEPS:
            for old in range(self._step - _STEPS, step - _STEPS):
                self._seen[self._seen == old % 255 + 1] = 0
        else:
            self._seen[:] = 0
        self._step = step
