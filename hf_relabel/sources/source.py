"""Sources: a single-label image dataset as ids, labels and pixels, whether it lies in a folder or in `datasets`."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hf_relabel.config import SourceConfig
from hf_relabel.errors import ImageReadError, UsageError
from hf_relabel.sources.decoding import LoadedImage, decode
from hf_relabel.sources.image_dataset import DatasetImages, check_dataset, load_dataset, read_dataset
from hf_relabel.sources.image_folder import FolderImages, scan_folder

__all__ = ["LoadedImage", "Source", "open_source", "source_of_dataset"]


@dataclass(frozen=True)
class Source:
    """A single-label dataset of N images and C classes, in the order of the image ids.

    It can be pickled and used by several processes at once: every `load` opens the image anew.

    Args:
        kind: `folder` or `dataset`.
        split: Name of the split.
        class_names: The C names, each once.
        image_ids: N ids, sorted, each once; relative, never leading upwards, without control characters.
        labels: Class index of each image, int32 [N].
        images: Where the files are.
    """

    kind: str
    split: str
    class_names: list[str]
    image_ids: list[str]
    labels: np.ndarray
    images: FolderImages | DatasetImages

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that changes when any image is added, removed, renamed, relabeled or replaced.

        It covers kind, split, class names, ids, labels, and for each file its size and modification time, or for a
        dataset its own fingerprint. No image is read.
        """
        digest = hashlib.sha256(json.dumps([self.kind, self.split, self.class_names]).encode())
        for image_id in self.image_ids:
            digest.update(f"\n{image_id}".encode())
        digest.update(self.labels.astype("<i4").tobytes())
        digest.update(self.images.content_key())
        return digest.hexdigest()

    def load(self, index: int, min_side: int | None = None) -> LoadedImage:
        """Decode an image.

        Args:
            index: Its place in `image_ids`.
            min_side: Allows a large JPEG to be decoded smaller, both sides keeping so many pixels.

        Raises:
            ImageReadError: It cannot be read; the message is the reason in one line.
        """
        try:
            file = self.images.open(index)
        except OSError as error:
            raise ImageReadError(f"cannot be opened ({error.strerror or type(error).__name__})") from error
        with file:
            return decode(file, min_side)


def open_source(config: SourceConfig) -> Source:
    """Open the dataset of a configuration; no image is decoded.

    Raises:
        UsageError: The configuration names no path, or a split that is not a plain name.
        SourceError: The dataset is missing, or is not what the configuration says.
    """
    if not config.path:
        raise UsageError("source.path: must be given, the image folder, the dataset's folder or its Hub id")
    if not re.fullmatch(r"\w+([.-]\w+)*", config.split):
        raise UsageError(
            f"source.split: must be a split's name, got {config.split!r}; for a part of it see source.limit"
        )
    if config.kind == "dataset":
        return source_of_dataset(load_dataset(config), config)
    images, labels, class_names = scan_folder(config)
    return Source("folder", config.split, class_names, images.image_ids, labels, images)


def source_of_dataset(data: object, config: SourceConfig) -> Source:
    """A source of an opened map-style `datasets.Dataset`, whose columns the configuration names.

    Raises:
        SourceError: It is streamed, a column is missing, a label is outside the class list, or ids are not unique.
    """
    data = check_dataset(data, config)
    image_ids, labels, class_names, images = read_dataset(data, config)
    return Source("dataset", config.split, class_names, image_ids, labels, images)
