"""The source as a run saw it: `source.json`, written by `propose`, read by later stages and other processes.

    source.json               kind, split, class names, settings, fingerprint, and the hashes of the table
    source-<digest>.parquet   image_id, label, and size and time of each file, or the row in the dataset
    source-excluded.jsonl     image_id, reason and split of each image that cannot be used; only if there are any

A process reads the rows of the table that it needs, a group at a time: its memory does not grow with the images. The
table's name contains the fingerprint, so a process that reads an older `source.json` still finds the table that belongs
to it or an error, never a mixture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from hf_relabel.config import SourceConfig, as_dict
from hf_relabel.errors import StageError
from hf_relabel.run.store import atomic_open, read_record, write_record
from hf_relabel.schema import Excluded
from hf_relabel.sources.columns import (
    Numbers,
    StoredIds,
    StoredNumbers,
    chunks,
    joined,
    part_of,
    without_prefix,
)
from hf_relabel.sources.listing import table_schema
from hf_relabel.sources.source import Source, StoredImages, of_parts, reopen_images
from hf_relabel.sources.splits import SplitEntry, prefixed, split_configs, split_entries
from hf_relabel.sources.stored_table import Layout, StoredTable, TableWriter
from hf_relabel.sources.streaming import stream_fingerprint

SNAPSHOT = "source.json"
EXCLUDED = "source-excluded.jsonl"

FORMAT = 2
"""Version of `source.json` and its table."""


@dataclass(frozen=True)
class SplitPart:
    """One of several splits of a source.

    Args:
        split: Its name.
        images: Its number of images.
        has_prefix: Whether its image ids start with its name, because an earlier split has some of them too.
        fingerprint: That of the split alone.
        dataset_fingerprint: The fingerprint that `datasets` gives it; None for a folder.
    """

    split: str
    images: int
    has_prefix: bool
    fingerprint: str
    dataset_fingerprint: str | None


@dataclass(frozen=True)
class Snapshot:
    """Everything about a source but its pixels.

    Args:
        kind: `folder` or `dataset`.
        split: Name of the split; of several the first, whose images come first.
        class_names: The C names, each once.
        image_ids: N ids, each once, sorted within each split; read from the table as they are asked for.
        labels: Class index of each image, int32 [N]; read in the same way.
        fingerprint: Hash that changes when any image is added, removed, renamed, relabeled or replaced.
        settings: The source's settings as others may read them: of a folder on this machine only its name; and the
            `commit` of a dataset on the Hub.
        places: Where the images are: `sizes` and `modified` of files, `rows` of a dataset, or places in streamed data
            files; each int64 [N].
        dataset_fingerprint: The fingerprint that `datasets` gives the split, or that of a stream; None for a
            folder and for several splits.
        excluded: The images of the source that cannot be used; empty when read from a run.
        parts: The splits, if there are several.
    """

    kind: str
    split: str
    class_names: list[str]
    image_ids: Sequence[str]
    labels: Numbers
    fingerprint: str
    settings: dict[str, Any]
    places: dict[str, Numbers]
    dataset_fingerprint: str | None = None
    excluded: list[Excluded] = field(default_factory=list)
    parts: tuple[SplitPart, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of images of each split, in their order."""
        return {part.split: part.images for part in self.parts} or {self.split: len(self)}

    def ids_of(self, split: str) -> Sequence[str]:
        """Ids of the images of a split, sorted."""
        start = 0
        for name, size in self.split_sizes.items():
            if name == split:
                return part_of(self.image_ids, start, start + size)
            start += size
        return []

    @property
    def training_images(self) -> int:
        """Number of images that a labeler is trained on: those of the first split, which come first."""
        return self.split_sizes[self.split]

    @classmethod
    def of(cls, source: Source, config: SourceConfig) -> "Snapshot":
        """The snapshot of an opened source."""
        if source.parts:
            return cls._of_several(source, config)
        images = cast(StoredImages, source.images)
        return cls(
            source.kind,
            source.split,
            source.class_names,
            source.image_ids,
            source.labels,
            source.fingerprint,
            public_settings(config) | ({"commit": images.commit} if images.commit else {}),
            images.places,
            images.fingerprint,
            source.excluded,
        )

    def is_current(self, config: SourceConfig) -> bool:
        """Whether a streamed dataset is still the one that was listed, so that it need not be listed again."""
        if not config.streaming:
            return False
        configs = {each.split_names[0]: each for each in split_configs(config)}
        known = {part.split: part.dataset_fingerprint for part in self.parts} or {self.split: self.dataset_fingerprint}
        return configs.keys() == known.keys() and all(
            stream_fingerprint(each) == known[split] for split, each in configs.items()
        )

    @classmethod
    def _of_several(cls, source: Source, config: SourceConfig) -> "Snapshot":
        """The snapshot of a source of several splits."""
        alone = [cls.of(part, each) for part, each in zip(source.parts, split_configs(config), strict=True)]
        parts, start = [], 0
        for snapshot in alone:
            stop = start + len(snapshot)
            has_prefix = source.image_ids[start] != snapshot.image_ids[0]  # all of a split's ids have it, or none
            parts.append(
                SplitPart(snapshot.split, len(snapshot), has_prefix, snapshot.fingerprint, snapshot.dataset_fingerprint)
            )
            start = stop
        return cls(
            source.kind,
            source.split,
            source.class_names,
            source.image_ids,
            source.labels,
            source.fingerprint,
            public_settings(config) | _commits(alone),
            {key: joined([snapshot.places[key] for snapshot in alone]) for key in alone[0].places},
            None,
            source.excluded,
            tuple(parts),
        )

    def _alone(self) -> list["Snapshot"]:
        """The snapshot of each split, as it would be without the others."""
        found, start = [], 0
        for part in self.parts:
            stop = start + part.images
            prefix = prefixed(part.split, "") if part.has_prefix else ""
            found.append(
                Snapshot(
                    self.kind,
                    part.split,
                    self.class_names,
                    without_prefix(part_of(self.image_ids, start, stop), prefix),
                    part_of(self.labels, start, stop),
                    part.fingerprint,
                    self.settings,
                    {key: part_of(values, start, stop) for key, values in self.places.items()},
                    part.dataset_fingerprint,
                )
            )
            start = stop
        return found

    def open(self, config: SourceConfig) -> Source:
        """Open the images without listing them again.

        Raises:
            SourceError: The dataset is missing, or is no longer the one that the snapshot was taken from.
        """
        if self.parts:
            parts = [each.open(place) for each, place in zip(self._alone(), split_configs(config), strict=True)]
            return of_parts(parts, self.image_ids, self.labels, [])
        config = split_configs(config)[0]
        images = reopen_images(config, self.image_ids, self.places, self.dataset_fingerprint)
        return Source(
            self.kind, self.split, self.class_names, self.image_ids, self.labels, images, [], config.max_pixels
        )

    def save(self, folder: Path) -> None:
        """Write the table and then `source.json`, each atomically; older tables are removed."""
        table = f"source-{self.fingerprint[:12]}.parquet"
        schema = table_schema(list(self.places))
        with atomic_open(folder / table) as file, TableWriter(file, schema) as writer:
            parts = [chunks(column) for column in (self.image_ids, self.labels, *self.places.values())]
            for columns in zip(*parts, strict=True):
                writer.write(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
            layout = writer.finish()
        record = {
            "format": FORMAT,
            "kind": self.kind,
            "split": self.split,
            "class_names": self.class_names,
            "images": len(self),
            "excluded": len(self.excluded),
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "dataset_fingerprint": self.dataset_fingerprint,
            "table": table,
            "layout": asdict(layout),
        }
        if self.parts:
            record["splits"] = [asdict(part) for part in self.parts]
        if self.excluded:
            with atomic_open(folder / EXCLUDED) as file:
                file.write("".join(image.line() for image in self.excluded).encode())
        else:
            (folder / EXCLUDED).unlink(missing_ok=True)
        write_record(folder / SNAPSHOT, record)
        for path in folder.glob("source-*.parquet"):
            if path.name != table:
                path.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> "Snapshot | None":
        """Read the snapshot of a run; None if there is none.

        Raises:
            StageError: It is damaged.
        """
        record = read_record(folder / SNAPSHOT)
        if record is None:
            return None
        if record.get("format") != FORMAT:
            raise OldSnapshotError(
                f"{folder / SNAPSHOT}: written by another version of hf_relabel; run `hf-relabel propose` with this "
                "configuration, which lists the images again and keeps all work of an unchanged source",
                str(record.get("fingerprint")),
            )
        table = StoredTable(folder / record["table"], Layout(**record["layout"]), REDO)
        return cls(
            record["kind"],
            record["split"],
            record["class_names"],
            StoredIds(table),
            StoredNumbers(table, "label"),
            record["fingerprint"],
            record["settings"],
            {name: StoredNumbers(table, name) for name in table.column_names if name not in ("image_id", "label")},
            record["dataset_fingerprint"],
            parts=tuple(SplitPart(**part) for part in record.get("splits", [])),
        )


class OldSnapshotError(StageError):
    """The snapshot has an earlier format.

    Args:
        message: What to do, in one line.
        fingerprint: The fingerprint of its source.
    """

    def __init__(self, message: str, fingerprint: str):
        super().__init__(message)
        self.fingerprint = fingerprint


def read_excluded(folder: Path) -> list[Excluded]:
    """Read the images of a run's source that cannot be used."""
    path = folder / EXCLUDED
    if not path.exists():
        return []
    return [Excluded.parse(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


REDO = f"remove {SNAPSHOT} and run `hf-relabel propose` with this configuration"


def public_settings(config: SourceConfig) -> dict[str, Any]:
    """The source's settings, with only the name of a folder or file on this machine: others cannot use its path."""
    settings = as_dict(config)
    for key in ("path", "class_names", "labels", "image_root", "only_ids", "only_classes"):
        if isinstance(settings[key], str) and settings[key] and Path(settings[key]).exists():
            settings[key] = Path(settings[key]).resolve().name
    shown = [_public_split(entry) for entry in split_entries(config)]
    settings["split"] = shown[0] if isinstance(config.split, str) else shown
    return settings


def _commits(splits: list[Snapshot]) -> dict[str, Any]:
    """The commit of several splits of a dataset on the Hub, or the commit of each if they differ."""
    commits = {snapshot.split: snapshot.settings["commit"] for snapshot in splits if "commit" in snapshot.settings}
    several = len(set(commits.values())) > 1 or len(commits) < len(splits)
    return {"commit": commits if several else next(iter(commits.values()))} if commits else {}


def _public_split(entry: SplitEntry) -> str:
    """The entry with only the last part of a folder on this machine."""
    place = Path(entry.place).resolve().name if entry.place and Path(entry.place).exists() else entry.place
    if entry.stored != entry.name:
        return f"{entry.name}:{place}:{entry.stored}"
    return f"{entry.name}:{place}" if place else entry.name


def describe_changes(old: Snapshot, new: Snapshot) -> str:
    """Describe what has changed in a source: counts, and the first image of each kind of change."""
    found = []
    if old.class_names != new.class_names:
        gone = [name for name in old.class_names if name not in set(new.class_names)]
        come = [name for name in new.class_names if name not in set(old.class_names)]
        found.append(f"classes removed: {gone[:3]}, added: {come[:3]}")
    changes = {what: _Named() for what in ("removed", "added", "replaced or relabeled")}
    for split in dict.fromkeys([*old.split_sizes, *new.split_sizes]):
        _count_changes(changes, _rows(old, split), _rows(new, split))
    for what, images in changes.items():
        if images.count:
            found.append(f"{images.count} images {what}, such as {images.first!r}")
    return "; ".join(found) or "its settings or its dataset's fingerprint"


@dataclass
class _Named:
    """A number of images, and the first of them."""

    count: int = 0
    first: str | None = None

    def add(self, image_id: str) -> None:
        self.count += 1
        self.first = self.first or image_id


Row = tuple[str, tuple[int, ...]]


def _count_changes(changes: dict[str, _Named], before: Iterator[Row], after: Iterator[Row]) -> None:
    """Compare the rows of a split, which are sorted by id."""
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None
            changes["removed"].add(old[0])
            old = next(before, None)
        elif old is None or new[0] < old[0]:
            changes["added"].add(new[0])
            new = next(after, None)
        else:
            if old[1] != new[1]:
                changes["replaced or relabeled"].add(new[0])
            old, new = next(before, None), next(after, None)


def _rows(snapshot: Snapshot, split: str) -> Iterator[Row]:
    """The id of each image of a split, and its label and place."""
    start = 0
    for name, size in snapshot.split_sizes.items():
        if name == split:
            columns = [snapshot.image_ids, snapshot.labels, *snapshot.places.values()]
            parts = [chunks(part_of(column, start, start + size)) for column in columns]
            for image_ids, *numbers in zip(*parts, strict=True):
                yield from zip(image_ids, zip(*(values.tolist() for values in numbers), strict=True), strict=True)
        start += size
