"""The C library's allocator: what becomes of large blocks that are freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, as its malloc.h numbers them."""

LARGEST_KEPT = 2**25
"""Bytes of the largest block that is kept, the most that glibc takes."""

KEPT_IN_ALL = 2**28
"""Bytes that may lie free before any are given back."""


def keep_large_blocks() -> None:
    """Let glibc keep large freed blocks for the next allocation; of no effect with another C library.

    On a CPU the activations of a forward pass are blocks of some MB, allocated and freed in every layer. By default
    glibc gives such memory back to the system, and every page of it that is written to again is a fault.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL)
