"""Images with label lists, from single-label sources, multi-label datasets, and COCO and VOC annotation files."""

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from hf_relabel.config import SourceConfig
from hf_relabel.config.checks import regular_file
from hf_relabel.config.json_file import read_json
from hf_relabel.errors import ImageReadError, SourceError
from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.ground_truth import Truth, class_indices, labels_of, read_truth
from hf_relabel.sources.classes import ClassList
from hf_relabel.sources.decoding import decode

if TYPE_CHECKING:
    from hf_relabel.sources.source import Source


@dataclass(frozen=True)
class LabeledImages:
    """N images, their classes and label sets.

    Args:
        origin: Name the user gave, for messages.
        class_names: Names of the C classes.
        image_ids: N unique names.
        labels: Class indices of each image; a list may be empty.
        load: Returns image i as RGB; raises ImageReadError. It can be pickled, for worker processes.
    """

    origin: str
    class_names: list[str]
    image_ids: list[str]
    labels: list[list[int]]
    load: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def multi_hot(self) -> np.ndarray:
        """The label sets as bool [N, C]."""
        return metrics.multi_hot(self.labels, len(self.class_names))

    @property
    def fingerprint(self) -> str:
        """SHA-256 that changes with the ids, and for a source when a file is replaced; no image is read."""
        if isinstance(self.load, _SourceImages):
            return self.load.source.fingerprint
        return hashlib.sha256("\n".join(self.image_ids).encode()).hexdigest()

    def with_truth(self, truth: Truth) -> "LabeledImages":
        """Return the same images with true label sets."""
        sets = truth.of(self.image_ids, self.class_names)
        return replace(self, labels=[np.flatnonzero(row).tolist() for row in sets])

    def with_classes(self, class_names: Sequence[str]) -> "LabeledImages":
        """Return the same label sets as indices into other class names.

        Raises:
            SourceError: A class of these images is not in `class_names`.
        """
        names = [[self.class_names[index] for index in image] for image in self.labels]
        return replace(self, class_names=list(class_names), labels=class_indices(names, class_names, self.origin))


def from_source(config: SourceConfig) -> LabeledImages:
    """Open a single-label source; the list of each image contains its one label."""
    from hf_relabel.sources.source import open_source

    source = open_source(config)
    labels = [[int(label)] for label in source.labels]
    return LabeledImages(config.path, source.class_names, list(source.image_ids), labels, _SourceImages(source))


def from_dataset(
    path: str,
    split: str,
    *,
    config_name: str | None = None,
    labels_column: str = "labels",
    image_column: str = "image",
    id_column: str | None = None,
    class_names: Sequence[str] | None = None,
) -> LabeledImages:
    """Open a dataset with a column of class lists, or of objects with one class each (like COCO on the Hub).

    Args:
        path: Local folder, `user/name` or `user/name@revision`.
        split: Split to read.
        config_name: Configuration to read.
        labels_column: Column with the labels; `ground_truth.labels_of` lists the accepted forms.
        image_column: Column with the image.
        id_column: Column with unique names; by default, names are split and row.
        class_names: Class names, needed if the column contains plain integers.

    Raises:
        SourceError: The dataset cannot be loaded, or a column is missing.
    """
    from hf_relabel.sources.image_dataset import DatasetImages, image_roots, load_dataset, stored_images

    name, _, revision = (path, "", "") if Path(path).is_dir() else path.partition("@")
    config = SourceConfig(
        kind="dataset",
        path=name,
        config_name=config_name,
        split=split,
        revision=revision or None,
        image_column=image_column,
    )
    data = load_dataset(config)
    for column in filter(None, (labels_column, image_column, id_column)):
        if column not in data.column_names:
            raise SourceError(f"{path}: no column {column!r}; the columns are {', '.join(data.column_names)}")
    cells = [labels_of(value, path) for value in data.select_columns([labels_column])[labels_column]]
    names = list(class_names or _feature_names(data.features[labels_column]) or _names_of(cells, path))
    ids = [str(value) for value in data[id_column]] if id_column else [f"{split}/{row}" for row in range(len(data))]
    pictures = stored_images(data, image_column)
    stored = DatasetImages(pictures, image_column, np.arange(len(data)), image_roots(config), data._fingerprint)
    return LabeledImages(path, names, ids, class_indices(cells, names, path), _DecodedFiles(stored.open, ids))


def _feature_names(feature: Any) -> list[str] | None:
    """Class names of the ClassLabel nested in a column's feature under a known key; None if there is none."""
    if hasattr(feature, "names"):
        return list(feature.names)
    if hasattr(feature, "feature"):
        return _feature_names(feature.feature)
    if isinstance(feature, list):
        return _feature_names(feature[0])
    if isinstance(feature, Mapping):
        for key in ("class", "category", "label", "category_id"):
            if key in feature:
                return _feature_names(feature[key])
    return None


def _names_of(cells: Sequence[Sequence[int | str]], origin: str) -> list[str]:
    found = {label for image in cells for label in image}
    names = sorted(label for label in found if isinstance(label, str))
    if len(names) < len(found):
        raise SourceError(f"{origin}: classes are numbers without names; give a file with the class names")
    return names


def from_coco(annotations: str, images: str) -> LabeledImages:
    """Read a COCO detection file (`instances_*.json`); the labels are the categories of an image's annotations.

    Raises:
        SourceError: The file is not a COCO detection file.
    """
    try:
        content = read_json(Path(annotations))
        categories = sorted(content["categories"], key=lambda category: category["id"])
        place = {category["id"]: index for index, category in enumerate(categories)}
        labels: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
        for item in content["annotations"]:
            labels[item["image_id"]].add(place[item["category_id"]])
        named = sorted((image["file_name"], sorted(labels[image["id"]])) for image in content["images"])
        names = [category["name"] for category in categories]
        if not all(isinstance(name, str) for name in [*names, *(file for file, _ in named)]):
            raise TypeError("name that is not text")
    except (OSError, ValueError) as error:
        raise SourceError(f"{annotations}: cannot be read ({error})") from error
    except (KeyError, TypeError) as error:
        raise SourceError(f"{annotations}: not a COCO detection file (missing or unknown {error})") from error
    ClassList(f"{annotations}, categories", names)  # refuses a name that two categories have
    return _from_files(annotations, Path(images), names, [file for file, _ in named], [found for _, found in named])


def from_voc(folder: str, split: str) -> LabeledImages:
    """Read a VOC folder (Annotations/, ImageSets/Main/, JPEGImages/); objects marked difficult are included.

    Raises:
        SourceError: A file is missing or is not in VOC's format.
    """
    root = Path(folder)
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = regular_file(listing).read_text(encoding="utf-8").splitlines()
        stems = sorted(line.split()[0] for line in lines if line.strip())
        names_of = []
        for stem in stems:
            tree = ElementTree.parse(regular_file(_inside(root / "Annotations", f"{stem}.xml")))
            names_of.append([str(item.findtext("name")) for item in tree.iterfind("object")])
    except (OSError, UnicodeDecodeError, ElementTree.ParseError) as error:
        raise SourceError(f"{folder}: not a VOC folder with the split {split!r} ({error})") from error
    names = sorted({name for image in names_of for name in image})
    files = [f"{stem}.jpg" for stem in stems]
    return _from_files(folder, root / "JPEGImages", names, files, class_indices(names_of, names, folder))


def from_rows(path: str, images: str, labels_column: str = "labels") -> LabeledImages:
    """Read a .jsonl or .parquet file (see `ground_truth`); its image ids are paths below the folder `images`."""
    truth = read_truth(path, labels_column)
    if not isinstance(truth.labels, Mapping):
        raise SourceError(f"{path}: has no image ids; give a file with a column of image ids")
    ids = sorted(truth.labels)
    cells = [list(dict.fromkeys(truth.labels[image_id])) for image_id in ids]
    names = _names_of(cells, path)
    return _from_files(path, Path(images), names, ids, class_indices(cells, names, path))


def open_labeled(path: str, images: str | None, split: str, labels_column: str, image_column: str) -> LabeledImages:
    """Open images with label lists; the kind of `path` decides how.

    A .json file is COCO; a .jsonl or .parquet file contains rows with an image id (both need the image folder
    `images`); a folder that contains Annotations/ is VOC; anything else is a dataset.

    Raises:
        SourceError: The path is none of these.
    """
    file = Path(path)
    if file.suffix in (".json", ".jsonl", ".parquet"):
        if images is None:
            raise SourceError(f"{path}: also give the folder of its images")
        return from_coco(path, images) if file.suffix == ".json" else from_rows(path, images, labels_column)
    if (file / "Annotations").is_dir():
        return from_voc(path, split)
    if not file.is_dir() and path.partition("@")[0].count("/") != 1:
        raise SourceError(f"{path}: no such annotation file, VOC folder or dataset")
    return from_dataset(path, split, labels_column=labels_column, image_column=image_column)


def _from_files(
    origin: str, root: Path, class_names: list[str], files: list[str], labels: list[list[int]]
) -> LabeledImages:
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder; give the folder of the images of {origin}")
    missing = [file for file in files if not _inside(root, file).is_file()]
    if missing:
        shown = ", ".join(map(repr, missing[:3]))
        raise SourceError(f"{origin}: {len(missing)} of {len(files)} images are not in {root}: {shown}")
    return LabeledImages(origin, class_names, files, labels, _DecodedFiles(_Folder(root, files).open, files))


def _inside(root: Path, name: str) -> Path:
    """The path of a file below the folder; names that lead outside the folder are refused."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise SourceError(f"{name!r} is outside {root}; fix the annotations")
    return path


@dataclass(frozen=True)
class _SourceImages:
    """Loads the images of a source; an ImageReadError names the image."""

    source: "Source"

    def __call__(self, index: int) -> Image.Image:
        try:
            return self.source.load(index).image
        except ImageReadError as error:
            raise ImageReadError(f"{self.source.image_ids[index]}: {error}") from error


@dataclass(frozen=True)
class _Folder:
    """Files by number, below a folder."""

    root: Path
    files: Sequence[str]

    def open(self, index: int) -> BinaryIO:
        """Open a file for reading; raises OSError."""
        return open(regular_file(_inside(self.root, self.files[index])), "rb")


@dataclass(frozen=True)
class _DecodedFiles:
    """Opens and decodes images as upright RGB; an ImageReadError names the image."""

    open_file: Callable[[int], BinaryIO]
    image_ids: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        image_id = self.image_ids[index]
        try:
            with self.open_file(index) as file:
                return decode(file).image
        except OSError as error:
            raise ImageReadError(f"{image_id}: cannot be opened ({error.strerror or type(error).__name__})") from error
        except ImageReadError as error:
            raise ImageReadError(f"{image_id}: {error}") from error
