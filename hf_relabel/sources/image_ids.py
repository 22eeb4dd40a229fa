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


def ids_of_paths(paths: Sequence[str | None]) -> list[str] | None:
    """Make ids from the paths stored in a dataset; absolute paths are cut to their common folder.

    Returns:
        One id per path; None if a path is missing or does not make a safe id.
    """
    if not all(paths):
        return None
    names = [_plain(path) for path in paths if path]
    absolute = [name for name in names if name.startswith("/") or _DRIVE.match(name)]
    if absolute and len(absolute) < len(names):
        return None
    if absolute:
        # A prefix shared by the first and last path in sorted order is shared by all paths.
        common = posixpath.commonprefix([min(names), max(names)])
        names = [name[common.rfind("/") + 1 :] for name in names]
    return names if all(is_safe(name) for name in names) else None


def _plain(path: str) -> str:
    """The path inside an archive (`zip://a/b.jpg::archive.zip`) or after a URL scheme, normalized, with slashes."""
    inner = path.partition("::")[0]
    inner = inner.partition("://")[2] or inner
    return posixpath.normpath(inner.replace("\\", "/"))
