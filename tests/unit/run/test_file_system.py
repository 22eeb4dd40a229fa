"""The file system of a run's folder is tried out; what it lacks is named, and nothing of the trial stays."""

import builtins
import errno
import os
import shutil
import time

import pytest

from hf_relabel.errors import StageError
from hf_relabel.run.file_system import check_file_system


def test_a_local_disk_passes_at_once(tmp_path):
    started = time.monotonic()
    check_file_system(tmp_path)
    assert time.monotonic() - started < 0.5
    assert list(tmp_path.iterdir()) == []


def no_fsync(descriptor):
    raise OSError(errno.EINVAL, "Invalid argument")


def copying_replace(source, target):
    """As a bucket does it: copy, then delete; a reader sees the change."""
    with open(source, "rb") as new, open(target, "r+b") as old:
        shutil.copyfileobj(new, old)
    os.unlink(source)


def no_rename(source, target):
    raise OSError(errno.ENOTSUP, "Operation not supported")


def plain_open(path, mode="r", *arguments, _open=builtins.open, **more):
    return _open(path, mode.replace("x", "w"), *arguments, **more)


@pytest.mark.parametrize(
    ("place", "function", "words"),
    [
        ("os.fsync", no_fsync, "lacks flushing files and folders to disk .fsync. .Invalid argument"),
        ("os.replace", copying_replace, "lacks replacing a file by a rename .a reader"),
        ("os.replace", no_rename, "lacks replacing a file by a rename .Operation not supported"),
        ("os.rename", no_rename, "lacks renaming a file only once"),
        ("os.utime", lambda *_: None, "lacks setting and keeping a file's modification time"),
        ("builtins.open", plain_open, "lacks creating a file only if it does not exist"),
    ],
)
def test_what_is_missing_is_named(tmp_path, monkeypatch, place, function, words):
    monkeypatch.setattr(place, function)
    with pytest.raises(StageError, match=words):
        check_file_system(tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
