"""Claims: files that say which process is working on what, so that processes can share work."""

import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hf_relabel.run.progress import Waiting
from hf_relabel.run.store import cannot_write, clock

T = TypeVar("T")

LEASE_SECONDS = 60.0
"""A claim that has not been renewed for longer has expired."""

NAMING_SECONDS = 5.0
"""Time a process has to write its name into a claim it has made; a claim still empty after that has expired."""


class Claims:
    """The claims in one folder, as files that outlive no process.

    A claim is made by creating a file that must not exist, and renewed by touching it. Its owner is a random id. It has
    expired when its process is gone (known on the same host only) or has not renewed it for `LEASE_SECONDS`; then
    anybody may take it. A process that was suspended for longer than that may find its work done twice; whatever is
    done under a claim therefore writes complete files that do not depend on who writes them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.owner = {"id": uuid.uuid4().hex, "host": _host(), "pid": os.getpid()}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold a claim during the block; gives False if another living process holds it.

        Raises:
            OutputError: The claim cannot be written.
        """
        path = self._path(name)
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
            if self._is_mine(path):
                path.unlink(missing_ok=True)

    def holder(self, name: str) -> str | None:
        """Description of the process that holds a claim; None if none does."""
        owner = _read_owner(self._path(name))
        return f"process {owner['pid']} on {owner['host'].partition(' ')[0]}" if owner else None

    def once(self, name: str, what: str, find: Callable[[], T | None], make: Callable[[], T]) -> T:
        """Return what is there, or make it; while another process makes it, wait for that.

        When the other process fails or disappears, its claim is free and this process makes the thing itself.

        Args:
            name: Name of the claim.
            what: What is waited for, for the line in the log.
            find: Gives what is there, or None.
            make: Makes it; called by one process at a time.
        """
        waiting = Waiting(what)
        while (found := find()) is None:
            with self.hold(name) as mine:
                if mine:
                    found = find()  # just made by another process
                    return make() if found is None else found
            waiting.tick(self.holder(name))
        return found

    @contextlib.contextmanager
    def wait(self, name: str, what: str) -> Iterator[None]:
        """Hold a claim during the block, after waiting until it is free."""
        waiting = Waiting(what)
        while True:
            with self.hold(name) as mine:
                if mine:
                    yield
                    return
            waiting.tick(self.holder(name))

    def _take(self, path: Path) -> bool:
        for _ in range(2):
            try:
                with open(path, "x", encoding="utf-8") as file:
                    json.dump(self.owner, file)
                return True
            except FileExistsError:
                try:
                    expired = self._expired_owner(path)
                except FileNotFoundError:  # just released; the next claim with this name would be another process's
                    continue
                if expired is None or not self._remove(path, expired):
                    return False
            except OSError as error:
                if self._is_mine(path) or _read_owner(path) is None:
                    path.unlink(missing_ok=True)
                raise cannot_write(path, error) from error
        return False

    def _expired_owner(self, path: Path) -> dict[str, Any] | None:
        """The owner of a claim that has expired ({} if it never wrote its name); None while the claim is good."""
        age = clock(self.folder) - path.stat().st_mtime
        owner = _read_owner(path)
        if not owner:
            return {} if age > NAMING_SECONDS else None
        is_dead = owner["host"] == self.owner["host"] and not _is_alive(owner["pid"])
        return owner if is_dead or age > LEASE_SECONDS else None

    def _remove(self, path: Path, owner: dict[str, Any]) -> bool:
        """Remove the expired claim of an owner; False if it has become another's meanwhile, which stays."""
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.rename(aside)  # of several processes that try, one succeeds
        except FileNotFoundError:
            return True
        same = (_read_owner(aside) or {}).get("id") == owner.get("id")
        if not same:
            try:
                os.link(aside, path)
            except FileExistsError:
                pass
            except OSError:  # no hard links here; a claim made this very moment is lost, so work may be done twice
                aside.rename(path)
        aside.unlink(missing_ok=True)
        return same

    def _is_mine(self, path: Path) -> bool:
        return (_read_owner(path) or {}).get("id") == self.owner["id"]

    def _renew(self, path: Path, done: threading.Event) -> None:
        while not done.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(OSError):  # taken away after a suspension, or a moment without the file system
                if self._is_mine(path):
                    os.utime(path)


def _read_owner(path: Path) -> dict[str, Any] | None:
    """The owner in a claim file; None if there is no file, or no name in it yet."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) and {"id", "host", "pid"} <= owner.keys() else None


def _host() -> str:
    """This host and its process namespace: containers with one host name do not see each other's processes."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
