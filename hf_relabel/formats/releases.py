"""What the imports of releases share: names of what is made, its classes and its rows."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_relabel import __version__
from hf_relabel.errors import UsageError
from hf_relabel.run.store import sha256_of
from hf_relabel.schema import release_schema
from hf_relabel.sources.classes import ClassList, imagenet_classes, read_class_list

ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class Names:
    """What an imported release is called.

    Args:
        version: Three numbers such as 1.0.0.
        name: Pretty name.
        split: Name of the split.
    """

    version: str = "1.0.0"
    name: str = "imported"
    split: str = "train"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version, re.ASCII):
            raise UsageError(f"--version: must be three numbers such as 1.0.0, got {self.version!r}")


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Args:
        folder: The release.
        facts: Numbers to report, by what they count.
        left_out: Numbers of what was left out, by reason.
    """

    folder: Path
    facts: dict[str, int]
    left_out: dict[str, int]


def class_list(file: str | None) -> ClassList:
    """The classes of a file, or ImageNet-1k's where none is named."""
    return imagenet_classes() if file is None else read_class_list(file)


def tables(rows: Iterable[dict[str, Any]], class_names: list[str]) -> Iterator[pa.Table]:
    """Rows of the `regions` configuration, some thousand at a time."""
    schema = release_schema("regions", class_names)
    rows = iter(rows)
    while some := list(islice(rows, ROWS_AT_ONCE)):
        yield pa.Table.from_pylist(some, schema=schema)


def provenance(**source: Any) -> dict[str, Any]:
    """What a release without a run behind it records: the tool, and where the labels came from."""
    return {"tool": {"name": "hf_relabel", "version": __version__}, "config": {"import": source}}


def origin(path: Path) -> dict[str, str]:
    """A file's name and hash; its folder is of this machine and says nothing to others."""
    return {"file": path.name, "sha256": sha256_of(path)}
