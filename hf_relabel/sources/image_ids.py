"""Image ids: readable relative names that are safe as paths, lines of text and keys."""

import posixpath
import re
from collections.abc import Sequence

# Control characters, line and paragraph separators, and lone surrogates (bytes that were not UTF-8).
_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DRIVE = re.compile("[A-Za-z]:/")


def is_safe(name: str) -> bool:
    """Whether a name can be an image id: a relative path without `..`, one line of valid text."""
    slashes = name.replace("\\", "/")
    if not name or slashes.startswith("/") or _DRIVE.match(slashes) or _NOT_IN_IDS.search(name):
        return False
    return ".." not in slashes.split("/")


class PathIds:
    """Makes ids from the paths stored in a dataset; absolute paths are cut to their common folder.

    All paths are looked at twice, some at a time: first by `look`, then by `ids`.
    """

    def __init__(self) -> None:
        self._is_complete = True
        self._relative = self._absolute = 0
        self._first: str | None = None
        self._last: str | None = None

    def look(self, paths: Sequence[str | None]) -> None:
        """Take note of some paths."""
        names = [_plain(path) for path in paths if path]
        self._is_complete &= len(names) == len(paths)
        if names:
            self._absolute += sum(_is_absolute(name) for name in names)
            self._relative += sum(not _is_absolute(name) for name in names)
            low, high = min(names), max(names)
            self._first = low if self._first is None else min(low, self._first)
            self._last = high if self._last is None else max(high, self._last)

    @property
    def has_any(self) -> bool:
        """Whether there is a path at all."""
        return self._first is not None

    def ids(self, paths: Sequence[str | None]) -> list[str] | None:
        """The ids of some paths; None if a path is missing or does not make a safe id."""
        if not self._is_complete or (self._absolute and self._relative):
            return None
        names = [_plain(path) for path in paths if path]
        if self._absolute:
            # A prefix shared by the first and last path in sorted order is shared by all paths.
            common = posixpath.commonprefix([self._first or "", self._last or ""])
            names = [name[common.rfind("/") + 1 :] for name in names]
        return names if all(map(is_safe, names)) else None


def _is_absolute(name: str) -> bool:
    return name.startswith("/") or _DRIVE.match(name) is not None


def _plain(path: str) -> str:
    """The path inside an archive (`zip://a/b.jpg::archive.zip`) or after a URL scheme, normalized, with slashes."""
    inner = path.partition("::")[0]
    inner = inner.partition("://")[2] or inner
    return posixpath.normpath(inner.replace("\\", "/"))
