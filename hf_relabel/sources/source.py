"""A single-label image dataset, from a folder or from `datasets`, as image ids, labels and pixels."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from hf_relabel.config import SourceConfig
from hf_relabel.errors import ImageReadError, SourceError, UsageError
from hf_relabel.schema import NO_LABEL, Excluded
from hf_relabel.sources.columns import Numbers, chunks, joined, looked_up, with_prefix
from hf_relabel.sources.decoding import LoadedImage, decode
from hf_relabel.sources.image_dataset import check_dataset, load_dataset, read_dataset, reopen_dataset
from hf_relabel.sources.image_folder import FolderImages, scan_classes, scan_unlabeled
from hf_relabel.sources.labeled_files import image_root, is_table_file, scan_table
from hf_relabel.sources.listing import Listing
from hf_relabel.sources.splits import Images, SplitImages, is_taken, prefixed, split_configs
from hf_relabel.sources.streaming import StreamedImages, open_stream, opened, reopen_stream

__all__ = ["Images", "LoadedImage", "Source", "combine", "open_source", "source_of_dataset"]


class StoredImages(Images, Protocol):
    """Images that a run's snapshot can open again."""

    @property
    def places(self) -> dict[str, Numbers]:
        """Where the images are, each int64 [N]."""

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the dataset; None for a folder."""

    @property
    def commit(self) -> str | None:
        """The commit of a dataset on the Hub; None for another source."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A single-label dataset of N images and C classes, sorted by image id.

    It can be pickled and used in several processes at the same time, because each `load` opens the image itself.

    Args:
        kind: `folder` or `dataset`.
        split: Name of the split; of several the first, whose images come first.
        class_names: C unique names.
        image_ids: N unique ids, sorted within each split; relative paths without `..` and control characters.
        labels: Class index of each image, int32 [N]; -1 for an image without a label.
        images: Opens the image files.
        excluded: The images that cannot be used; they are not among the N.
        max_pixels: Number of pixels above which an image counts as unreadable; None for Pillow's limit.
        parts: The splits, if there are several.
    """

    kind: str
    split: str
    class_names: list[str]
    image_ids: Sequence[str]
    labels: Numbers
    images: Images
    excluded: list[Excluded] = field(default_factory=list)
    max_pixels: int | None = None
    parts: tuple["Source", ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of images of each split, in their order."""
        return {part.split: len(part) for part in self.parts or (self,)}

    def split_of(self, index: int) -> str:
        """Name of the split of an image."""
        for split, size in self.split_sizes.items():
            if index < size:
                return split
            index -= size
        raise IndexError(f"no image {index} beyond the last")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that changes when any image is added, removed, renamed, relabeled or replaced.

        It covers kind, split, class names, ids, labels, and for each file its size and modification time, or for a
        dataset its own fingerprint, the excluded images, and the limit on pixels. No image is read.
        """
        split = list(self.split_sizes.items()) if self.parts else self.split
        digest = hashlib.sha256(json.dumps([self.kind, split, self.class_names]).encode())
        for image_ids in chunks(self.image_ids):
            digest.update("".join(f"\n{image_id}" for image_id in image_ids).encode())
        for labels in chunks(self.labels):
            digest.update(labels.astype("<i4").tobytes())
        for key in self.images.content_keys():
            digest.update(key)
        digest.update(json.dumps([self.excluded, self.max_pixels]).encode())
        return digest.hexdigest()

    def read(self, indices: range) -> Iterable[Any]:
        """What `load` takes for each image of a range: its index, and its content if that is read in this process."""
        if self.parts:
            return self._read_parts(indices)
        return self.images.read(indices) if isinstance(self.images, StreamedImages) else indices

    def _read_parts(self, indices: range) -> Iterator[Any]:
        """What `read` returns, from the splits that a range touches."""
        first = 0
        for part in self.parts:
            within = range(max(indices.start - first, 0), min(indices.stop - first, len(part)))
            for item in part.read(within) if len(within) else ():
                yield (item[0] + first, item[1]) if isinstance(item, tuple) else item + first
            first += len(part)

    def load(self, item: int | tuple[int, bytes | None], min_side: int | None = None) -> LoadedImage:
        """Decode an image.

        Args:
            item: Index in `image_ids`, or what `read` returns.
            min_side: Allows decoding a large JPEG at a reduced size; both sides keep at least this many pixels.

        Raises:
            ImageReadError: The image cannot be read; the message is a one-line reason.
        """
        with self._opened(item) as file:
            return decode(file, min_side, self.max_pixels)

    def load_hashed(self, item: int | tuple[int, bytes | None], min_side: int | None = None) -> tuple[LoadedImage, str]:
        """Decode an image, as `load` does, and hash its file.

        Returns:
            The image, and the SHA-256 of its file in hexadecimal: what it is known by, whatever its name.
        """
        with self._opened(item) as file:
            image, digest = decode(file, min_side, self.max_pixels), hashlib.sha256()
            try:
                file.seek(0)
                while part := file.read(2**20):
                    digest.update(part)
            except OSError as error:
                raise ImageReadError(f"cannot be read ({error.strerror or type(error).__name__})") from error
            return image, digest.hexdigest()

    def _opened(self, item: int | tuple[int, bytes | None]) -> BinaryIO:
        try:
            return opened(item[1]) if isinstance(item, tuple) else self.images.open(item)
        except OSError as error:
            raise ImageReadError(f"cannot be opened ({error.strerror or type(error).__name__})") from error

    def in_classes(self, class_names: list[str], origin: str) -> "Source":
        """Return the same images with their labels among other classes, matched by name.

        Args:
            class_names: The classes.
            origin: Whose classes these are, for messages.

        Raises:
            SourceError: An image has a label that is not among the classes.
        """
        if self.class_names == class_names:
            return self
        known = {name: index for index, name in enumerate(class_names)}
        used = sorted({int(label) for labels in chunks(self.labels) for label in np.unique(labels)} - {NO_LABEL})
        unknown = [self.class_names[label] for label in used if self.class_names[label] not in known]
        if unknown:
            raise SourceError(
                f"{len(unknown)} of the {len(used)} classes of these images, such as {unknown[0]!r}, are not among the "
                f"{len(class_names)} classes of {origin}; name the classes as there (--source.class_names), or ignore "
                "the labels with --source.labeled false"
            )
        of_class = np.array([known.get(name, NO_LABEL) for name in self.class_names] + [NO_LABEL], np.int32)
        return replace(self, class_names=class_names, labels=looked_up(self.labels, of_class))


def open_source(config: SourceConfig, scratch: Path | None = None) -> Source:
    """Open the dataset that the configuration names; no image is decoded.

    Args:
        config: The source's settings.
        scratch: Folder for the list of images, which the source reads as long as it is used; memory then does not grow
            with the images. None keeps the list in memory.

    Raises:
        UsageError: The configuration has no path.
        SourceError: The dataset is missing or does not match the configuration, or a split has other classes.
    """
    configs = split_configs(config)
    if len(configs) > 1:
        return combine([open_source(each, scratch) for each in configs])
    config = configs[0]
    if not config.path:
        raise UsageError("source.path: is missing; set it to an image folder, a dataset's folder or a Hub id")
    if config.streaming:
        listing, streamed = open_stream(config, scratch)
        return _source("dataset", config, listing, streamed)
    if config.kind == "dataset":
        return source_of_dataset(load_dataset(config), config, scratch)
    if not config.labeled:
        images, listing = scan_unlabeled(config, scratch)
    else:
        images, listing = (scan_table if is_table_file(config) else scan_classes)(config, scratch)
    return _source("folder", config, listing, images)


def reopen_images(
    config: SourceConfig, image_ids: Sequence[str], places: dict[str, Numbers], fingerprint: str | None
) -> StoredImages:
    """Open the images of a source whose ids have been read before.

    Args:
        config: The source.
        image_ids: The N ids.
        places: What `places` of the images was when they were opened; each int64 [N].
        fingerprint: What their `fingerprint` was.

    Raises:
        SourceError: The dataset is missing or has changed.
    """
    if "sizes" in places:
        root = image_root(config) if is_table_file(config) else config.path
        return FolderImages(root, image_ids, places["sizes"], places["modified"])
    if "rows" in places:
        return reopen_dataset(config, places["rows"], str(fingerprint))
    return reopen_stream(config, places, str(fingerprint))


def combine(parts: list[Source]) -> Source:
    """Make one source of several splits; the classes are those of the first.

    Raises:
        SourceError: A later split has a class that the first does not have.
    """
    first = parts[0]
    parts = [first, *(part.in_classes(first.class_names, f"the split {first.split}") for part in parts[1:])]
    columns: list[Sequence[str]] = []
    excluded: list[Excluded] = []
    for part in parts:
        own, unused = part.image_ids, part.excluded
        if is_taken(own, columns):
            own = with_prefix(own, prefixed(part.split, ""))
            unused = [image._replace(image_id=prefixed(part.split, image.image_id)) for image in unused]
        excluded += [image._replace(split=part.split) for image in unused]
        columns.append(own)
    return of_parts(parts, joined(columns), joined([part.labels for part in parts]), excluded)


def of_parts(parts: list[Source], image_ids: Sequence[str], labels: Numbers, excluded: list[Excluded]) -> Source:
    """Make one source of several splits, whose ids and labels together are known."""
    starts = [0, *accumulate(len(part) for part in parts)][:-1]
    images = SplitImages([part.images for part in parts], starts)
    return replace(parts[0], image_ids=image_ids, labels=labels, images=images, excluded=excluded, parts=tuple(parts))


def source_of_dataset(data: object, config: SourceConfig, scratch: Path | None = None) -> Source:
    """Make a source from an opened map-style `datasets.Dataset`, using the columns that the configuration names.

    Args:
        data: The dataset.
        config: The source's settings.
        scratch: Folder for the list of images; None keeps it in memory.

    Raises:
        SourceError: The dataset is streamed, a column is missing, a label is not in the class list, or ids are not
            unique.
    """
    listing, images = read_dataset(check_dataset(data, config), config, scratch)
    return _source("dataset", config, listing, images)


def _source(kind: str, config: SourceConfig, listing: Listing, images: Images) -> Source:
    excluded = sorted(listing.excluded)
    if listing.excluded:
        name, reason, _ = listing.excluded[0]
        logger.warning("%s: excluded %d images, such as %s: %s", config.path, len(excluded), name, reason)
    return Source(
        kind,
        config.split_names[0],
        listing.class_names,
        listing.image_ids,
        listing.labels,
        images,
        excluded,
        config.max_pixels,
    )
