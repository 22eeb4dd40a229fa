"""Shared parts of the release imports: names, classes, rows and provenance."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_relabel import __version__
from hf_relabel.config.checks import regular_file
from hf_relabel.errors import UsageError
from hf_relabel.run.store import sha256_of
from hf_relabel.schema import release_schema
from hf_relabel.sources.classes import ClassList, imagenet_classes, read_class_list

BATCH_ROWS = 2000


@dataclass(frozen=True)
class Names:
    """Name, version and split of an imported release.

    Args:
        version: Three numbers such as 1.0.0.
        name: Display name.
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
    """The result of an import.

    Args:
        folder: The release folder.
        facts: Counts to report, by description.
        left_out: Number of items that were not imported, by reason.
    """

    folder: Path
    facts: dict[str, int]
    left_out: dict[str, int]


def class_list(file: str | None) -> ClassList:
    """The classes in a file, by default ImageNet-1k's."""
    return imagenet_classes() if file is None else read_class_list(file)


def tables(rows: Iterable[dict[str, Any]], class_names: list[str]) -> Iterator[pa.Table]:
    """Convert rows of the `regions` configuration to tables of a few thousand rows."""
    schema = release_schema("regions", class_names)
    rows = iter(rows)
    while some := list(islice(rows, BATCH_ROWS)):
        yield pa.Table.from_pylist(some, schema=schema)


def provenance(**source: Any) -> dict[str, Any]:
    """Provenance of a release that was not made by a run: the tool and the origin of the labels."""
    return {"tool": {"name": "hf_relabel", "version": __version__}, "config": {"import": source}}


def origin(path: Path) -> dict[str, str]:
    """A file's name and hash. Its folder is omitted, since it means nothing on other machines."""
    return {"file": path.name, "sha256": sha256_of(regular_file(path))}
