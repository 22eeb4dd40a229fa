"""Checks that all settings and readers share."""

import errno
import stat
import unicodedata
from pathlib import Path

from hf_relabel.errors import UsageError


def require(ok: bool, key: str, value: object, rule: str) -> None:
    """Refuse a setting.

    Args:
        ok: Whether the value is valid.
        key: The setting's dotted name.
        value: Its value.
        rule: What the value must be, to end the sentence "must be ...".

    Raises:
        UsageError: The value is not valid.
    """
    if not ok:
        raise UsageError(f"{key}: must be {rule}, got {value!r}")


def regular_file(path: Path) -> Path:
    """Return the path of a regular file, or of a link to one; reading a pipe or a device may never end.

    Raises:
        OSError: There is no such file, or it is not a regular one.
    """
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, "not a valid path") from error
    if not is_regular:
        raise OSError(errno.EINVAL, "not a regular file")
    return path


def is_line(text: str) -> bool:
    """Whether a text is one line that a terminal can show: not empty, and without control characters."""
    return bool(text) and not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)
