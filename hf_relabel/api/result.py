"""What a `Relabeler` found in an image."""

import importlib
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from hf_relabel.pictures.overlays import draw_overlay
from hf_relabel.vision import masks

FIRST_CATEGORY = 1
"""COCO's category ids start at 1."""


@dataclass(frozen=True)
class Region:
    """A region of an image.

    Args:
        label: Name of its class.
        score: Score of this class for the image, in [0, 1].
        box: Bounding box [x, y, width, height] in pixels.
        area: Its number of pixels.
        segmentation: Its mask as a compressed COCO RLE: `size` [height, width] and `counts`.
        class_id: Index of the class.
    """

    label: str
    score: float
    box: list[float]
    area: int
    segmentation: dict[str, Any] = field(repr=False)
    class_id: int = field(repr=False)

    @cached_property
    def mask(self) -> np.ndarray:
        """Its pixels, bool [height, width]."""
        return masks.decode(self.segmentation)


@dataclass(frozen=True)
class Result:
    """The labels and regions of an image.

    Args:
        name: The image's path, or `image-<number>`.
        labels: Names of the classes in the image, highest score first.
        scores: The score of each, in [0, 1]: the estimated probability that the label is true.
        regions: Regions that show these labels, or are sure of another class.
        error: Why the image could not be read; None if it was read.
        image: The image, upright, RGB; None if it could not be read.
        class_names: All classes that the labeler knows.
    """

    name: str
    labels: list[str]
    scores: list[float]
    regions: list[Region]
    error: str | None = None
    image: Image.Image | None = field(default=None, repr=False)
    class_names: list[str] = field(default_factory=list, repr=False)

    def picture(self) -> Image.Image:
        """Draw the regions that show the image's labels over the image; a small image is enlarged.

        Raises:
            ValueError: The image could not be read.
        """
        if self.image is None:
            raise ValueError(f"{self.name}: {self.error}; there is no picture of it")
        shown = [
            {"label": region.class_id, "score": region.score, "segmentation": region.segmentation}
            for region in self.regions
            if region.label in self.labels
        ]
        return draw_overlay(self.image, shown, self.class_names)

    def show(self) -> None:
        """Display `picture`: below the cell of a notebook, else in the system's image viewer."""
        picture = self.picture()
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        if shell is not None and hasattr(shell, "kernel"):
            importlib.import_module("IPython.display").display(picture)
        else:
            picture.show()

    def to_coco(self) -> dict[str, Any]:
        """Return the image, its regions and the classes as a COCO dataset of one image.

        Category ids are the indices of the classes + 1; masks are compressed RLE, which pycocotools reads.
        """
        width, height = self.image.size if self.image is not None else (0, 0)
        annotations = [
            {
                "id": number,
                "image_id": 1,
                "category_id": region.class_id + FIRST_CATEGORY,
                "segmentation": region.segmentation,
                "bbox": region.box,
                "area": region.area,
                "iscrowd": 0,
                "score": region.score,
            }
            for number, region in enumerate(self.regions, start=1)
        ]
        categories = [
            {"id": number, "name": name, "supercategory": "object"}
            for number, name in enumerate(self.class_names, start=FIRST_CATEGORY)
        ]
        image = {"id": 1, "file_name": self.name, "width": width, "height": height}
        return {"info": {}, "images": [image], "annotations": annotations, "categories": categories}

    @classmethod
    def of_row(cls, name: str, row: dict[str, Any], image: Image.Image, class_names: list[str]) -> "Result":
        """The result of an image from its row of a release."""
        regions = [
            Region(
                label=class_names[region["label"]],
                score=region["score"],
                box=region["bbox"],
                area=region["area"],
                segmentation=region["segmentation"],
                class_id=region["label"],
            )
            for region in row["regions"]
        ]
        labels = [class_names[label] for label in row["labels"]]
        return cls(name, labels, row["scores"], regions, None, image, class_names)
