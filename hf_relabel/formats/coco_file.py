"""An index of a COCO JSON file: which annotations belong to which image, and where in the file they are.

The published proposals for ImageNet are 16 GB of COCO JSON. One pass over the file stores the image and the position
of each annotation, 24 bytes in total; the annotations of an image are read again when they are needed.
"""

import json
import os
import weakref
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_relabel.errors import FormatError
from hf_relabel.formats.json_items import Item, line_of, read_items


@dataclass(frozen=True)
class Entry:
    """An image or annotation of the file.

    Args:
        value: Its content.
        start: Position of its first byte.
    """

    value: dict[str, Any]
    start: int


@dataclass
class _Spans:
    """First and last positions of items in the file."""

    starts: array = field(default_factory=lambda: array("q"))
    stops: array = field(default_factory=lambda: array("q"))

    def add(self, item: Item) -> None:
        self.starts.append(item.start)
        self.stops.append(item.stop)


class CocoFile:
    """An opened file: a complete COCO object, or a bare list of annotations with the file names of their images.

    Args:
        path: The file.

    Attributes:
        head: Top-level values other than images and annotations (`info`, `categories`, ...).
        names: `file_name` of each of the N images, without duplicates.
        annotations: Number of annotations.
        strays: Number of annotations for images that the file does not list.

    Raises:
        FormatError: The file is missing, damaged or not a COCO file, or it lists an image twice.
    """

    def __init__(self, path: Path):
        self.path = path
        self.head: dict[str, Any] = {}
        self.names: list[str] = []
        self._images = _Spans()
        self._spans = _Spans()
        self._places: dict[int | str, int] = {}  # index in `names` of each image id
        self._known: set[str] = set()
        self._is_list = False
        image_ids, has_annotations = [], False
        for item in read_items(path):
            if item.key is None:
                self._is_list = True
            has_annotations |= item.key in ("annotations", None)
            if item.in_list and item.key == "images":
                self._add_image(item)
            elif item.in_list and item.key in ("annotations", None):
                image_ids.append(self._image_id(item))
                self._spans.add(item)
            elif item.key in ("images", "annotations", None) and item.value == []:
                continue
            elif item.key in ("images", "annotations"):
                raise self._refused(item, f"`{item.key}` must be a list")
            elif item.in_list and isinstance(values := self.head.setdefault(str(item.key), []), list):
                values.append(item.value)
            else:
                self.head[str(item.key)] = item.value
        if not self.names:
            raise FormatError(f"{path}: lists no images; a COCO file needs `images` and `annotations`")
        if not has_annotations:
            raise FormatError(f"{path}: has no `annotations`; a file without regions has an empty list of them")
        self.annotations = len(image_ids)
        places = np.array([self._places.get(image_id, -1) for image_id in image_ids], np.int64)
        self.strays = int(np.count_nonzero(places < 0))
        self._order = np.argsort(places, kind="stable")[self.strays :]
        self._offsets = np.searchsorted(places[self._order], np.arange(len(self.names) + 1))
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def image(self, place: int) -> Entry:
        """The entry of an image, by its index in `names`. A bare list has no such entries."""
        return self._entry(self._images, place)

    def size(self, place: int) -> tuple[int, int] | None:
        """Height and width that the file gives for an image, by its index in `names`; None if it gives none."""
        if self._is_list:
            return None
        image = self.image(place).value
        height, width = image.get("height"), image.get("width")
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def count(self, place: int) -> int:
        """Number of annotations of an image."""
        return int(self._offsets[place + 1] - self._offsets[place])

    def annotations_of(self, place: int) -> Iterator[Entry]:
        """Iterate over the annotations of an image, in the order of the file."""
        for number in self._order[self._offsets[place] : self._offsets[place + 1]]:
            yield self._entry(self._spans, number)

    def error(self, entry: Entry, reason: str) -> FormatError:
        """Make the error for an entry, with its line number."""
        return FormatError(f"{self.path}, line {line_of(self.path, entry.start)}: {reason}")

    def _entry(self, spans: _Spans, number: int) -> Entry:
        start, stop = spans.starts[number], spans.stops[number]
        # Unlike seek and read, this works from several threads at the same time.
        return Entry(json.loads(os.pread(self._descriptor, stop - start, start)), start)

    def _add_image(self, item: Item) -> None:
        image = _object(item)
        image_id, name = image.get("id"), image.get("file_name")
        if not isinstance(image_id, int | str) or isinstance(image_id, bool) or not isinstance(name, str):
            raise self._refused(item, "an image needs an `id` and a `file_name`")
        if image_id in self._places:
            raise self._refused(item, f"the image id {image_id!r} occurs twice")
        if name in self._known:
            raise self._refused(item, f"the image {name!r} occurs twice")
        self._known.add(name)
        self._places[image_id] = len(self.names)
        self.names.append(name)
        self._images.add(item)

    def _image_id(self, item: Item) -> int | str:
        """The image id of an annotation; in a bare list, its file name, which is added to the images."""
        annotation = _object(item)
        if not self._is_list:
            image_id = annotation.get("image_id")
            if not isinstance(image_id, int | str) or isinstance(image_id, bool):
                raise self._refused(item, "an annotation needs the `image_id` of an image")
            return image_id
        name = annotation.get("file_name", annotation.get("image_id"))
        if not isinstance(name, str):
            raise self._refused(
                item,
                f"an annotation in a bare list needs the `file_name` of its image, got image_id {name!r}; put the list "
                'into {"images": [...], "annotations": [...]} with its images',
            )
        if name not in self._places:
            self._places[name] = len(self.names)
            self.names.append(name)
        return name

    def _refused(self, item: Item, reason: str) -> FormatError:
        return FormatError(f"{self.path}, line {line_of(self.path, item.start)}: {reason}")


def _object(item: Item) -> dict[str, Any]:
    return item.value if isinstance(item.value, dict) else {}
