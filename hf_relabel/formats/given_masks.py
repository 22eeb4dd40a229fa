"""Masks of a COCO JSON file, as CutLER and MaskCut write it, in the place of our own MaskCut's.

An image is known by its `file_name`, which must be the image id: the path below the image folder. Categories and
scores are not looked at, as a proposal has no class. Masks stay as they are, in the order of the file.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_relabel.errors import FormatError
from hf_relabel.formats.coco_file import CocoFile
from hf_relabel.formats.releases import origin
from hf_relabel.formats.segmentation import read_segmentation
from hf_relabel.vision import masks

logger = logging.getLogger(__name__)

NO_MASK = "annotation without a segmentation"


class MaskError(Exception):
    """A mask of the file does not fit its image; the text says why. The image becomes an error row."""


def identity_of(file: str) -> dict[str, str]:
    """What a file of masks is in a fingerprint: its name and its hash.

    Raises:
        FormatError: There is no such file.
    """
    try:
        return origin(Path(file))
    except OSError as error:
        raise FormatError(
            f"{file}: cannot be read ({error.strerror or error}); name the COCO JSON file with the masks"
        ) from error


@dataclass(frozen=True)
class GivenMasks:
    """The masks of a file for the images of a source.

    Args:
        coco: The file.
        places: Place in the file of each image that the source has too.
        left_out: What of either has no counterpart in the other, in words.
    """

    coco: CocoFile
    places: dict[str, int]
    left_out: list[str]

    @classmethod
    def open(cls, file: str, image_ids: list[str]) -> "GivenMasks":
        """Open a file of masks for a source's images.

        Raises:
            FormatError: The file is damaged, or has no image of the source.
        """
        coco = CocoFile(Path(file))
        in_source = set(image_ids)
        places = {name: place for place, name in enumerate(coco.names) if name in in_source}
        if not places:
            raise FormatError(
                f"{file}: has no image of the source: its first is {coco.names[0]!r}, the source's {image_ids[0]!r}; "
                "make file_name the image's path below source.path"
            )
        unknown = [name for name in coco.names if name not in in_source]
        without = [name for name in image_ids if name not in places or not coco.count(places[name])]
        left_out = []
        if unknown:
            lost = coco.annotations - coco.strays - sum(coco.count(place) for place in places.values())
            left_out.append(f"{len(unknown)} images are not in the source, with {lost} masks ({_such_as(unknown)})")
        if coco.strays:
            left_out.append(f"{coco.strays} annotations are of images that the file does not list")
        if without:
            left_out.append(
                f"{len(without)} of the source's {len(image_ids)} images have no mask ({_such_as(without)})"
            )
        categories = coco.head.get("categories")
        if isinstance(categories, list) and len(categories) > 1:
            left_out.append(f"its {len(categories)} categories are not used, as proposals have no class")
        return cls(coco, places, left_out)

    def warn_of_left_out(self) -> None:
        """Log a line for each kind of thing that is left out."""
        for line in self.left_out:
            logger.warning("%s: %s", self.coco.path, line)

    def of(self, image_id: str, height: int, width: int, dropped: Counter[str]) -> Iterator[np.ndarray]:
        """The masks of an image, bool [height, width]; what has no mask is counted in `dropped`.

        Raises:
            MaskError: A mask is damaged or not of the image's size.
        """
        place = self.places.get(image_id)
        if place is None:
            return
        for entry in self.coco.annotations_of(place):
            segmentation = entry.value.get("segmentation")
            if not segmentation:
                dropped[NO_MASK] += 1
                continue
            try:
                rle = read_segmentation(segmentation, height, width)
            except ValueError as error:
                raise MaskError(str(self.coco.error(entry, f"the segmentation {error}"))) from error
            yield masks.decode(rle)


def _such_as(names: list[str]) -> str:
    return f"such as {names[0]!r}"
