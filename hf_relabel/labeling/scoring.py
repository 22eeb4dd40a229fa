"""Score an image's labels from its regions: which kind of evidence to trust, and what it is worth.

Two kinds of evidence (`evidence.py`) suit different images, and no truth says which suits a dataset. Both are
calibrated by the given labels (`calibration.py`), and the one that promises the larger gain is taken: the expected
number of true labels that it adds, minus that of false ones. If even that gain is tiny, the labeler cannot tell other
objects apart, and no label is added at all.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from hf_relabel.labeling.calibration import Calibration, EvidenceCounts, estimate, reliability
from hf_relabel.labeling.evidence import EVIDENCE, margins
from hf_relabel.labeling.labeler import ImageScores, Labeler
from hf_relabel.labeling.regions import ShardRegions, read_regions
from hf_relabel.labeling.selection import in_order
from hf_relabel.run.progress import progress_bar
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import Shard

THRESHOLD = 0.5
"""Threshold at which the gain is estimated: from there on, a label is more likely true than false."""

MIN_GAIN, MIN_GAIN_LABELS = 0.01, 7
"""Smallest estimated gain for which labels are added, as a share of the images and as a number of labels.

Below it, labels were as often wrong as right on photos of PASCAL VOC and ImageNet."""

CHUNK = 4096
"""Regions classified together."""


@torch.inference_mode()
def classify(labeler: Labeler, regions: ShardRegions, folds: np.ndarray) -> torch.Tensor:
    """The labeler's logits for regions, float32 [n, outputs] on the labeler's device.

    Args:
        labeler: The labeler.
        regions: The n regions of a shard.
        folds: Fold of each image, int64 [images]; -1 for images that the labeler was not trained on.
    """
    device = labeler.heads.mean.device
    of_region = torch.from_numpy(folds[regions.image]).to(device)
    parts = [torch.zeros((0, labeler.heads.shape.outputs), device=device)]
    for start in range(0, len(regions), CHUNK):
        part = slice(start, start + CHUNK)
        features = torch.from_numpy(regions.features[part]).to(device).float()
        parts.append(labeler.heads.of_folds(features, of_region[part]))
    return torch.cat(parts)


def measure_scores(
    labeler: Labeler, proposals: ShardFolder, shards: list[Shard], threads: ThreadPoolExecutor, rank: Rank
) -> ImageScores:
    """Calibrate each kind of evidence on the training images and choose one.

    Args:
        labeler: The trained heads.
        proposals: The propose stage.
        shards: All shards of the run.
        threads: Threads that each take a shard.
        rank: This process.
    """
    classes = len(labeler.class_names)

    def count(shard: int) -> dict[str, EvidenceCounts]:
        regions = read_regions(proposals, shard)
        margin = margins(classify(labeler, regions, labeler.folds_of(regions.image_ids)), classes).cpu().numpy()
        counts = {}
        for name, of_images in EVIDENCE.items():
            counts[name] = EvidenceCounts()
            counts[name].add(of_images(margin, regions)[regions.is_read], regions.label[regions.is_read])
        return counts

    total = {name: EvidenceCounts() for name in EVIDENCE}
    with progress_bar(len(shards), "calibration", "shards", rank) as bar:
        for part in in_order(threads, count, len(shards), rank.threads):
            for name, counts in part.items():
                total[name].merge(counts)
            bar.update()
    return choose(total)


def choose(counts: dict[str, EvidenceCounts]) -> ImageScores:
    """Choose the kind of evidence with the larger estimated gain; of equal ones the first.

    Args:
        counts: What was counted of each kind of evidence, on the same images.
    """
    fits = {name: Calibration.fit(counted) for name, counted in counts.items()}
    estimates: dict[str, Any] = {}
    gains = {}
    for name, calibration in fits.items():
        if calibration is None:
            continue
        expected = estimate(calibration, counts[name], THRESHOLD)
        gains[name] = expected.gain
        estimates[name] = {
            **asdict(expected),
            "precision": expected.precision,
            "gain": expected.gain,
            "propensity": calibration.propensity,
            "lift": calibration.lift,
            "reliability": reliability(calibration, counts[name]),
        }
    chosen = max(gains, key=lambda name: gains[name], default=next(iter(counts)))
    adds = bool(gains) and gains[chosen] >= max(MIN_GAIN * counts[chosen].images, MIN_GAIN_LABELS)
    return ImageScores(chosen, fits[chosen], adds, estimates)
