"""The demo's known truth, and how well a release recovers it.

`truth.jsonl` has one scene a line: image_id, width, height, label (the class that was given), and objects, each with
its class and its whole mask as COCO RLE. Classes are names, so the file stands on its own.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from hf_relabel.errors import RelabelError
from hf_relabel.evaluation.metrics import PRF, micro

FOUND_IOU = 0.5
"""An object is found if some region's mask overlaps its mask by at least this much (intersection over union)."""


@dataclass(frozen=True)
class TruthScore:
    """A release against the truth.

    Args:
        images: Scenes of the truth.
        objects: Objects in them.
        found: Objects whose mask some region recovers, whatever class the region has.
        given: Label sets with nothing but the single given label.
        final: The release's label sets.
        regions_only: Label sets of the regions' scores at the threshold, the given label not taken for granted.
    """

    images: int
    objects: int
    found: int
    given: PRF
    final: PRF
    regions_only: PRF

    @property
    def found_share(self) -> float:
        """Share of the objects that are found, in [0, 1]."""
        return self.found / self.objects

    def lines(self) -> list[str]:
        """The score as text for a terminal."""
        table = [
            ("the given labels alone", self.given),
            ("final labels", self.final),
            ("final labels without the given one", self.regions_only),
        ]
        found = f"{self.found} of {self.objects} objects in {self.images} scenes found ({self.found_share:.1%})"
        return [
            f"{found} at mask IoU >= {FOUND_IOU}",
            f"{'labels against the truth':36}{'precision':>10}{'recall':>10}{'micro-F1':>10}",
            *(f"  {name:34}{score.precision:10.3f}{score.recall:10.3f}{score.f1:10.3f}" for name, score in table),
        ]


def read_truth(path: str | Path) -> list[dict[str, Any]]:
    """The scenes of a truth.jsonl, in its order.

    Raises:
        RelabelError: There is no such file, or it is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise RelabelError(f"{path}: no such file; the demo's scenes are made by: hf-relabel demo")
    scenes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not scenes:
        raise RelabelError(f"{path}: no scenes in it; delete its folder and run hf-relabel demo again")
    return scenes


def score_against_truth(
    scenes: Sequence[dict[str, Any]], rows: Iterable[dict[str, Any]], class_names: Sequence[str], threshold: float
) -> TruthScore:
    """Compare the rows of a release with the truth.

    Args:
        scenes: The truth, from `read_truth`. A scene without a row counts as one where nothing was found.
        rows: Rows of configuration `regions`: image_id, labels, and regions with top_labels, top_scores and
            segmentation. Labels are indices of `class_names`.
        class_names: The release's classes. Others that the truth has can only be missed.
        threshold: Least score that makes a region's class a label of its image (`build.threshold`).

    Raises:
        RelabelError: A row is of no scene in the truth, or its masks have another size.
    """
    names = list(class_names) + sorted(
        {item["class"] for scene in scenes for item in scene["objects"]} - {*class_names}
    )
    index = {name: number for number, name in enumerate(names)}
    place = {scene["image_id"]: number for number, scene in enumerate(scenes)}
    truth, given, final, regions_only = (np.zeros((len(scenes), len(names)), dtype=bool) for _ in range(4))
    for number, scene in enumerate(scenes):
        truth[number, [index[item["class"]] for item in scene["objects"]]] = True
        given[number, index[scene["label"]]] = True
    found = 0
    for row in rows:
        number = place.get(row["image_id"])
        if number is None:
            raise RelabelError(f"{row['image_id']}: in the release but not in the truth; they are of different scenes")
        final[number, row["labels"]] = True
        for region in row["regions"]:
            scores = zip(region["top_labels"], region["top_scores"], strict=True)
            regions_only[number, [label for label, score in scores if score >= threshold]] = True
        found += _found(scenes[number], row["regions"])
    return TruthScore(
        images=len(scenes),
        objects=sum(len(scene["objects"]) for scene in scenes),
        found=found,
        given=micro(given, truth),
        final=micro(final, truth),
        regions_only=micro(regions_only, truth),
    )


def _found(scene: dict[str, Any], regions: list[dict[str, Any]]) -> int:
    """How many of the scene's objects some region recovers."""
    masks = [region["segmentation"] for region in regions]
    objects = [item["segmentation"] for item in scene["objects"]]
    size = [scene["height"], scene["width"]]
    if any(mask["size"] != size for mask in masks):
        raise RelabelError(f"{scene['image_id']}: the release's masks have another size than the scene, {size}")
    if not masks:
        return 0
    overlaps = np.asarray(coco.iou(objects, masks, [0] * len(masks)))  # [objects, masks]
    return int(np.count_nonzero(overlaps.max(axis=1) >= FOUND_IOU))
