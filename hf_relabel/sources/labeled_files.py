"""Images in a folder of any layout, and a table file with the name and label of each."""

import itertools
import logging
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hf_relabel.config import SourceConfig
from hf_relabel.config.checks import regular_file
from hf_relabel.config.json_file import parse_json
from hf_relabel.errors import SourceError
from hf_relabel.sources.image_folder import FolderImages, Walk, report_skipped
from hf_relabel.sources.image_ids import is_safe
from hf_relabel.sources.listing import Listing
from hf_relabel.sources.path import LABEL_FILES, check_source_path
from hf_relabel.sources.rows import Rows, check_columns, is_text, list_rows

NAME_COLUMNS = ("file_name", "filename", "file", "path", "image_path", "image_id", "id")
"""Columns that contain the name if there is no `image`."""

HAS_IMAGES = "a table that contains the images themselves needs --source.kind dataset"

logger = logging.getLogger(__name__)


def is_table_file(config: SourceConfig) -> bool:
    """Whether the labels of a folder's images are in a file."""
    return config.labels is not None or (
        Path(config.path).suffix.lower() in LABEL_FILES and Path(config.path).is_file()
    )


def image_root(config: SourceConfig) -> str:
    """The folder that the file names in the table start from."""
    if config.image_root is not None:
        return config.image_root
    return config.path if config.labels is not None else str(Path(config.path).parent)


@dataclass
class _Files:
    """The images below a folder: the path, size and modification time of each."""

    image_ids: list[str]
    sizes: list[int]
    modified: list[int]


def scan_table(config: SourceConfig, scratch: Path | None = None) -> tuple[FolderImages, Listing]:
    """Find the images that a table file lists; no image is opened.

    A name without a suffix is that of the one image with this name. Images that are not in the table are skipped with
    a warning; a row without a file is an image that cannot be read. The names in the table are kept in memory.

    Args:
        config: The source's settings.
        scratch: Folder for the list of images; None keeps it in memory.

    Returns:
        The N images sorted by id, and their labels and classes.

    Raises:
        SourceError: The file cannot be read, lacks a column, or its names are not those of the images.
    """
    check_source_path(config)
    file = Path(config.labels or config.path)
    table = _read(file, config)
    config = _with_name_column(config, table.column_names)
    rows = Rows(str(file), len(table), table.column_names, lambda name: table[name], _no_paths, lambda start, stop: {})
    check_columns(rows, config)
    names = _names(table[config.image_column], file)
    root = Path(image_root(config))
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder; set --source.image_root to the folder of the images in {file}")
    walk = Walk(own=_below(file, root))
    found = list(walk.images(root))
    files = _Files(*(list(column) for column in zip(*found, strict=True)) if found else ([], [], []))
    places = _places(names, files, root, file)
    listed = set(places)
    for place, name in enumerate(files.image_ids):
        if place not in listed:
            walk.left_out.add(name)
    report_skipped(root, walk.left_out)
    columns = {"sizes": np.array(files.sizes, np.int64)[places], "modified": np.array(files.modified, np.int64)[places]}
    listing = list_rows(
        replace(rows, places=lambda start, stop: {name: column[start:stop] for name, column in columns.items()}),
        config,
        scratch,
        lambda start, stop: [files.image_ids[place] for place in places[start:stop]],
    )
    listing.excluded.extend(walk.excluded)
    return FolderImages(str(root), listing.image_ids, **listing.places), listing


def _below(file: Path, root: Path) -> str | None:
    """The path of a file below a folder; None if it is elsewhere."""
    is_below = file.resolve().is_relative_to(root.resolve())
    return file.resolve().relative_to(root.resolve()).as_posix() if is_below else None


def _no_paths() -> pa.ChunkedArray:
    raise AssertionError("the ids of these rows are known")


def _with_name_column(config: SourceConfig, columns: list[str]) -> SourceConfig:
    """The configuration with the column of the file names, where it has one of the usual names."""
    if config.image_column in columns or config.image_column != SourceConfig().image_column:
        return config
    found = next((name for name in NAME_COLUMNS if name in columns), config.image_column)
    return replace(config, image_column=found)


def _names(column: pa.ChunkedArray, file: Path) -> list[str]:
    """The file name in each row, as a relative POSIX path."""
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise SourceError(
            f"{file}: the column of file names has type {column.type}, it must contain text (set "
            f"--source.image_column); {HAS_IMAGES}"
        )
    names = [posixpath.normpath(str(value).replace("\\", "/")) if value else "" for value in column.to_pylist()]
    unsafe = next((row for row, name in enumerate(names) if not is_safe(name)), None)
    if unsafe is not None:
        raise SourceError(
            f"{file}: row {unsafe + 1} has the file name {names[unsafe]!a}; names must be relative paths below the "
            "image folder, without '..' (set --source.image_column, or --source.image_root to the folder)"
        )
    return names


def _places(names: Sequence[str], files: _Files, root: Path, file: Path) -> list[int]:
    """The place among the files of each named image; a name without a file is added as a missing one.

    Raises:
        SourceError: No name is that of an image, a name stands for several images, or two rows name the same image.
    """
    by_name = {name: place for place, name in enumerate(files.image_ids)}
    by_stem: dict[str, list[int]] = {}
    for place, name in enumerate(files.image_ids):
        by_stem.setdefault(posixpath.splitext(name)[0], []).append(place)
    found, missing = [], []
    for row, name in enumerate(names, start=1):
        places = [by_name[name]] if name in by_name else by_stem.get(name, [])
        if len(places) > 1:
            several = ", ".join(sorted(repr(files.image_ids[place]) for place in places))
            raise SourceError(f"{file}: row {row} names {name!r}, which could be {several}; write the suffix too")
        if not places:
            missing.append(name)
            places = [len(files.image_ids)]
            files.image_ids.append(name)
            files.sizes.append(-1)
            files.modified.append(-1)
            by_name[name] = places[0]
        found.append(places[0])
    if len(missing) == len(names):
        example = f"; an image there is {files.image_ids[0]!r}" if len(files.image_ids) > len(missing) else ""
        raise SourceError(
            f"{file}: none of its {len(names)} names is an image in {root}, such as {missing[0]!r}{example}; set "
            "--source.image_root to the folder that the names start from"
        )
    if missing:
        logger.warning("%s: %d of %d images have no file, such as %r", file, len(missing), len(names), missing[0])
    if len(set(found)) < len(found):
        order = sorted(range(len(found)), key=found.__getitem__)
        first = min(after for row, after in itertools.pairwise(order) if found[row] == found[after])
        raise SourceError(
            f"{file}: row {first + 1} names {names[first]!r} again; each image needs one row with its one label"
        )
    return found


def _read(file: Path, config: SourceConfig) -> pa.Table:
    """Read the rows of a table file.

    Raises:
        SourceError: The file is damaged.
    """
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            schema = pq.read_schema(file)
            plain = [field.name for field in schema if is_text(field.type) or pa.types.is_integer(field.type)]
            asked = [name for name in (config.image_column, config.label_column) if name in schema.names]
            if any(pa.types.is_struct(schema.field(name).type) for name in asked):
                raise SourceError(f"{file}: {HAS_IMAGES}")
            return pq.read_table(file, columns=sorted({*plain, *asked}))
        if suffix in (".csv", ".tsv"):
            text = dict.fromkeys((config.image_column, *NAME_COLUMNS), pa.string())  # 0001 is not 1
            delimiter = "\t" if suffix == ".tsv" else ","
            nulls = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""], column_types=text)
            parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
            return pyarrow.csv.read_csv(file, parse_options=parse, convert_options=nulls)
        if suffix == ".jsonl":
            return _table_of_lines(file)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        lines = str(error).strip().splitlines()
        raise SourceError(f"{file}: cannot be read ({lines[0] if lines else type(error).__name__})") from error
    raise SourceError(f"{file}: the file of labels must end in {', '.join(LABEL_FILES)}")


def _table_of_lines(file: Path) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(regular_file(file).read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise SourceError(f"{file}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise SourceError(f"{file}, line {number}: must be an object with a file name and a label")
        rows.append(row)
    return pa.Table.from_pylist(rows)
