"""Score regions by ReLabel's label maps, and keep those that the paper keeps (arXiv 2603.05729, section 3)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hf_relabel.config import ScoreConfig
from hf_relabel.labeling.assignment import NOTHING, Assignment, best_of_images, is_primary
from hf_relabel.labeling.label_maps import (
    LabelMapError,
    check_label_maps,
    label_map_path,
    read_label_map,
    score_under_mask,
)
from hf_relabel.labeling.regions import ShardRegions
from hf_relabel.vision import masks

KEPT = "kept by its label map"
BELOW_ORIGINAL = "original label below tau_label"
BELOW_TOP1 = "top-1 below tau_label"
NO_SUPPORT = "the label map supports no class"
NOT_PRIMARY = "merged region or window with a class"


class LabelMapScorer:
    """Scores a shard's regions under their masks.

    MaskCut's and a file's proposals are scored under their outlines at the image's size, as in the paper, and may train
    as a class. Merged regions and windows are scored under their patches and serve as background only.
    """

    def __init__(self, config: ScoreConfig, classes: int, threads: ThreadPoolExecutor):
        self.config = config
        self.folder = check_label_maps(config.label_maps or "")
        self.classes = classes
        self.threads = threads

    def score(self, rows: list[dict[str, Any]], regions: ShardRegions) -> tuple[np.ndarray, Assignment, dict[int, str]]:
        """Score the regions of a shard; arguments and results as in `stages.score.Scorer`."""
        primary = is_primary(regions)
        bounds = np.searchsorted(regions.image, np.arange(len(rows) + 1))
        probabilities = np.zeros((len(regions), self.classes), np.float32)
        failed: dict[int, str] = {}

        def score_image(number: int) -> None:
            mine = range(bounds[number], bounds[number + 1])
            if rows[number]["error"] is not None:
                return
            try:
                label_map = read_label_map(label_map_path(self.folder, rows[number]["image_id"]), self.classes)
            except LabelMapError as error:
                failed[number] = str(error)
                return
            for at in mine:
                mask = _mask(rows[number], regions, at, bool(primary[at]))
                probabilities[at] = score_under_mask(label_map, mask, self.classes).numpy()

        list(self.threads.map(score_image, range(len(rows))))
        return probabilities, self._assign(regions, probabilities, primary), failed

    def _assign(self, regions: ShardRegions, probabilities: np.ndarray, primary: np.ndarray) -> Assignment:
        config, places = self.config, np.arange(len(regions))
        targets = np.full(len(regions), NOTHING, np.int64)
        reasons = np.full(len(regions), NOT_PRIMARY, object)
        highest = probabilities.max(axis=1, initial=0)
        if config.keep == "top1":
            kept, target, reason = highest >= config.tau_label, probabilities.argmax(axis=1), BELOW_TOP1
        else:
            of_given = probabilities[places, regions.given]
            kept, target, reason = of_given >= config.tau_label, regions.given, BELOW_ORIGINAL
            if config.keep == "best":
                kept[best_of_images(np.where(primary, of_given, -1), regions.image)] = True
        kept &= primary
        unsupported = ~kept & (highest < config.tau_background)
        reasons[primary] = reason
        reasons[unsupported] = NO_SUPPORT
        reasons[kept] = KEPT
        targets[unsupported] = self.classes
        targets[kept] = target[kept]
        return Assignment(targets, reasons)


def _mask(row: dict[str, Any], regions: ShardRegions, at: int, exact: bool) -> np.ndarray:
    """The mask of a region: at the image's size, bool [height, width], if `exact`, else its patches, bool [h, w]."""
    on_grid = regions.masks[at].reshape(regions.grid)
    if not exact:
        return on_grid
    segmentation = row["proposals"][regions.number[at]]["segmentation"]
    if segmentation is not None and segmentation["counts"] is not None:
        return masks.decode(segmentation)
    return masks.to_image(on_grid, (row["width"], row["height"]))
