import platform
import subprocess
import sys

import pytest

from hf_relabel.vision.allocator import keep_large_blocks

COUNT_MAPPED_BLOCKS = """
import ctypes, sys
from hf_relabel.vision.allocator import keep_large_blocks

class Information(ctypes.Structure):  # `struct mallinfo` of malloc.h
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks h2 h3 h4 h5 h6 h7".split()]

library = ctypes.CDLL(None)
library.mallinfo.restype = Information
library.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "keep":
    keep_large_blocks()
before = library.mallinfo().hblks
library.malloc(ctypes.c_size_t(20 * 2**20))
print(library.mallinfo().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(("setting", "mapped"), [("leave", 1), ("keep", 0)])
def test_large_blocks_use_kept_memory(setting, mapped):
    """By default, glibc maps each such block separately and returns it to the system."""
    command = [sys.executable, "-c", COUNT_MAPPED_BLOCKS, setting]
    assert int(subprocess.run(command, check=True, capture_output=True).stdout) == mapped


def test_other_systems_are_not_changed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", None)
    keep_large_blocks()
