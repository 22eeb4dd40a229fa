"""Splits of a source: `source.split: [train, test:PLACE:validation]`, each with its name, place and stored name.

The images of the first split keep the ids that they have alone. A later split keeps its own ids too, unless one of them
is also that of an image in an earlier split: then all of its ids start with its name.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError, UsageError

OTHER_NAMES = {"validation": ("val", "valid"), "train": ("training",), "test": ("testing",)}
"""Usual names of a split's folder besides its own."""


NAME = r"\w+([.-]\w+)*"
"""A split's name."""


class Images(Protocol):
    """Opens the image files of a source by index."""

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""

    def content_keys(self) -> Iterator[bytes]:
        """Bytes that change when an image is replaced; no image is read."""


@dataclass(frozen=True)
class SplitImages:
    """The images of several splits, one after another.

    Args:
        parts: The images of each split.
        starts: Index of the first image of each.
    """

    parts: list[Images]
    starts: list[int]

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""
        part = bisect_right(self.starts, index) - 1
        return self.parts[part].open(index - self.starts[part])

    def content_keys(self) -> Iterator[bytes]:
        """Bytes that change when an image is replaced; no image is read."""
        for part in self.parts:
            yield from part.content_keys()


class SplitEntry(NamedTuple):
    """An entry of `source.split`, which is NAME, NAME:PLACE, or of a dataset NAME:PLACE:STORED or NAME::STORED.

    Attributes:
        name: Name of the split in the release.
        place: Folder or dataset that has its images; empty for the source's own path.
        stored: Name of the split in that dataset.
    """

    name: str
    place: str
    stored: str


def split_entries(config: SourceConfig) -> list[SplitEntry]:
    """Return the entries of `source.split`; names are not checked."""
    found = []
    for entry in [config.split] if isinstance(config.split, str) else config.split:
        name, _, rest = entry.partition(":")
        place, colon, stored = rest.rpartition(":")
        # A path may have a colon: on Windows, and in folders named by a date.
        if config.kind == "dataset" and colon and re.fullmatch(NAME, stored) and not Path(rest).exists():
            found.append(SplitEntry(name, place, stored))
        else:
            found.append(SplitEntry(name, rest, name))
    return found


def stored_split(config: SourceConfig) -> str:
    """Name that a split has in its dataset, from the settings of this split alone."""
    (entry,) = split_entries(config)
    return entry.stored


def split_configs(config: SourceConfig) -> list[SourceConfig]:
    """Return the settings of each split, with its place as `path` and its name, or NAME::STORED, as `split`.

    Raises:
        UsageError: A name is not plain.
        SourceError: A folder has no subfolder for a split.
    """
    entries = split_entries(config)
    found = []
    places = [entry.place for entry in entries if entry.place]
    root = Path(config.path)
    # All other splits are elsewhere, so a folder with the name of the remaining split may be this split itself.
    is_alone = len(places) == len(entries) - 1 and not any(_is_below(root, place) for place in places)
    for entry in entries:
        if not re.fullmatch(NAME, entry.name):
            raise UsageError(
                f"source.split: must be the name of a split, or NAME:PLACE, got {entry.name!r}; to use part of a "
                "split, set source.limit"
            )
        place = _place(config, entry.name, entry.place, len(entries) > 1, is_alone)
        split = entry.name if entry.stored == entry.name else f"{entry.name}::{entry.stored}"
        found.append(replace(config, split=split, path=place))
    return found


def _is_below(root: Path, place: str) -> bool:
    found = root / place if (root / place).exists() else Path(place)
    return found.resolve().is_relative_to(root.resolve())


def _place(config: SourceConfig, name: str, place: str, is_one_of_several: bool, is_alone: bool) -> str:
    """The path of a split; `is_alone` says that no other split is below the source's path."""
    root = Path(config.path)
    if place:
        inside = root / place
        if config.kind == "folder" and ":" in place and not inside.exists() and not Path(place).exists():
            raise SourceError(
                f"{place}: no such folder; for a folder, source.split takes NAME or NAME:PLACE, and for a dataset also "
                "NAME:PLACE:STORED"
            )
        return str(inside) if config.kind == "folder" and config.path and inside.exists() else place
    if config.kind == "dataset" or not is_one_of_several:
        return config.path
    names = (name, *OTHER_NAMES.get(name, ()))
    if is_alone and root.name.lower() in names:
        return config.path
    for folder in names:
        if (root / folder).is_dir():
            return str(root / folder)
    raise SourceError(
        f"{root}: no folder for the split {name!r} ({' or '.join(names)}); name it in --source.split, such as "
        f"'[train, {name}:FOLDER]'"
    )


def is_taken(image_ids: Sequence[str], earlier: Iterable[Sequence[str]]) -> bool:
    """Whether one of the ids is also in an earlier split, so that all get the split's name as prefix.

    Args:
        image_ids: The ids of a split, sorted.
        earlier: Those of each earlier split, sorted.
    """
    from hf_relabel.sources.columns import share_an_id  # PyArrow: checking the names of splits must not wait for it

    return any(share_an_id(image_ids, ids) for ids in earlier)


def prefixed(split: str, image_id: str) -> str:
    """The id of an image in a split whose own ids are taken."""
    return f"{split}/{image_id}"
