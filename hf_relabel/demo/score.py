"""The known truth about the demo's scenes, and how well a release recovers it.

`truth.jsonl` has one scene per line: image_id, width, height, label (the class that was given), and objects, each with
its class and its complete mask as COCO RLE. Classes are names, so the file can be read on its own.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from hf_relabel.errors import RelabelError
from hf_relabel.evaluation.ground_truth import class_indices, labels_of
from hf_relabel.evaluation.metrics import PRF, micro, multi_hot

FOUND_IOU = 0.5
"""Minimum intersection over union between the masks of an object and of a region that finds it."""


@dataclass(frozen=True)
class DemoScore:
    """A release compared with the truth.

    Args:
        images: Number of scenes in the truth.
        objects: Number of objects in the scenes.
        found: Number of objects that a region finds, whatever class the region has.
        given: Metrics of the given labels alone.
        final: Metrics of the label sets in the release.
        added: Number of labels that were added to the given ones.
        added_true: Number of true ones among them.
        estimated: Mean score of the added labels, the release's own estimate of how many are true; 0 if there are none.
    """

    images: int
    objects: int
    found: int
    given: PRF
    final: PRF
    added: int
    added_true: int
    estimated: float

    @property
    def found_share(self) -> float:
        """Share of the objects that are found, in [0, 1]."""
        return self.found / self.objects

    def lines(self) -> list[str]:
        """The score as text for a terminal."""
        table = [("the given labels alone", self.given), ("final labels", self.final)]
        share = f"{self.added_true / self.added:.1%} of them true, estimated {self.estimated:.1%}" if self.added else ""
        found = f"{self.found} of {self.objects} objects in {self.images} scenes found ({self.found_share:.1%})"
        return [
            f"{found} at mask IoU >= {FOUND_IOU}",
            f"{'labels compared with the truth':36}{'precision':>10}{'recall':>10}{'micro-F1':>10}",
            *(f"  {name:34}{score.precision:10.3f}{score.recall:10.3f}{score.f1:10.3f}" for name, score in table),
            f"  {self.added} labels added{f', {share}' if share else ''}",
        ]


def read_scenes(path: Path) -> list[dict[str, Any]]:
    """Read the scenes in a truth.jsonl.

    Raises:
        RelabelError: There is no such file, or it is empty.
    """
    if not path.is_file():
        raise RelabelError(f"{path}: no such file; run hf-relabel demo to make the scenes")
    scenes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not scenes:
        raise RelabelError(f"{path}: contains no scenes; delete its folder and run hf-relabel demo again")
    return scenes


def score_against_truth(
    scenes: Sequence[dict[str, Any]], rows: Iterable[dict[str, Any]], class_names: Sequence[str]
) -> DemoScore:
    """Compare the rows of a release with the truth.

    Args:
        scenes: The truth, from `read_scenes`. A scene without a row counts as one in which nothing was found.
        rows: Rows of the configuration `regions`: image_id, label, labels, scores, and regions with segmentation.
            Labels are indices into `class_names`.
        class_names: Class names of the release. Other classes in the truth can only be missed.

    Raises:
        RelabelError: A row belongs to no scene in the truth, or its masks have another size.
    """
    true = [labels_of(scene["objects"], "truth.jsonl") for scene in scenes]
    names = [*class_names, *sorted({str(name) for image in true for name in image} - {*class_names})]
    truth = multi_hot(class_indices(true, names, "truth.jsonl"), len(names))
    given = multi_hot(class_indices([[scene["label"]] for scene in scenes], names, "truth.jsonl"), len(names))
    final = np.zeros_like(truth)
    added: list[tuple[bool, float]] = []
    place = {scene["image_id"]: number for number, scene in enumerate(scenes)}
    found = 0
    for row in rows:
        if row["image_id"] not in place:
            raise RelabelError(f"{row['image_id']}: in the release but not in the truth; run hf-relabel demo again")
        number = place[row["image_id"]]
        final[number, row["labels"]] = True
        for label, score in zip(row["labels"], row["scores"], strict=True):
            if label != row["label"]:
                added.append((bool(truth[number, label]), score))
        found += _found(scenes[number], row["regions"])
    return DemoScore(
        images=len(scenes),
        objects=sum(len(scene["objects"]) for scene in scenes),
        found=found,
        given=micro(given, truth),
        final=micro(final, truth),
        added=len(added),
        added_true=sum(is_true for is_true, _ in added),
        estimated=sum(score for _, score in added) / len(added) if added else 0.0,
    )


def _found(scene: dict[str, Any], regions: list[dict[str, Any]]) -> int:
    """Number of objects in the scene that a region finds."""
    masks = [region["segmentation"] for region in regions]
    objects = [item["segmentation"] for item in scene["objects"]]
    size = [scene["height"], scene["width"]]
    if any(mask["size"] != size for mask in masks):
        raise RelabelError(f"{scene['image_id']}: the masks in the release have another size than the scene, {size}")
    if not masks:
        return 0
    overlaps = np.asarray(coco.iou(objects, masks, [0] * len(masks)))  # [objects, masks]
    return int(np.count_nonzero(overlaps.max(axis=1) >= FOUND_IOU))
