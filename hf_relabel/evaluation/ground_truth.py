"""True label sets: reading them from files and datasets, and matching them with images.

    real.json             a list of lists of class indices, in the order of the images' file names (Beyer et al. 2020);
                          the label lists of ImageNet-Segments have this form too
    FILE.json             an object: image id or file name -> list of classes, like ImageNet-V2's multi-label file
    FILE.jsonl, .parquet  rows with `image_id` and a list of classes, or a list of objects with a `class` each
    user/name@revision    a dataset with such columns, on the Hub or in a local folder

A class is an index into the dataset's classes or one of their names. If the ids in the file contain no folders, images
are matched by file name.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.config.json_file import parse_json, read_json
from hf_relabel.errors import SourceError
from hf_relabel.evaluation import metrics
from hf_relabel.sources.revisions import check_commit, resolve_commit

_IMAGENET_VAL = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class Truth:
    """Label sets by image id, or, as in ReaL's file, in the order of the images' file names.

    Args:
        origin: Name the user gave, for messages.
        labels: Classes of each image, as names or indices.
    """

    origin: str
    labels: Mapping[str, Sequence[int | str]] | Sequence[Sequence[int | str]]

    def of(self, image_ids: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
        """Return the label sets of the given images as bool [N, C]; entries for other image ids are ignored.

        Raises:
            SourceError: An image has no entry, the number of images differs, or a class is unknown.
        """
        chosen = self._chosen(image_ids)
        return metrics.multi_hot(class_indices(chosen, class_names, self.origin), len(class_names))

    def of_images(self, image_ids: Sequence[str]) -> "Truth":
        """Return the truth of the given images alone, by their ids.

        Raises:
            SourceError: An image has no entry, or the number of images differs.
        """
        return Truth(self.origin, dict(zip(image_ids, self._chosen(image_ids), strict=True)))

    def has_labels(self, image_ids: Sequence[str]) -> np.ndarray:
        """Return whether each of the given images has a label, of whatever class: bool [N]."""
        return np.array([len(labels) > 0 for labels in self._chosen(image_ids)], bool)

    def _chosen(self, image_ids: Sequence[str]) -> list[Sequence[int | str]]:
        """The labels of each image."""
        if isinstance(self.labels, Mapping):
            keys = self._keys(image_ids)
            refuse_unknown(keys, self.labels, f"have no entry in {self.origin}")
            return [self.labels[key] for key in keys]
        return [self.labels[place] for place in self._places(image_ids)]

    def within(self, class_names: Sequence[str]) -> "tuple[Truth, Counter[str]]":
        """Leave out the labels whose names are not among the classes.

        Labels that are indices stay, because an index beyond the classes means that their order differs as well.

        Returns:
            The truth, and the number of labels left out by name.
        """
        known = set(class_names)
        left_out: Counter[str] = Counter()

        def kept(labels: Sequence[int | str]) -> list[int | str]:
            is_other = [isinstance(each, str) and each not in known and not each.isdecimal() for each in labels]
            left_out.update(str(label) for label, other in zip(labels, is_other, strict=True) if other)
            return [label for label, other in zip(labels, is_other, strict=True) if not other]

        if isinstance(self.labels, Mapping):
            return Truth(self.origin, {key: kept(labels) for key, labels in self.labels.items()}), left_out
        return Truth(self.origin, [kept(labels) for labels in self.labels]), left_out

    def _keys(self, image_ids: Sequence[str]) -> Sequence[str]:
        """The key of each image: its file name if these are unique and no key contains a folder, else its id."""
        names = [PurePosixPath(image_id).name for image_id in image_ids]
        by_name = len(set(names)) == len(names) and not any("/" in key for key in self.labels)
        return names if by_name else image_ids

    def _places(self, image_ids: Sequence[str]) -> list[int]:
        """Position of each image: the number in an ImageNet validation file name, else its rank by file name."""
        places = [int(found[1]) - 1 for found in map(_IMAGENET_VAL.search, image_ids) if found]
        if image_ids and len(places) == len(image_ids):
            if not 0 <= min(places) <= max(places) < len(self.labels):
                raise SourceError(
                    f"{self.origin}: has {len(self.labels)} lists, but an image has number {max(places) + 1}; give "
                    "the file that belongs to these images"
                )
            return places
        if len(image_ids) != len(self.labels):
            raise SourceError(
                f"{self.origin}: has {len(self.labels)} lists in file-name order, but there are {len(image_ids)} "
                "images; give all of the images, or a file with image ids"
            )
        return file_name_places(image_ids).tolist()


def file_name_places(image_ids: Sequence[str]) -> np.ndarray:
    """The rank of each image when sorted by file name, ignoring folders: int64 [N]."""
    order = sorted(range(len(image_ids)), key=lambda place: PurePosixPath(image_ids[place]).name)
    return np.argsort(order)


def refuse_unknown(image_ids: Iterable[str], known: Iterable[str], complaint: str) -> None:
    """Raise SourceError if image ids are unknown; the message contains their number and three of them."""
    known = known if isinstance(known, Mapping | set | frozenset) else set(known)
    image_ids = list(image_ids)
    unknown = [image_id for image_id in image_ids if image_id not in known]
    if unknown:
        example = next(iter(known), None)
        hint = f"; an id there is {example!r}" if example is not None else ""
        shown = ", ".join(map(repr, unknown[:3]))
        raise SourceError(f"{len(unknown)} of {len(image_ids)} image ids {complaint}: {shown}{hint}")


def class_indices(labels: Sequence[Sequence[int | str]], class_names: Sequence[str], origin: str) -> list[list[int]]:
    """Convert label sets given as names or indices to class indices.

    Raises:
        SourceError: A class is unknown.
    """
    places = {name: index for index, name in enumerate(class_names)}
    found, unknown = [], []
    for image in labels:
        indices = [_index(label, places) for label in image]
        unknown += [label for label, index in zip(image, indices, strict=True) if not 0 <= index < len(class_names)]
        found.append(indices)
    if unknown:
        shown = ", ".join(dict.fromkeys(map(repr, unknown)))
        shown = shown if len(shown) < 80 else f"{shown[:77]}..."
        raise SourceError(
            f"{origin}: {len(unknown)} labels are not among the {len(class_names)} classes: {shown}; "
            "give the file with the right class names"
        )
    return found


def _index(label: int | str, places: Mapping[str, int]) -> int:
    """The index of a class given by name or by index (also as text); -1 for an unknown name."""
    if isinstance(label, str) and (label in places or not label.isdecimal()):
        return places.get(label, -1)
    return int(label)


def read_truth(path: str, column: str = "labels", id_column: str = "image_id", split: str | None = None) -> Truth:
    """Read true label sets; the docstring of the module lists the accepted forms.

    Args:
        path: File, dataset folder, or dataset on the Hub as `user/name` or `user/name@revision`.
        column: Column with the labels: a list of classes, one class, or objects with a `class` or `category`.
        id_column: Column with the image ids.
        split: Split of a dataset.

    Raises:
        SourceError: The truth cannot be read, or a column is missing.
    """
    file = Path(path)
    if not file.is_file():
        return _from_rows(path, _dataset_rows(path, column, id_column, split), column, id_column)
    try:
        if file.suffix == ".json":
            return _from_json(path, read_json(file))
        if file.suffix == ".jsonl":
            lines = file.read_text(encoding="utf-8").splitlines()
            return _from_rows(path, [parse_json(line) for line in lines if line.strip()], column, id_column)
        if file.suffix == ".parquet":
            return _from_rows(path, pq.read_table(file).to_pylist(), column, id_column)
    except (ValueError, pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    raise SourceError(f"{path}: the truth must be a .json, .jsonl or .parquet file, or a dataset")


def _from_json(path: str, value: Any) -> Truth:
    lists = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or not all(isinstance(labels, list) for labels in lists):
        raise SourceError(f"{path}: must be a list of lists of classes, or an object: image id -> list of classes")
    return Truth(path, value)


def _from_rows(path: str, rows: Sequence[Mapping[str, Any]], column: str, id_column: str) -> Truth:
    labels: dict[str, list[int | str]] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or id_column not in row:
            raise SourceError(f"{path}: row {number} has no {id_column!r}; give the name of the image id column")
        if column not in row and "objects" not in row:
            raise SourceError(f"{path}: row {number} has no {column!r}; give the name of the label column")
        labels[str(row[id_column])] = labels_of(row[column] if column in row else row["objects"], path)
    if len(labels) != len(rows):
        raise SourceError(f"{path}: {len(rows) - len(labels)} image ids occur more than once; make them unique")
    return Truth(path, labels)


def labels_of(value: Any, origin: str) -> list[int | str]:
    """Extract the classes from a cell: a class, a list of classes, a list of objects, or a dictionary of lists.

    Raises:
        SourceError: The cell is none of these.
    """
    if isinstance(value, np.integer):
        value = int(value)
    if isinstance(value, int | str):
        return [value]
    if isinstance(value, Mapping):
        return labels_of(_class_of(value, origin), origin)
    if isinstance(value, Sequence | np.ndarray):
        items = [_class_of(item, origin) if isinstance(item, Mapping) else item for item in value]
        if all(isinstance(item, int | str | np.integer) for item in items):
            return list(dict.fromkeys(items))
    raise SourceError(f"{origin}: labels must be classes, or objects with a class, got {str(value)[:60]}")


def _class_of(item: Mapping[str, Any], origin: str) -> Any:
    for key in ("class", "category", "label", "category_id"):
        if key in item:
            return item[key]
    raise SourceError(f"{origin}: an object has no `class`, `category` or `label` but {', '.join(map(str, item))}")


def _dataset_rows(path: str, column: str, id_column: str, split: str | None) -> list[dict[str, Any]]:
    name, _, revision = path.partition("@")
    if not Path(path).is_dir() and name.count("/") != 1:
        raise SourceError(f"{path}: no such file or dataset")
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    name, revision = (path, "") if Path(path).is_dir() else (name, revision)
    commit = resolve_commit(name, revision) if revision else None
    try:
        opened = datasets.load_dataset(name, revision=commit, split=split)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise SourceError(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from error
    if commit is not None:
        check_commit(opened, name, revision, commit)
    if isinstance(opened, Mapping):
        if len(opened) > 1:
            raise SourceError(f"{path}: has the splits {', '.join(opened)}; give the name of one")
        opened = next(iter(opened.values()))
    missing = {column, id_column} - set(opened.column_names)
    if missing:
        raise SourceError(f"{path}: no column {min(missing)!r}; the columns are {', '.join(opened.column_names)}")
    return list(opened.select_columns([id_column, column]))
