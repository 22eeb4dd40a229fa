"""How much of a file another version of it already holds: content-defined chunks, as the Hub's storage cuts them.

The Hub stores files as chunks of about 64 KiB whose borders depend on the content alone (a gear hash, as in FastCDC,
Xia et al., USENIX ATC 2016), and a client sends only chunks that are not there. The borders here are drawn by the
same rule with another table of random numbers: they fall elsewhere, but as often, so the share of bytes found again
is an estimate of what an upload saves.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

LEAST, MOST = 8 * 1024, 128 * 1024
"""Bytes of the smallest chunk (but a file's last) and of the largest."""

_BORDER_BITS = 16  # a border every 2**16 bytes on average, beside the limits
_WINDOW = 64  # bytes a hash depends on: each byte shifts it by one of its 64 bits
_BLOCK = 1 << 22  # bytes hashed at once
_GEAR = np.random.default_rng(2016).integers(0, 2**64, size=256, dtype=np.uint64)


def reused_share(new: Iterable[Path], old: Iterable[Path]) -> float:
    """Share of the bytes of files whose chunks occur in older files, in [0, 1]; 1 where there are no bytes."""
    known = {digest for path in old for digest, _ in chunks(path)}
    total = found = 0
    for path in new:
        for digest, size in chunks(path):
            total += size
            found += size if digest in known else 0
    return found / total if total else 1.0


def chunks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Hash and size of each chunk of a file, in order."""
    borders = _borders(path)
    with open(path, "rb") as file:
        for size in np.diff(borders, prepend=0):
            yield hashlib.blake2b(file.read(int(size)), digest_size=16).digest(), int(size)


def _borders(path: Path) -> np.ndarray:
    """Ends of the chunks of a file, int64, ascending; the last one is the file's size."""
    candidates = _candidates(path)
    size = path.stat().st_size
    ends = []
    start = 0
    while size - start > LEAST:
        place = np.searchsorted(candidates, start + LEAST)
        end = int(candidates[place]) if place < len(candidates) else size
        start = min(end, start + MOST, size)
        ends.append(start)
    if start < size:
        ends.append(size)
    return np.array(ends, np.int64)


def _candidates(path: Path) -> np.ndarray:
    """Places where a chunk may end, int64, ascending: after each byte whose hash begins with zeros."""
    found = []
    tail = np.zeros(0, np.uint8)
    offset = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            data = np.concatenate([tail, np.frombuffer(block, np.uint8)])
            places = np.flatnonzero(_gear_hashes(data) >> np.uint64(64 - _BORDER_BITS) == 0)
            places = places[places >= len(tail)]
            found.append(offset - len(tail) + places + 1)
            tail = data[-(_WINDOW - 1) :]
            offset += len(block)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _gear_hashes(data: np.ndarray) -> np.ndarray:
    """The rolling hash after each byte, uint64 [N]: the sum of gear[byte] << age over the last 64 bytes, mod 2**64.

    The sum over 2w bytes is that over the last w and, shifted by w, that over the w before.
    """
    hashes = _GEAR[data]
    width = 1
    while width < _WINDOW:
        wider = hashes.copy()
        wider[width:] += hashes[:-width] << np.uint64(width)
        hashes, width = wider, 2 * width
    return hashes
