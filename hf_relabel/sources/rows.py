"""Ids, labels and classes from the rows of a dataset or of a table, whatever stores the rows; no image is read."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.schema import NO_LABEL
from hf_relabel.sources.classes import ClassList, classes_of_keys, nearest, read_class_list
from hf_relabel.sources.image_ids import ids_of_paths, is_safe
from hf_relabel.sources.selection import Selected, select_images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The columns of M rows, each read when it is asked for.

    Args:
        origin: The dataset, for messages.
        count: M.
        column_names: All columns.
        column: Reads a column, one value per row.
        paths: Reads the stored path of each image.
        class_labels: Names of the classes of the label column if it is a `datasets.ClassLabel`, else None.
    """

    origin: str
    count: int
    column_names: list[str]
    column: Callable[[str], pa.ChunkedArray]
    paths: Callable[[], Sequence[str | None]]
    class_labels: list[str] | None = None


@dataclass(frozen=True)
class Listing:
    """The images of a source, sorted by id.

    Args:
        image_ids: N unique ids.
        selected: The row of each image, its label, and what else was selected.
    """

    image_ids: list[str]
    selected: Selected


def list_rows(rows: Rows, config: SourceConfig, image_ids: list[str] | None = None) -> Listing:
    """Read ids, labels and classes, and select the images that the configuration asks for.

    Args:
        rows: The rows.
        config: The source's settings.
        image_ids: The id of each row, where it is known already; unique.

    Raises:
        SourceError: A column is missing or has another type, ids are not unique or not safe, or labels are missing.
    """
    check_columns(rows, config)
    if image_ids is None:
        image_ids = _image_ids(rows, config)
    if not config.labeled:
        selected = select_images(config, image_ids, np.full(rows.count, NO_LABEL, np.int32), [], {})
        return Listing([image_ids[place] for place in selected.places], selected)
    values = rows.column(config.label_column)
    classes, known = _classes(values, rows, config)
    labels = _look_up(values, known)
    keys = {name: index for name, index in known.items() if isinstance(name, str)}
    if rows.class_labels is not None:
        keys = {name: known.get(place, known.get(name, -1)) for place, name in enumerate(rows.class_labels)}
    selected = select_images(config, image_ids, labels, classes.names, keys, values)
    return Listing([image_ids[place] for place in selected.places], selected)


def check_columns(rows: Rows, config: SourceConfig) -> None:
    """Refuse rows that lack a configured column.

    Raises:
        SourceError: There is no such column, or there are no rows.
    """
    if not rows.count:
        raise SourceError(f"{rows.origin}: the split {config.split!r} has no rows")
    for key in ("image_column", "label_column", "id_column"):
        column = getattr(config, key)
        if key == "label_column" and not config.labeled:
            continue
        if column is not None and column not in rows.column_names:
            raise SourceError(
                f"{rows.origin}: no column {column!r}{nearest(column, rows.column_names)}; it has "
                f"{', '.join(rows.column_names)} (set --source.{key})"
            )


def _image_ids(rows: Rows, config: SourceConfig) -> list[str]:
    """One id per row, from the id column, the stored paths, or the split and row number."""
    if config.id_column is not None:
        ids = _ids_from_column(rows, config.id_column)
        if (same := _first_repeated(ids)) is not None:
            raise SourceError(
                f"{rows.origin}: rows {same[0]} and {same[1]} have the same image id {ids[same[0]]!r}; "
                "set --source.id_column to a column with unique ids"
            )
        return ids
    if config.id_from == "auto":
        paths = rows.paths()
        found = ids_of_paths(paths)
        same = None if found is None else _first_repeated(found)
        if found is not None and same is None:
            return found
        if found is not None and same is not None:
            reason = f"rows {same[0]} and {same[1]} both store the file name {found[same[0]]!r}"
        else:
            reason = "not every stored path makes an image id"
        if any(paths):
            logger.warning("%s: %s, so ids are split and row (or set --source.id_column)", rows.origin, reason)
    return [f"{config.split_names[0]}/{row:08d}" for row in range(rows.count)]


def _ids_from_column(rows: Rows, name: str) -> list[str]:
    column = rows.column(name)
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise SourceError(f"{rows.origin}: the id column {name!r} has type {column.type}; ids are strings or integers")
    ids = ["" if value is None else str(value) for value in column.to_pylist()]
    unsafe = next((row for row, value in enumerate(ids) if not is_safe(value)), None)
    if unsafe is not None:
        raise SourceError(
            f"{rows.origin}: row {unsafe} has the id {ids[unsafe]!a} in {name!r}; ids must be relative names without "
            "'..' or control characters (set --source.id_column)"
        )
    return ids


def _first_repeated(ids: list[str]) -> tuple[int, int] | None:
    """The first two rows, in the order of the ids, that have the same id; None if all are unique."""
    if len(set(ids)) == len(ids):
        return None
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return next((row, after) for row, after in itertools.pairwise(order) if ids[row] == ids[after])


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
        classes = given or classes_of_keys(origin, [value for value in values.unique().to_pylist() if value])
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
