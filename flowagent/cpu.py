"""Choices about processor and memory that must be made before NumPy is first imported.

NumPy sorts with AVX-512 where it finds it, but on AMD's Zen 4 the instruction
that this sort lives on (compress-store to memory) is microcoded: sorting 64-bit
integers takes four times as long there as with AVX2 (measured: 31 ns an item
against 7). Sorting is the heart of the group-by, so AVX-512 is left out there.

Arrays of some hundred kB come and go with every batch. The C library would give
such memory back each time, to have the kernel clear it anew at the next batch:
it is told to keep up to 64 MiB at hand.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_ZEN_4 = "25"
_AVX512 = "X86_V4 AVX512_ICL"
"""The names that NumPy 2.4 and later give to what Zen 4 has of it."""


def tune(environ: os._Environ[str] = os.environ, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Set NumPy's environment; what the user has set stays."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc knows mallopt
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here multiplies matrices
    try:
        with cpuinfo.open() as file:
            fields = dict(
                line.split(":", 1) for line in file.read(4096).split("\n\n", 1)[0].splitlines() if ":" in line
            )
    except OSError:
        return
    found = {key.strip(): value.strip() for key, value in fields.items()}
    zen_4 = found.get("vendor_id") == "AuthenticAMD" and found.get("cpu family") == _ZEN_4
    if zen_4 and "avx512f" in found.get("flags", "").split():
        environ.setdefault("NPY_DISABLE_CPU_FEATURES", _AVX512)
