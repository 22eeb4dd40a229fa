"""A map-style `datasets` dataset as a source: opening it reads labels, ids and paths, but no image bytes."""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.config import SourceConfig
from hf_relabel.config.checks import regular_file
from hf_relabel.errors import SourceError
from hf_relabel.sources.columns import Numbers
from hf_relabel.sources.listing import Listing
from hf_relabel.sources.path import check_source_path
from hf_relabel.sources.revisions import check_commit, commits_of, resolve_commit
from hf_relabel.sources.rows import Rows, check_columns, list_rows
from hf_relabel.sources.splits import stored_split

if TYPE_CHECKING:
    import datasets


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
        base: Folder that relative stored paths start from.
        commit: Commit of a dataset on the Hub; None for a local one.
    """

    data: "datasets.Dataset"
    column: str
    rows: Numbers
    roots: tuple[str, ...]
    fingerprint: str
    base: str = ""
    commit: str | None = None

    @property
    def places(self) -> dict[str, Numbers]:
        """Where the images are, for the run's snapshot."""
        return {"rows": self.rows}

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""
        cell = self.data[int(self.rows[index])][self.column]
        if cell is None:
            raise FileNotFoundError(0, "the row has no image")
        if cell["bytes"] is not None:
            return io.BytesIO(cell["bytes"])
        path = os.path.normpath(os.path.join(self.base, cell["path"] or ""))
        if not any(path.startswith(root + os.sep) for root in self.roots):
            raise FileNotFoundError(
                0, "the row has no bytes, and its path is outside the dataset; see --source.image_root"
            )
        return open(regular_file(Path(path)), "rb")

    def content_keys(self) -> Iterator[bytes]:
        """Bytes that change when an image of the dataset is replaced; no image is read."""
        yield self.fingerprint.encode()


def load_dataset(config: SourceConfig) -> "datasets.Dataset":
    """Load a split from a local folder or file, or from the Hub.

    A folder was saved by `save_to_disk`, or is one that `datasets.load_dataset` can read.

    Raises:
        SourceError: There is no such dataset, configuration or split.
    """
    import datasets

    check_source_path(config)
    folder = Path(config.path)
    with one_line_errors(config):
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return _split_of(datasets.load_from_disk(config.path), config)
        where, options = builder_arguments(config)
        commit = resolve_revision(config, options)
        names = datasets.get_dataset_split_names(*where, **options)
        if stored_split(config) not in names:
            raise no_split(config, names)
        data = datasets.load_dataset(*where, **options, split=stored_split(config), streaming=False)
        if commit is not None:
            check_commit(data, config.path, str(config.revision), commit)
        return data


def builder_arguments(config: SourceConfig) -> tuple[tuple[str, str | None], dict[str, Any]]:
    """Path, configuration and options that name a dataset, for `datasets.load_dataset` and its relatives."""
    file = Path(config.path)
    if not file.is_file():
        return (config.path, config.config_name), {"revision": config.revision}
    suffix = file.suffix.lower()
    kinds = {".tsv": "csv", ".jsonl": "json", ".tar": "webdataset"}
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    return (kinds.get(suffix, suffix[1:]), None), {"data_files": {stored_split(config): str(file)}, **options}


def resolve_revision(config: SourceConfig, options: dict[str, Any]) -> str | None:
    """Replace a revision among the options by its commit, and return the commit; None if no revision is asked for.

    Raises:
        SourceError: The dataset is local, or has no such revision.
    """
    if config.revision is None:
        return None
    if Path(config.path).exists():
        raise SourceError(
            f"{config.path}: is a local dataset, which has no revision {config.revision!r}; remove --source.revision"
        )
    options["revision"] = resolve_commit(config.path, config.revision)
    return str(options["revision"])


@contextlib.contextmanager
def one_line_errors(config: SourceConfig) -> Iterator[None]:
    """Turn what `datasets` and the Hub's client raise for a dataset that cannot be opened into a SourceError."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    refused = (
        OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, pa.ArrowInvalid, HfHubHTTPError,
        HFValidationError,
    )  # fmt: skip
    try:
        yield
    except refused as error:
        where = "" if Path(config.path).exists() else " (not a local folder, and could not be opened from the Hub)"
        raise SourceError(f"{config.path}{where}: the dataset cannot be loaded: {_first_line(error)}") from error


def _split_of(saved: Any, config: SourceConfig) -> "datasets.Dataset":
    """Return the configured split from what `save_to_disk` stored, which is one split or several."""
    import datasets

    split = stored_split(config)
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise no_split(config, list(saved))
        return saved[split]
    # Part of a split is stored as `train[:100]`; a dataset made in memory has no split, so any name is accepted.
    stored = str(saved.split).partition("[")[0] if saved.split is not None else split
    if stored != split:
        raise no_split(config, [stored])
    return saved


def no_split(config: SourceConfig, names: list[str]) -> SourceError:
    """The error for a split that a dataset does not have."""
    split, known = stored_split(config), list(map(str, names))
    name = config.split_names[0]
    other = f"; {name}:{config.path}:{known[0]} reads {known[0]} as {name}" if known else ""
    return SourceError(f"{config.path}: no split {split!r}; it has {', '.join(known)} (set --source.split{other})")


def check_dataset(data: object, config: SourceConfig) -> "datasets.Dataset":
    """Check that a dataset is map-style, and return it.

    Raises:
        SourceError: It is not.
    """
    import datasets

    if not isinstance(data, datasets.Dataset):
        raise SourceError(
            f"{config.path}: a {type(data).__name__} is not map-style; load one split, without streaming=True"
        )
    return data


def read_dataset(
    data: "datasets.Dataset", config: SourceConfig, scratch: Path | None = None
) -> tuple[Listing, DatasetImages]:
    """Read ids, labels and classes from a map-style dataset, sorted by id.

    Args:
        data: The dataset.
        config: The source's settings.
        scratch: Folder for the list of images; None keeps it in memory.

    Raises:
        SourceError: A column is missing or has another type, ids are not unique or not safe, or labels are missing.
    """
    rows = _rows(data, config)
    check_columns(rows, config)
    pictures = _pictures(data, config)
    listing = list_rows(rows, config, scratch)
    commit = None if Path(config.path).exists() else min(commits_of(data), default=None)
    return listing, _images(pictures, config, listing.places["rows"], data._fingerprint, commit)


def reopen_dataset(config: SourceConfig, rows: Numbers, fingerprint: str) -> DatasetImages:
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
    return _images(_pictures(data, config), config, rows, fingerprint)


def _images(
    pictures: "datasets.Dataset", config: SourceConfig, rows: Numbers, fingerprint: str, commit: str | None = None
) -> DatasetImages:
    roots, base = image_roots(config), base_folder(config)
    return DatasetImages(pictures, config.image_column, rows, roots, fingerprint, base, commit)


def base_folder(config: SourceConfig) -> str:
    """The folder that relative paths of images start from."""
    if config.image_root is not None:
        return os.path.abspath(config.image_root)
    return os.path.abspath(os.path.dirname(config.path) if os.path.isfile(config.path) else config.path)


def _rows(data: "datasets.Dataset", config: SourceConfig) -> Rows:
    """The dataset's columns; fields of a column with an object, such as WebDataset's `json`, are columns too."""
    features = fields_of(data.features)

    def column(name: str) -> pa.ChunkedArray:
        top = name if name in data.column_names else name.partition(".")[0]
        return column_of(data.select_columns([top]).with_format("arrow")[:], name)

    def paths() -> pa.ChunkedArray:
        # Flattening makes the path a separate column, so the bytes of the images are not read.
        flat = _pictures(data, config).flatten()
        return flat.select_columns([f"{config.image_column}.path"]).with_format("arrow")[:].column(0)

    def places(start: int, stop: int) -> dict[str, np.ndarray]:
        return {"rows": np.arange(start, stop)}

    return Rows(config.path, len(data), list(features), column, paths, places, class_labels(features, config))


def fields_of(features: Any, prefix: str = "") -> dict[str, Any]:
    """The features of all columns and, with dotted names, of the fields of columns that contain an object."""
    found = {}
    for name, feature in features.items():
        found[prefix + name] = feature
        if isinstance(feature, dict):
            found |= fields_of(feature, f"{prefix}{name}.")
    return found


def class_labels(features: dict[str, Any], config: SourceConfig) -> list[str] | None:
    """The names of the classes if the label column is a ClassLabel, else None."""
    import datasets

    label = features.get(config.label_column)
    return list(label.names) if isinstance(label, datasets.ClassLabel) else None


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a table, or a field of a column with an object, by its dotted name."""
    top = name if name in table.column_names else name.partition(".")[0]
    found = table.column(top)
    for field in name.removeprefix(top).split(".")[1:]:
        found = pa.chunked_array([pc.struct_field(chunk, field) for chunk in found.chunks])
    return found


def _pictures(data: "datasets.Dataset", config: SourceConfig) -> "datasets.Dataset":
    """The image column alone, as stored bytes and paths.

    Raises:
        SourceError: The column contains no images.
    """
    check_image_column(data.features.get(config.image_column), config)
    return stored_images(data, config.image_column)


def stored_images(data: "datasets.Dataset", column: str) -> "datasets.Dataset":
    """A column of images, paths or bytes alone, as stored bytes and paths."""
    import datasets

    images = data.select_columns([column]).with_format(None)
    if getattr(images.features[column], "dtype", None) == "large_string":  # not cast to images before datasets 4.3
        images = images.cast_column(column, datasets.Value("string"))
    return images.cast_column(column, datasets.Image(decode=False))


def check_image_column(feature: Any, config: SourceConfig) -> None:
    """Refuse a column that contains neither images nor bytes, {bytes, path} or paths.

    Raises:
        SourceError: The column has another type.
    """
    import datasets

    if isinstance(feature, datasets.Image):
        return
    if isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary", "string", "large_string"):
        return
    if isinstance(feature, dict) and {"bytes", "path"} == set(feature):
        return
    shown = getattr(feature, "dtype", None) or type(feature).__name__
    raise SourceError(
        f"{config.path}: the column {config.image_column!r} is a {shown}, not an image; set --source.image_column to a "
        "column of images, of their bytes, of {bytes, path}, or of paths"
    )


def image_roots(config: SourceConfig) -> tuple[str, ...]:
    """The folders that stored paths may lead into: the dataset's own, and the caches for downloads and archives."""
    import datasets
    from huggingface_hub import constants

    folders = [
        constants.HF_HUB_CACHE,
        str(datasets.config.HF_DATASETS_CACHE),
        str(datasets.config.DOWNLOADED_DATASETS_PATH),
        str(datasets.config.EXTRACTED_DATASETS_PATH),
    ]
    if os.path.exists(config.path) or config.image_root is not None:
        base = base_folder(config)
        folders += [base, os.path.realpath(base)]
    return tuple(os.path.abspath(folder) for folder in folders)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
