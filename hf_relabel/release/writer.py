"""Write a release folder.

    release/
      README.md        front matter for `load_dataset`, and a short description
      manifest.json    written last: name, version, files with their hashes, statistics, provenance
      excluded.jsonl   one line per excluded image: image_id, reason, and its split if there are several
      data/labels/{split}-00000-of-00001-{digest}.parquet
      data/regions/{split}-00000-of-0000N-{digest}.parquet

The folder is written under a temporary name and renamed, so a release folder is always complete. Rows are sorted by
image_id. Rows are streamed: memory does not grow with the number of images.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import (
    EXCLUDED,
    MANIFEST,
    MAX_FILE_BYTES,
    MAX_FOLDER_FILES,
    README,
    ReleaseFile,
    content_digest,
    data_configs,
    data_file_name,
)
from hf_relabel.release.manifest import SPLIT_NAME, parse_manifest
from hf_relabel.release.markdown import escape, one_line
from hf_relabel.release.reader import Release
from hf_relabel.release.rows import find_invalid_row
from hf_relabel.release.statistics import ReleaseStatistics
from hf_relabel.run.store import sha256_of
from hf_relabel.schema import CONFIG_NAMES, MACHINE, SCHEMA_VERSION, Excluded, release_schema

ROW_GROUP_ROWS = 10_000
"""Images per row group. A fixed number of rows, so that one more label does not move other rows to another group."""

ROW_GROUP_BYTES = 100_000_000
"""Uncompressed size above which a row group ends early."""

LABELS_ROWS_PER_FILE = 2_000_000
"""Images per file of the `labels` configuration; each takes tens of bytes."""

Batches = Iterable[pa.RecordBatch | pa.Table]

_FULL = 0.98
"""Share of `MAX_FILE_BYTES` that row groups may take by their size in memory; the rest is for headers and footer."""

_STEP = 500  # rows between two checks of a row group's size


def write_release(
    folder: Path,
    tables: Mapping[str, Batches],
    *,
    class_names: list[str],
    version: str,
    name: str,
    provenance: dict[str, Any],
    excluded: Iterable[Excluded] = (),
    rows_per_file: int = 100_000,
    corrected: bool = False,
    overwrite: bool = False,
) -> Release:
    """Write a release folder, completely or not at all.

    Args:
        folder: The release folder.
        tables: For each split the rows of the `regions` configuration (`schema.release_features`), sorted by image_id,
            in batches of any size; the column `version` is filled in here. The files do not depend on the sizes of the
            batches.
        class_names: Class names in the order of the class ids.
        version: Version, recorded in every row and in the manifest.
        name: Display name of the dataset; line breaks and control characters become spaces.
        provenance: Plain JSON values: configuration, models with revisions, package versions. It is read after the
            last batch, so the producer of the batches may add to it.
        excluded: The excluded images. They are read after the last batch, so the producer of the
            batches may fill it while it runs.
        rows_per_file: Maximum number of images per file of the `regions` configuration.
        corrected: Write the columns of a release with corrections; rows without them count as never checked.
        overwrite: Replace an existing release.

    Raises:
        ReleaseError: Another folder is in the way, a row is out of order or has an invalid class, there are no rows
            (datasets cannot load an empty split), or the disk is full.
    """
    for split in tables:
        if not SPLIT_NAME.fullmatch(split):
            raise ReleaseError(f"split {split!r}: use letters, digits and underscores, such as `train`")
    _refuse_to_replace(folder, overwrite)
    staging = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        statistics = ReleaseStatistics(len(class_names))
        of_split = {split: ReleaseStatistics(len(class_names)) for split in tables} if len(tables) > 1 else {}
        files: list[dict[str, Any]] = []
        for split, batches in tables.items():
            counted = [statistics, *([of_split[split]] if of_split else [])]
            schemas = {name: release_schema(name, class_names, corrected) for name in CONFIG_NAMES}
            files += _write_tables(staging, batches, schemas, split, version, rows_per_file, counted, class_names)
        files.sort(key=lambda entry: CONFIG_NAMES.index(entry["config_name"]))
        files.append(_write_excluded(staging, excluded, statistics))
        if empty := [split for split, counts in of_split.items() if not counts.images]:
            raise ReleaseError(f"{folder}: no image to release in the split {empty[0]!r}; nothing was changed")
        if not statistics.images:
            reason = next(iter(statistics.excluded.most_common(1)), ("there were no images", 0))[0]
            raise ReleaseError(
                f"{folder}: no image to release ({statistics.excluded.total()} excluded, most often: {reason}); "
                "nothing was changed"
            )
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "version": version,
            "name": one_line(name),
            "split": next(iter(tables)),
            **({"splits": {split: counts.result() for split, counts in of_split.items()}} if of_split else {}),
            "class_names": class_names,
            "files": files,
            "statistics": statistics.result(),
            "provenance": provenance,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        parse_manifest(text, folder / MANIFEST)  # an imported name or provenance may be anything
        _write_text(staging / README, _readme(manifest))
        _write_text(staging / MANIFEST, text)
        _move_into_place(staging, folder)
    except OSError as error:
        raise ReleaseError(f"{folder}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Release.open(folder)


def _refuse_to_replace(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).exists()):
        raise ReleaseError(f"{folder}: exists and is not a release; move it or choose another folder")
    if (folder / MANIFEST).exists() and not overwrite:
        raise ReleaseError(f"{folder}: already contains a release; choose another folder or overwrite it")


def _write_tables(
    staging: Path,
    batches: Batches,
    schemas: dict[str, pa.Schema],
    split: str,
    version: str,
    rows_per_file: int,
    statistics: list[ReleaseStatistics],
    class_names: list[str],
) -> list[dict[str, Any]]:
    """Write both configurations of a split in one pass and return the manifest entries of their files."""
    schema, labels_schema = schemas["regions"], schemas["labels"]
    rows_of = {"labels": LABELS_ROWS_PER_FILE, "regions": rows_per_file}
    writers = {
        "labels": _ShardedWriter(staging / "data" / "labels", split, labels_schema, rows_of["labels"]),
        "regions": _ShardedWriter(staging / "data" / "regions", split, schema, rows_of["regions"]),
    }
    last_id = None
    for group in _row_groups(batches, schema, version, rows_per_file):
        last_id = _check_rows(group, last_id, len(class_names))
        for counts in statistics:
            counts.add(group)
        writers["regions"].write(group)
        writers["labels"].write(group.select(labels_schema.names).cast(labels_schema))
    return [entry for name in CONFIG_NAMES for entry in writers[name].finish(staging, name)]


def _row_groups(batches: Batches, schema: pa.Schema, version: str, rows_per_file: int) -> Iterator[pa.Table]:
    """Cut the rows into row groups at positions that depend only on the rows."""
    pending: list[pa.Table] = []
    held = size = total = 0
    for batch in batches:
        piece = _with_version(batch, schema, version)
        while len(piece):
            room = min(_STEP - total % _STEP, ROW_GROUP_ROWS - held, rows_per_file - total % rows_per_file)
            head, piece = piece.slice(0, room), piece.slice(room)
            pending.append(head)
            held, total, size = held + len(head), total + len(head), size + head.nbytes
            ends_file = total % rows_per_file == 0
            if held == ROW_GROUP_ROWS or ends_file or (total % _STEP == 0 and size >= ROW_GROUP_BYTES):
                yield pa.concat_tables(pending).combine_chunks()
                pending, held, size = [], 0, 0
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def _with_version(batch: pa.RecordBatch | pa.Table, schema: pa.Schema, version: str) -> pa.Table:
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    if "version" in table.column_names:
        table = table.drop_columns("version")
    table = table.append_column("version", pa.repeat(version, len(table)))
    if "source" in schema.names and "source" not in table.column_names:
        table = table.append_column("source", pa.repeat(MACHINE, len(table)))
        none = pa.array([[]] * len(table), schema.field("checked_labels").type)
        table = table.append_column("checked_labels", none)
    return table.select(schema.names).cast(schema)


def _check_rows(table: pa.Table, last_id: str | None, num_classes: int) -> str:
    """Raise ReleaseError for rows out of order, missing values and invalid classes; return the last image id."""
    invalid = find_invalid_row(table, num_classes)
    ids = table["image_id"].to_pylist()
    if invalid is not None:
        raise ReleaseError(f"image {ids[invalid.row]!r}: `{invalid.column}` {invalid.reason}")
    for before, after in zip([last_id, *ids], ids, strict=False):
        if before is not None and before >= after:
            raise ReleaseError(f"image {after!r} follows {before!r}: rows must be sorted by image_id and unique")
    return ids[-1]


class _ShardedWriter:
    """Write row groups to Parquet files, named when all files are written.

    A file ends when the next row group would give it more than `rows_per_file` rows, or could give it more than
    `MAX_FILE_BYTES`; compressed, a row group takes less than in memory.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, rows_per_file: int):
        self.folder = folder
        self.split = split
        self.schema = schema
        self.rows_per_file = rows_per_file
        self.rows: list[int] = []
        self._writer: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._others = sum(1 for _ in folder.iterdir())  # those of other splits

    def write(self, group: pa.Table) -> None:
        """Add a row group.

        Raises:
            ReleaseError: The folder would have too many files.
        """
        if self._writer is not None:
            size = self._path(len(self.rows) - 1).stat().st_size  # row groups are written without delay
            if self.rows[-1] + len(group) > self.rows_per_file or size + group.nbytes > _FULL * MAX_FILE_BYTES:
                self._close()
        if self._writer is None:
            if self._others + len(self.rows) + 1 >= MAX_FOLDER_FILES:
                raise ReleaseError(
                    f"data/{self.folder.name}: would have {MAX_FOLDER_FILES} files or more, which the Hub does not "
                    f"take in one folder; write more than {self.rows_per_file} images per file "
                    "(--build.rows_per_file)"
                )
            self._writer = pq.ParquetWriter(
                self._path(len(self.rows)),
                self.schema,
                compression="zstd",
                use_content_defined_chunking=True,
                write_page_index=True,
                write_page_checksum=True,
            )
            self.rows.append(0)
        self._writer.write_table(group, row_group_size=len(group))
        self.rows[-1] += len(group)

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.split}-{index}.part"

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self, root: Path, config_name: str) -> list[dict[str, Any]]:
        """Name the files by position and content, and return their manifest entries."""
        self._close()
        entries = [_entry(root, self._path(index), config_name, rows) for index, rows in enumerate(self.rows)]
        digest = content_digest(entry["sha256"] for entry in entries)
        for index, entry in enumerate(entries):
            path = self.folder / data_file_name(self.split, index, len(entries), digest)
            self._path(index).rename(path)
            entry["path"] = path.relative_to(root).as_posix()
        return entries


def _write_excluded(staging: Path, excluded: Iterable[Excluded], statistics: ReleaseStatistics) -> dict[str, Any]:
    path = staging / EXCLUDED
    lines = 0
    with open(path, "w", encoding="utf-8") as file:
        for image in excluded:
            statistics.exclude(image.reason)
            file.write(image.line())
            lines += 1
    return _entry(staging, path, None, lines)


def _entry(root: Path, path: Path, config_name: str | None, rows: int) -> dict[str, Any]:
    """Flush a file to disk and return its manifest entry."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return {
        "path": path.relative_to(root).as_posix(),
        "config_name": config_name,
        "rows": rows,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _move_into_place(staging: Path, folder: Path) -> None:
    """Rename the finished folder to its final name; an existing one is restored if that fails."""
    aside = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    try:
        staging.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _readme(manifest: dict[str, Any]) -> str:
    import yaml

    files = [ReleaseFile(**entry) for entry in manifest["files"]]
    header = yaml.safe_dump(
        {"configs": data_configs(manifest.get("splits") or [manifest["split"]], files)}, sort_keys=False
    )
    return (
        f"---\n{header}---\n\n# {escape(manifest['name'])} {manifest['version']}\n\n"
        f"{manifest['statistics']['images']:,} images, {manifest['statistics']['labels']:,} labels, "
        f"{manifest['statistics']['regions']:,} regions. `load_dataset(<this folder>)` loads the labels, "
        '`load_dataset(<this folder>, "regions")` also loads the masks. `hf-relabel publish` uploads it to the Hub.\n'
    )
