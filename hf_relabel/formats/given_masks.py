"""Masks from a COCO JSON file, as CutLER and MaskCut write it, instead of computed proposals.

Images are matched by `file_name`, which must be the image id: the path relative to the image folder. Categories and
scores are ignored, because a proposal has no class. The masks keep the order of the file.

The masks of an image with an EXIF orientation may be those of the stored pixels, as tools write them that ignore the
orientation (CutLER's maskcut.py), or of the upright picture, as this package exports them. Their size tells which, if
the orientation swaps the sides of an image that is not square; else it is a setting.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_relabel.errors import FormatError
from hf_relabel.formats.coco_fields import RELEASE
from hf_relabel.formats.coco_file import CocoFile
from hf_relabel.formats.releases import origin
from hf_relabel.formats.segmentation import is_degenerate, read_segmentation
from hf_relabel.vision import masks

logger = logging.getLogger(__name__)

NO_MASK = "annotation without a segmentation"
DEGENERATE = "polygon of fewer than three points"


FIRST_SWAPPED = 5
"""From this EXIF orientation on, the stored pixels have width and height of the upright picture swapped."""


class MaskError(Exception):
    """A mask does not fit its image; the message says why. The image becomes an error row."""


def identity_of(file: str) -> dict[str, str]:
    """Identity of a mask file in a fingerprint: its name and its hash.

    Raises:
        FormatError: The file cannot be read.
    """
    try:
        return origin(Path(file))
    except OSError as error:
        raise FormatError(
            f"{file}: cannot be read ({error.strerror or error}); give the COCO JSON file with the masks"
        ) from error


@dataclass(frozen=True)
class GivenMasks:
    """The masks in a file for the images of a source.

    Args:
        coco: The file.
        places: Index in the file of each image that is also in the source.
        left_out: Messages about images and masks without a counterpart.
        orientation: Which picture the masks belong to where their size does not tell: `stored` or `upright`; `auto` is
            `upright` for a file that this package exported, else `stored`.
    """

    coco: CocoFile
    places: dict[str, int]
    left_out: list[str]
    orientation: str = "auto"

    @classmethod
    def open(cls, file: str, image_ids: Sequence[str], orientation: str = "auto") -> "GivenMasks":
        """Open a mask file for the images of a source.

        Raises:
            FormatError: The file is damaged, or contains no image of the source.
        """
        coco = CocoFile(Path(file))
        in_source = set(image_ids)
        places = {name: place for place, name in enumerate(coco.names) if name in in_source}
        if not places:
            raise FormatError(
                f"{file}: contains no image of the source: its first image is {coco.names[0]!r}, the source's is "
                f"{image_ids[0]!r}; file_name must be the path of the image relative to source.path"
            )
        unknown = [name for name in coco.names if name not in in_source]
        without = [name for name in image_ids if name not in places or not coco.count(places[name])]
        left_out = []
        if unknown:
            lost = coco.annotations - coco.strays - sum(coco.count(place) for place in places.values())
            left_out.append(f"{len(unknown)} images are not in the source, with {lost} masks ({_such_as(unknown)})")
        if coco.strays:
            left_out.append(f"{coco.strays} annotations belong to images that the file does not list")
        if without:
            left_out.append(
                f"{len(without)} of the source's {len(image_ids)} images have no mask ({_such_as(without)})"
            )
        categories = coco.head.get("categories")
        if isinstance(categories, list) and len(categories) > 1:
            left_out.append(f"its {len(categories)} categories are ignored, because proposals have no class")
        return cls(coco, places, left_out, orientation)

    def warn_of_left_out(self) -> None:
        """Log a warning for each kind of image or mask that is left out."""
        for line in self.left_out:
            logger.warning("%s: %s", self.coco.path, line)

    def of(
        self, image_id: str, height: int, width: int, dropped: Counter[str], orientation: int = 1
    ) -> Iterator[np.ndarray]:
        """Iterate over the masks of an image, bool [height, width]; what is left out is counted in `dropped`.

        Args:
            image_id: The image.
            height: Height of the upright picture in pixels.
            width: Width of the upright picture in pixels.
            dropped: Number of annotations without a mask and of polygons that have no area, by reason.
            orientation: EXIF orientation of the stored pixels, 1 to 8.

        Raises:
            MaskError: A mask is damaged or has another size than the image.
        """
        place = self.places.get(image_id)
        if place is None:
            return
        upright = (height, width)
        stored = (width, height) if orientation >= FIRST_SWAPPED else upright
        for entry in self.coco.annotations_of(place):
            segmentation = entry.value.get("segmentation")
            if isinstance(segmentation, list):
                kept = [polygon for polygon in segmentation if not is_degenerate(polygon)]
                if len(kept) < len(segmentation):
                    dropped[DEGENERATE] += len(segmentation) - len(kept)
                segmentation = kept
            if not segmentation:
                dropped[NO_MASK] += 1
                continue
            is_upright = orientation == 1 or self._is_upright(place, segmentation, stored, upright)
            try:
                rle = read_segmentation(segmentation, *(upright if is_upright else stored))
            except ValueError as error:
                name = entry.value.get("id", "without `id`")
                raise MaskError(
                    str(self.coco.error(entry, f"annotation {name}: its `segmentation` {error}"))
                ) from error
            mask = masks.decode(rle)
            yield mask if is_upright else masks.turn_upright(mask, orientation)

    def _is_upright(self, place: int, segmentation: Any, stored: tuple[int, int], upright: tuple[int, int]) -> bool:
        """Whether a mask belongs to the upright picture, by its size or else by the setting."""
        size = segmentation.get("size") if isinstance(segmentation, dict) else self.coco.size(place)
        if stored != upright and size is not None and tuple(size) in (stored, upright):
            return tuple(size) == upright
        if self.orientation == "auto":
            info = self.coco.head.get("info")
            return isinstance(info, dict) and RELEASE in info
        return self.orientation == "upright"


def _such_as(names: list[str]) -> str:
    return f"such as {names[0]!r}"
