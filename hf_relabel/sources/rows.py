"""Ids, labels and classes from the rows of a dataset or of a table, whatever stores the rows; no image is read."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.schema import NO_LABEL
from hf_relabel.sources.classes import ClassList, classes_of_keys, nearest, read_class_list
from hf_relabel.sources.image_ids import PathIds, is_safe
from hf_relabel.sources.listing import Listing, as_columns, make_listing, repeated, scratch_folder
from hf_relabel.sources.selection import NO_LABELS, Selector
from hf_relabel.sources.sorted_rows import RowSorter
from hf_relabel.sources.stored_table import GROUP_ROWS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The columns of M rows, each read when it is asked for.

    Args:
        origin: The dataset, for messages.
        count: M.
        column_names: All columns.
        column: Reads a column, one value per row.
        paths: Reads the stored path of each image, as text.
        places: Where the images of consecutive rows are (from the first row and the one after the last), each
            int64 [n].
        class_labels: Names of the classes of the label column if it is a `datasets.ClassLabel`, else None.
    """

    origin: str
    count: int
    column_names: list[str]
    column: Callable[[str], pa.ChunkedArray]
    paths: Callable[[], pa.ChunkedArray]
    places: Callable[[int, int], dict[str, Any]]
    class_labels: list[str] | None = None


Ids = Callable[[int, int], Sequence[str]]
"""The ids of consecutive rows, from the first row and the one after the last."""


def list_rows(rows: Rows, config: SourceConfig, scratch: Path | None = None, ids: Ids | None = None) -> Listing:
    """Read ids, labels and classes, and select the images that the configuration asks for.

    Args:
        rows: The rows.
        config: The source's settings.
        scratch: Folder for the list of images; None keeps it in memory.
        ids: The ids of rows, where they are known already; unique.

    Raises:
        SourceError: A column is missing or has another type, ids are not unique or not safe, or labels are missing.
    """
    check_columns(rows, config)
    if ids is not None:
        return _list(rows, config, scratch, ids, _refuse_repeated)
    if config.id_column is not None:
        return _list(rows, config, scratch, _ids_from_column(rows, config.id_column), _refuse_repeated)
    if config.id_from == "auto":
        paths = rows.paths()
        path_ids = PathIds()
        for start in range(0, len(paths), GROUP_ROWS):
            path_ids.look(paths.slice(start, GROUP_ROWS).to_pylist())

        def from_paths(start: int, stop: int) -> Sequence[str]:
            found = path_ids.ids(paths.slice(start, stop - start).to_pylist())
            if found is None:
                raise _NoIdsError("not every stored path makes an image id")
            return found

        try:
            return _list(rows, config, scratch, from_paths, _refuse_paths)
        except _NoIdsError as error:
            if path_ids.has_any:
                logger.warning("%s: %s, so ids are split and row (or set --source.id_column)", rows.origin, error)
    split = config.split_names[0]
    return _list(rows, config, scratch, lambda start, stop: [f"{split}/{row:08d}" for row in range(start, stop)])


class _NoIdsError(Exception):
    """The stored paths make no ids."""


def _list(
    rows: Rows,
    config: SourceConfig,
    scratch: Path | None,
    ids: Ids,
    refuse: Callable[[Rows, int, int, str], None] | None = None,
) -> Listing:
    """List rows with given ids; `refuse` is called with two rows that have the same one."""
    if config.labeled:
        values = rows.column(config.label_column)
        classes, known = _classes(values, rows, config)
        keys = {name: index for name, index in known.items() if isinstance(name, str)}
        if rows.class_labels is not None:
            keys = {name: known.get(place, known.get(name, -1)) for place, name in enumerate(rows.class_labels)}
        selector = Selector(config, classes.names, keys)
    else:
        values, known, selector = None, {}, Selector(config, [], {})
    sorter = RowSorter(scratch_folder(scratch))
    for start in range(0, rows.count, GROUP_ROWS):
        stop = min(start + GROUP_ROWS, rows.count)
        given = values.slice(start, stop - start) if values is not None else None
        labels = np.full(stop - start, NO_LABEL, np.int32) if given is None else _look_up(given, known)
        table = as_columns(ids(start, stop), row=np.arange(start, stop))
        is_used, label = selector.choose(table["image_id"].chunk(0), labels, given)
        for name, column in {"label": label, "is_used": is_used, **rows.places(start, stop)}.items():
            table = table.append_column(name, column if isinstance(column, pa.ChunkedArray) else pa.array(column))
        sorter.add(table)
    same: list[pa.Table] = []

    def batches() -> Iterator[pa.Table]:
        for table in repeated(sorter.merged(), same):
            if same and refuse is not None:
                first, second = same[0]["row"].to_pylist()
                refuse(rows, first, second, same[0]["image_id"][0].as_py())
            yield table.filter(table["is_used"])
        selector.check()

    return make_listing(config, batches(), list(rows.places(0, 0)), selector.class_names, selector.excluded, scratch)


def _refuse_repeated(rows: Rows, first: int, second: int, image_id: str) -> None:
    raise SourceError(
        f"{rows.origin}: rows {first} and {second} have the same image id {image_id!r}; set --source.id_column to a "
        "column with unique ids"
    )


def _refuse_paths(rows: Rows, first: int, second: int, image_id: str) -> None:
    raise _NoIdsError(f"rows {first} and {second} both store the file name {image_id!r}")


def check_columns(rows: Rows, config: SourceConfig) -> None:
    """Refuse rows that lack a configured column.

    Raises:
        SourceError: There is no such column, or there are no rows.
    """
    if not rows.count:
        raise SourceError(f"{rows.origin}: the split {config.split_names[0]!r} has no rows")
    for key in ("image_column", "label_column", "id_column"):
        column = getattr(config, key)
        if key == "label_column" and not config.labeled:
            continue
        if column is not None and column not in rows.column_names:
            raise SourceError(
                f"{rows.origin}: no column {column!r}{nearest(column, rows.column_names)}; it has "
                f"{', '.join(rows.column_names)} (set --source.{key})"
            )


def _ids_from_column(rows: Rows, name: str) -> Ids:
    column = rows.column(name)
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise SourceError(f"{rows.origin}: the id column {name!r} has type {column.type}; ids are strings or integers")

    def ids(start: int, stop: int) -> Sequence[str]:
        values = column.slice(start, stop - start).to_pylist()
        found = ["" if value is None else str(value) for value in values]
        unsafe = next((row for row, value in enumerate(found) if not is_safe(value)), None)
        if unsafe is not None:
            raise SourceError(
                f"{rows.origin}: row {start + unsafe} has the id {found[unsafe]!a} in {name!r}; ids must be relative "
                "names without '..' or control characters (set --source.id_column)"
            )
        return found

    return ids


def _classes(values: pa.ChunkedArray, rows: Rows, config: SourceConfig) -> tuple[ClassList, dict[Any, int]]:
    """The classes, and the class index of each value of the label column."""
    given = read_class_list(config.class_names) if config.class_names is not None else None
    origin = f"{rows.origin}, {config.label_column!r}"
    if rows.class_labels is not None:
        stored = rows.class_labels
        classes = given or classes_of_keys(origin, stored, ordered=True)
        index_of = classes.indices(stored, rows.origin)
        if is_text(values.type):
            return classes, {name: index_of[name] for name in stored}
        return classes, {place: index_of[name] for place, name in enumerate(stored)}
    if is_text(values.type):
        keys = [value for value in values.unique().to_pylist() if value not in NO_LABELS]
        classes = given or classes_of_keys(origin, keys)
        return classes, {key: index for index, key in enumerate(classes.keys or classes.names)}
    if pa.types.is_integer(values.type):
        if given is None:
            raise SourceError(
                f"{rows.origin}: the labels in {config.label_column!r} are numbers without names; set "
                "--source.class_names to a file with the class names"
            )
        return given, _numbers(given)
    if pa.types.is_null(values.type):
        raise SourceError(
            f"{rows.origin}: none of the {rows.count} rows has a label in {config.label_column!r}; set "
            "--source.label_column, or label the images with a finished labeler (--source.labeled false --labeler RUN)"
        )
    raise SourceError(
        f"{rows.origin}: the label column {config.label_column!r} has type {values.type}; it must contain one class "
        "per row, as ClassLabel, string or integer (set --source.label_column)"
    )


def _numbers(classes: ClassList) -> dict[Any, int]:
    """Class index of each integer label: the labels are the list's keys if these are numbers, else list positions."""
    if classes.keys is not None and all(key.isdecimal() for key in classes.keys):
        return {int(key): index for index, key in enumerate(classes.keys)}
    return {index: index for index in range(len(classes.names))}


def _look_up(values: pa.ChunkedArray, known: dict[Any, int]) -> np.ndarray:
    """Class index of each value, int32 [M]; -1 for a missing or unknown one."""
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    index_of = np.array([known.get(value, -1) for value in encoded.dictionary.to_pylist()], np.int32)
    return index_of[encoded.indices.to_numpy()]


def is_text(kind: pa.DataType) -> bool:
    """Whether a column contains strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
