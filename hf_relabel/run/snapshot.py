"""The source as a run saw it: `source.json`, written by `propose`, read by later stages and other processes.

    source.json               kind, split, class names, settings, fingerprint, and the hash of the table
    source-<digest>.parquet   image_id, label, and size and time of each file, or the row in the dataset
    source-excluded.jsonl     image_id, reason and split of each image that cannot be used; only if there are any

The table has its own file because a million ids are too many for JSON. Its name contains the fingerprint, so a process
that reads an older `source.json` still finds the table that belongs to it or an error, never a mixture.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.config import SourceConfig, as_dict
from hf_relabel.errors import StageError
from hf_relabel.run.store import atomic_open, read_record, write_record
from hf_relabel.schema import Excluded
from hf_relabel.sources.source import Source, StoredImages, combine, reopen_images
from hf_relabel.sources.splits import prefixed, split_configs
from hf_relabel.sources.streaming import stream_fingerprint

SNAPSHOT = "source.json"
EXCLUDED = "source-excluded.jsonl"


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
        image_ids: N ids, each once, sorted within each split.
        labels: Class index of each image, int32 [N].
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
    image_ids: list[str]
    labels: np.ndarray
    fingerprint: str
    settings: dict[str, Any]
    places: dict[str, np.ndarray]
    dataset_fingerprint: str | None = None
    excluded: list[Excluded] = field(default_factory=list)
    parts: tuple[SplitPart, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of images of each split, in their order."""
        return {part.split: part.images for part in self.parts} or {self.split: len(self)}

    def ids_of(self, split: str) -> list[str]:
        """Ids of the images of a split."""
        start = 0
        for name, size in self.split_sizes.items():
            if name == split:
                return self.image_ids[start : start + size]
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
        configs = {each.split: each for each in split_configs(config)}
        known = {part.split: part.dataset_fingerprint for part in self.parts} or {self.split: self.dataset_fingerprint}
        return configs.keys() == known.keys() and all(
            stream_fingerprint(each) == known[str(split)] for split, each in configs.items()
        )

    @classmethod
    def _of_several(cls, source: Source, config: SourceConfig) -> "Snapshot":
        """The snapshot of a source of several splits."""
        alone = [cls.of(part, each) for part, each in zip(source.parts, split_configs(config), strict=True)]
        parts, start = [], 0
        for snapshot in alone:
            stop = start + len(snapshot)
            has_prefix = source.image_ids[start:stop] != snapshot.image_ids
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
            {key: np.concatenate([snapshot.places[key] for snapshot in alone]) for key in alone[0].places},
            None,
            source.excluded,
            tuple(parts),
        )

    def _alone(self) -> list["Snapshot"]:
        """The snapshot of each split, as it would be without the others."""
        found, start = [], 0
        for part in self.parts:
            span = slice(start, start + part.images)
            prefix = prefixed(part.split, "") if part.has_prefix else ""
            found.append(
                Snapshot(
                    self.kind,
                    part.split,
                    self.class_names,
                    [image_id.removeprefix(prefix) for image_id in self.image_ids[span]],
                    self.labels[span],
                    part.fingerprint,
                    self.settings,
                    {key: values[span] for key, values in self.places.items()},
                    part.dataset_fingerprint,
                )
            )
            start = span.stop
        return found

    def open(self, config: SourceConfig) -> Source:
        """Open the images without listing them again.

        Raises:
            SourceError: The dataset is missing, or is no longer the one that the snapshot was taken from.
        """
        if self.parts:
            return combine([each.open(place) for each, place in zip(self._alone(), split_configs(config), strict=True)])
        config = split_configs(config)[0]
        images = reopen_images(config, self.image_ids, self.places, self.dataset_fingerprint)
        return Source(
            self.kind, self.split, self.class_names, self.image_ids, self.labels, images, [], config.max_pixels
        )

    def save(self, folder: Path) -> None:
        """Write the table and then `source.json`, each atomically; older tables are removed."""
        columns = {"image_id": self.image_ids, "label": self.labels, **self.places}
        table = f"source-{self.fingerprint[:12]}.parquet"
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), buffer, compression="zstd", write_page_checksum=True)
        content = buffer.getvalue()
        with atomic_open(folder / table) as file:
            file.write(content)
        record = {
            "kind": self.kind,
            "split": self.split,
            "class_names": self.class_names,
            "images": len(self),
            "excluded": len(self.excluded),
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "dataset_fingerprint": self.dataset_fingerprint,
            "table": table,
            "table_sha256": hashlib.sha256(content).hexdigest(),
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
        path = folder / record["table"]
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != record["table_sha256"]:
                raise StageError(f"{path}: damaged (its hash is not the one in {SNAPSHOT}); {REDO}")
            # Arrow's threads may still hold Python's bytes when the interpreter ends, which aborts the process.
            with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
                table = file.read(use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise StageError(f"{path}: cannot be read ({error}); {REDO}") from error
        places = {name: table[name].to_numpy() for name in table.column_names if name not in ("image_id", "label")}
        return cls(
            record["kind"],
            record["split"],
            record["class_names"],
            table["image_id"].to_pylist(),
            table["label"].to_numpy().astype(np.int32),
            record["fingerprint"],
            record["settings"],
            places,
            record["dataset_fingerprint"],
            parts=tuple(SplitPart(**part) for part in record.get("splits", [])),
        )


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
    if not isinstance(settings["split"], str):
        settings["split"] = [_public_split(entry) for entry in settings["split"]]
    elif ":" in settings["split"]:
        settings["split"] = _public_split(settings["split"])
    return settings


def _commits(splits: list[Snapshot]) -> dict[str, Any]:
    """The commit of several splits of a dataset on the Hub, or the commit of each if they differ."""
    commits = {snapshot.split: snapshot.settings["commit"] for snapshot in splits if "commit" in snapshot.settings}
    several = len(set(commits.values())) > 1 or len(commits) < len(splits)
    return {"commit": commits if several else next(iter(commits.values()))} if commits else {}


def _public_split(entry: str) -> str:
    """`NAME:PLACE` with only the last part of a folder on this machine."""
    name, colon, place = entry.partition(":")
    return name + colon + (Path(place).resolve().name if colon and Path(place).exists() else place)


def describe_changes(old: Snapshot, new: Snapshot) -> str:
    """Describe what has changed in a source: counts, and the first image of each kind of change."""
    found = []
    if old.class_names != new.class_names:
        gone = [name for name in old.class_names if name not in set(new.class_names)]
        come = [name for name in new.class_names if name not in set(old.class_names)]
        found.append(f"classes removed: {gone[:3]}, added: {come[:3]}")
    before, after = _rows(old), _rows(new)
    changes = {
        "removed": [name for name in old.image_ids if name not in after],
        "added": [name for name in new.image_ids if name not in before],
        "replaced or relabeled": [name for name, row in after.items() if name in before and before[name] != row],
    }
    for what, names in changes.items():
        if names:
            found.append(f"{len(names)} images {what}, such as {names[0]!r}")
    return "; ".join(found) or "its settings or its dataset's fingerprint"


def _rows(snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    columns = [snapshot.labels, *snapshot.places.values()]
    return dict(zip(snapshot.image_ids, zip(*(column.tolist() for column in columns), strict=True), strict=True))
