"""Configure the C library's memory allocator for CPU inference."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameter numbers of glibc's `mallopt`, from its malloc.h."""

MAX_KEPT_BLOCK = 2**25
"""Size in bytes of the largest block that is kept; the maximum that glibc accepts."""

MAX_KEPT_TOTAL = 2**28
"""Bytes of free memory that are kept before any are returned to the system."""


def keep_large_blocks() -> None:
    """Make glibc keep large freed blocks for the next allocation; does nothing with another C library.

    On a CPU, a forward pass allocates and frees activations of several MB in every layer. By default glibc returns such
    blocks to the system, and each page of the next block then causes a page fault when it is first written.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, MAX_KEPT_BLOCK)
        library.mallopt(M_TRIM_THRESHOLD, MAX_KEPT_TOTAL)
