"""A map-style `datasets` dataset as a source: opening it reads labels, ids and paths, but no image bytes."""

import io
import itertools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.sources.classes import ClassList, nearest, read_class_list
from hf_relabel.sources.image_ids import ids_of_paths, is_safe
from hf_relabel.sources.path import check_source_path

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetImages:
    """Images by their row in a dataset.

    Args:
        data: The dataset with only its image column, not decoded.
        column: Name of the image column.
        rows: Row of each image, int64 [N].
        roots: Folders that stored paths may lead into, for rows without bytes.
        fingerprint: The fingerprint that `datasets` gives the whole split; it changes with the revision, the data
            files and every transformation.
    """

    data: "datasets.Dataset"
    column: str
    rows: np.ndarray
    roots: tuple[str, ...]
    fingerprint: str

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""
        cell = self.data[int(self.rows[index])][self.column]
        if cell is None:
            raise FileNotFoundError(0, "the row has no image")
        if cell["bytes"] is not None:
            return io.BytesIO(cell["bytes"])
        path = os.path.normpath(cell["path"] or "")
        if not any(path.startswith(root + os.sep) for root in self.roots):
            raise FileNotFoundError(0, "the row has no bytes, and its path is outside the dataset")
        return open(path, "rb")

    def content_key(self) -> bytes:
        """Bytes that change when an image of the dataset is replaced; no image is read."""
        return self.fingerprint.encode()


def load_dataset(config: SourceConfig) -> "datasets.Dataset":
    """Load a split from a local folder (saved by `save_to_disk`, or readable by `load_dataset`) or from the Hub.

    Raises:
        SourceError: There is no such dataset, configuration or split.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    check_source_path(config)
    folder = Path(config.path)
    refused = (
        OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, pa.ArrowInvalid, HfHubHTTPError,
        HFValidationError,
    )  # fmt: skip
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return _split_of(datasets.load_from_disk(config.path), config)
        names = datasets.get_dataset_split_names(config.path, config.config_name, revision=config.revision)
        if config.split not in names:
            raise _no_split(config, names)
        return datasets.load_dataset(
            config.path, config.config_name, split=config.split, revision=config.revision, streaming=False
        )
    except refused as error:
        where = "" if folder.is_dir() else " (not a local folder, and could not be opened from the Hub)"
        raise SourceError(f"{config.path}{where}: the dataset cannot be loaded: {_first_line(error)}") from error


def _split_of(saved: Any, config: SourceConfig) -> "datasets.Dataset":
    """Return the configured split from what `save_to_disk` stored, which is one split or several."""
    import datasets

    if isinstance(saved, datasets.DatasetDict):
        if config.split not in saved:
            raise _no_split(config, list(saved))
        return saved[config.split]
    # Part of a split is stored as `train[:100]`; a dataset made in memory has no split, so any name is accepted.
    stored = str(saved.split).partition("[")[0] if saved.split is not None else config.split
    if stored != config.split:
        raise _no_split(config, [stored])
    return saved


def _no_split(config: SourceConfig, names: list[str]) -> SourceError:
    known = ", ".join(map(str, names))
    return SourceError(f"{config.path}: no split {config.split!r}; it has {known} (set --source.split)")


def check_dataset(data: object, config: SourceConfig) -> "datasets.Dataset":
    """Check that a dataset is map-style, has rows, and has the configured columns, and return it.

    Raises:
        SourceError: One of these does not hold.
    """
    import datasets

    if not isinstance(data, datasets.Dataset):
        raise SourceError(
            f"{config.path}: a {type(data).__name__} is not map-style; load one split, without streaming=True"
        )
    if len(data) == 0:
        raise SourceError(f"{config.path}: the split {config.split!r} has no rows")
    for key in ("image_column", "label_column", "id_column"):
        column = getattr(config, key)
        if column is not None and column not in data.column_names:
            raise SourceError(
                f"{config.path}: no column {column!r}{nearest(column, data.column_names)}; it has "
                f"{', '.join(data.column_names)} (set --source.{key})"
            )
    feature = data.features[config.image_column]
    if not isinstance(feature, datasets.Image):
        raise SourceError(
            f"{config.path}: the column {config.image_column!r} is a {type(feature).__name__}, not an Image; "
            "set --source.image_column, or cast it with datasets.Image()"
        )
    return data


def read_dataset(
    data: "datasets.Dataset", config: SourceConfig
) -> tuple[list[str], np.ndarray, list[str], DatasetImages]:
    """Read ids, labels and classes from a checked dataset, sorted by id.

    Returns:
        N sorted image ids, their labels int32 [N], the C class names, and the images.

    Raises:
        SourceError: Ids are not unique or not safe, or a label is not in the class list.
    """
    pictures = _pictures(data, config)
    image_ids = _image_ids(data, pictures, config)
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    _check_unique(image_ids, order, config)
    labels, class_names = _labels(data, image_ids, config)
    rows = np.array(order[: config.limit], np.int64)
    kept = [image_ids[row] for row in rows]
    images = DatasetImages(pictures, config.image_column, rows, image_roots(config), data._fingerprint)
    return kept, labels[rows], class_names, images


def reopen_dataset(config: SourceConfig, rows: np.ndarray, fingerprint: str) -> DatasetImages:
    """Open the images of a dataset whose ids have been read before.

    Args:
        config: The dataset and its columns.
        rows: Row of each image, int64 [N].
        fingerprint: The split's fingerprint when the ids were read.

    Raises:
        SourceError: The dataset cannot be opened, or has another fingerprint now.
    """
    data = check_dataset(load_dataset(config), config)
    if data._fingerprint != fingerprint:
        raise SourceError(
            f"{config.path}: the dataset has changed since its images were listed (fingerprint {fingerprint} -> "
            f"{data._fingerprint}); run `hf-relabel propose` again"
        )
    return DatasetImages(_pictures(data, config), config.image_column, rows, image_roots(config), fingerprint)


def _pictures(data: "datasets.Dataset", config: SourceConfig) -> "datasets.Dataset":
    """The image column alone, not decoded."""
    import datasets

    pictures = data.select_columns([config.image_column]).with_format(None)
    return pictures.cast_column(config.image_column, datasets.Image(decode=False))


def _column(data: "datasets.Dataset", name: str) -> pa.ChunkedArray:
    """One column as an Arrow array, in row order; no other column is read."""
    return data.select_columns([name]).with_format("arrow")[:].column(0)


def _image_ids(data: "datasets.Dataset", images: "datasets.Dataset", config: SourceConfig) -> list[str]:
    """One id per row, from the id column, the stored paths, or the split and row number."""
    if config.id_column is not None:
        return _ids_from_column(data, config)
    # Flattening makes the path a separate column, so the bytes of the images are not read.
    paths = _column(images.flatten(), f"{config.image_column}.path").to_pylist()
    ids = ids_of_paths(paths)
    if ids is None:
        if any(paths):
            logger.warning(
                "%s: not every stored path makes an image id, so ids are split and row (or set --source.id_column)",
                config.path,
            )
        ids = [f"{config.split}/{row:08d}" for row in range(len(data))]
    return ids


def _ids_from_column(data: "datasets.Dataset", config: SourceConfig) -> list[str]:
    column = _column(data, str(config.id_column))
    if not (_is_text(column.type) or pa.types.is_integer(column.type)):
        raise SourceError(
            f"{config.path}: the id column {config.id_column!r} has type {column.type}; ids are strings or integers"
        )
    ids = ["" if value is None else str(value) for value in column.to_pylist()]
    unsafe = next((row for row, name in enumerate(ids) if not is_safe(name)), None)
    if unsafe is not None:
        raise SourceError(
            f"{config.path}: row {unsafe} has the id {ids[unsafe]!a} in {config.id_column!r}; ids must be relative "
            "names without '..' or control characters (set --source.id_column)"
        )
    return ids


def _check_unique(image_ids: list[str], order: list[int], config: SourceConfig) -> None:
    for row, after in itertools.pairwise(order):
        if image_ids[row] == image_ids[after]:
            raise SourceError(
                f"{config.path}: rows {row} and {after} have the same image id {image_ids[row]!r}; "
                "set --source.id_column to a column with unique ids"
            )


def _labels(data: "datasets.Dataset", image_ids: list[str], config: SourceConfig) -> tuple[np.ndarray, list[str]]:
    """Class index of each row, int32 [N], and the class names."""
    import datasets

    column = _column(data, config.label_column)
    feature = data.features[config.label_column]
    given = read_class_list(config.class_names) if config.class_names is not None else None
    known: dict[Any, int]
    if isinstance(feature, datasets.ClassLabel):
        stored = list(feature.names)
        index_of = given.indices(stored, config.path) if given else {name: i for i, name in enumerate(stored)}
        values, known = column, {place: index_of[name] for place, name in enumerate(stored)}
        names = given.names if given else ClassList(f"{config.path}, {config.label_column!r}", stored).names
    elif _is_text(column.type):
        values = column
        names = given.names if given else sorted(value for value in column.unique().to_pylist() if value is not None)
        known = {key: index for index, key in enumerate(given.keys or names if given else names)}
    elif pa.types.is_integer(column.type):
        if given is None:
            raise SourceError(
                f"{config.path}: the labels in {config.label_column!r} are numbers without names; set "
                "--source.class_names to a file with the class names"
            )
        values, names, known = column, given.names, _numbers(given)
    else:
        raise SourceError(
            f"{config.path}: the label column {config.label_column!r} has type {column.type}; it must contain one "
            "class per row, as ClassLabel, string or integer (set --source.label_column)"
        )
    return _look_up(values, known, image_ids, config), names


def _numbers(classes: ClassList) -> dict[int, int]:
    """Class index of each integer label: the labels are the list's keys if these are numbers, else list positions."""
    if classes.keys is not None and all(key.isdecimal() for key in classes.keys):
        return {int(key): index for index, key in enumerate(classes.keys)}
    return {index: index for index in range(len(classes.names))}


def _look_up(values: pa.ChunkedArray, known: dict[Any, int], image_ids: list[str], config: SourceConfig) -> np.ndarray:
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    index_of = np.array([known.get(value, -1) for value in encoded.dictionary.to_pylist()], np.int32)
    labels = index_of[encoded.indices.to_numpy()]
    outside = np.flatnonzero(labels < 0)
    if len(outside):
        row = int(outside[0])
        raise SourceError(
            f"{config.path}: the image {image_ids[row]!r} has the label {values[row].as_py()!r}, which is not among "
            f"the {len(known)} classes ({len(outside)} such images); fix the column {config.label_column!r} or set "
            "--source.class_names"
        )
    return labels


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def image_roots(config: SourceConfig) -> tuple[str, ...]:
    """The dataset's own folder, and the cache folders for downloads and extracted archives."""
    import datasets
    from huggingface_hub import constants

    folders = [
        constants.HF_HUB_CACHE,
        str(datasets.config.HF_DATASETS_CACHE),
        str(datasets.config.DOWNLOADED_DATASETS_PATH),
        str(datasets.config.EXTRACTED_DATASETS_PATH),
    ]
    if os.path.isdir(config.path):
        folders += [config.path, os.path.realpath(config.path)]
    return tuple(os.path.abspath(folder) for folder in folders)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
