"""How the C library keeps memory that was freed, on the CPU. Imports no torch."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_FROM_THE_HEAP = 256 << 20
"""Bytes up to which a tensor comes from the heap: the largest map of a frame of 900,000 pixels has 60 MB."""
_MOST_BEFORE_GLIBC_2_35 = 32 << 20
_KEPT = 1 << 30
"""Bytes that may lie free at the end of the heap."""


def keep_freed_memory() -> None:
    """Keep memory that tensors on the CPU have freed for the next ones, unless the environment says how memory is allocated.

    By default glibc gives large blocks back to the system when they are freed. The next frame asks for the same memory, and each of its
    pages is set up again at first use: that took up to a third of the time of a frame of Faster R-CNN (512 px, ResNet-34, two threads). The
    memory that a process holds stays near its peak instead. Has an effect on Linux with glibc only, before glibc 2.35 on tensors up to 32 MiB.
    """
    chosen = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if chosen or "GLIBC_TUNABLES" in os.environ or sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    # To set the second alone would fix the first at its default of 128 KiB, and give back more than without a call.
    if any(mallopt(_M_MMAP_THRESHOLD, size) for size in (_FROM_THE_HEAP, _MOST_BEFORE_GLIBC_2_35)):
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
