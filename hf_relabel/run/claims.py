"""Claims on shards: files that say which process is working on which shard."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from hf_relabel.run.store import clock

LEASE_SECONDS = 60.0
"""A claim that its owner has not renewed for so long is void."""


NAMING_SECONDS = 5.0
"""Time a rank has to write its name into a claim it has made; a claim still empty after it is void."""


class Claims:
    """Claims on shards as files that outlive no process.

    A claim is made by creating a file that must not exist, and renewed by touching it. It is void when its owner's
    process is gone (same machine) or has not renewed it for `LEASE_SECONDS`. Two ranks that race for a void claim may,
    at worst, both do the shard: they write the same file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.owner = {"host": socket.gethostname(), "pid": os.getpid()}

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.claim"

    @contextlib.contextmanager
    def hold(self, shard: int) -> Iterator[bool]:
        """Claim a shard for the length of the block; gives False where another living process holds it."""
        path = self._path(shard)
        if not self._take(path):
            yield False
            return
        done = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(path, done), daemon=True)
        renewer.start()
        try:
            yield True
        finally:
            done.set()
            renewer.join()
            path.unlink(missing_ok=True)

    def _take(self, path: Path) -> bool:
        for _ in range(2):
            try:
                with open(path, "x", encoding="utf-8") as file:
                    json.dump(self.owner, file)
                return True
            except FileExistsError:
                try:
                    is_void = self._is_void(path)
                except FileNotFoundError:  # given back a moment ago; what is there now would be another's
                    continue
                if not is_void:
                    return False
                path.unlink(missing_ok=True)
        return False

    def _is_void(self, path: Path) -> bool:
        age = clock(self.folder) - path.stat().st_mtime
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:  # its owner is about to write it, or died before it could
            return age > NAMING_SECONDS
        if owner["host"] == self.owner["host"] and not _is_alive(owner["pid"]):
            return True
        return age > LEASE_SECONDS

    def _renew(self, path: Path, done: threading.Event) -> None:
        while not done.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
