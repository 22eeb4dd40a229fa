"""Score an image's labels from its regions: which kind of evidence to trust, and what it is worth.

Two kinds of evidence (`evidence.py`) suit different images, and no truth says which suits a dataset. Both are
calibrated by the given labels (`calibration.py`), and the one that promises the larger gain is taken: the expected
number of true labels that it adds, minus that of false ones. If even that gain is tiny, the labeler cannot tell other
objects apart, and no label is added at all.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from hf_relabel.labeling.calibration import Calibration, EvidenceCounts, SmallerFit, estimate, reliability
from hf_relabel.labeling.evidence import EVIDENCE, margins
from hf_relabel.labeling.labeler import Heads, ImageScores, Labeler
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


@dataclass(frozen=True)
class HalfHeads:
    """Heads that were fitted on one half of the folds each, for the learning curve of the calibration.

    Args:
        heads: The heads, two for each way to halve the folds.
        of_fold: For each way, the head that left out a fold; int64 [ways, folds].
        share: Their number of folds, relative to that of the heads which leave out one fold.
    """

    heads: Heads
    of_fold: np.ndarray
    share: float


def classify(labeler: Labeler, regions: ShardRegions, folds: np.ndarray) -> torch.Tensor:
    """The labeler's logits for regions, float32 [n, outputs] on the labeler's device.

    Args:
        labeler: The labeler.
        regions: The n regions of a shard.
        folds: Fold of each image, int64 [images]; -1 for images that the labeler was not trained on.
    """
    return _logits(labeler.heads, regions, folds + 1)


@torch.inference_mode()
def _logits(heads: Heads, regions: ShardRegions, head: np.ndarray) -> torch.Tensor:
    """Logits of the regions by the head of their image, int64 [images]."""
    device = heads.mean.device
    of_region = torch.from_numpy(head[regions.image]).to(device)
    parts = [torch.zeros((0, heads.shape.outputs), device=device)]
    for start in range(0, len(regions), CHUNK):
        part = slice(start, start + CHUNK)
        features = torch.from_numpy(regions.features[part]).to(device).float()
        parts.append(heads.select(features, of_region[part]))
    return torch.cat(parts)


def measure_scores(
    labeler: Labeler,
    halves: HalfHeads | None,
    proposals: ShardFolder,
    shards: list[Shard],
    threads: ThreadPoolExecutor,
    rank: Rank,
) -> ImageScores:
    """Calibrate each kind of evidence on the training images and choose one.

    Args:
        labeler: The trained heads.
        halves: Heads fitted on half of the images; None takes the labeler for fully trained.
        proposals: The propose stage.
        shards: All shards of the run.
        threads: Threads that each take a shard.
        rank: This process.
    """
    classes = len(labeler.class_names)

    def add(counts: dict[str, EvidenceCounts], logits: torch.Tensor, regions: ShardRegions) -> None:
        margin = margins(logits, classes).cpu().numpy()
        for name, of_images in EVIDENCE.items():
            counts[name].add(of_images(margin, regions)[regions.is_read], regions.label[regions.is_read])

    def count(shard: int) -> tuple[dict[str, EvidenceCounts], dict[str, EvidenceCounts]]:
        regions = read_regions(proposals, shard)
        folds = labeler.folds_of(regions.sha256)
        full, half = _no_counts(), _no_counts()
        add(full, classify(labeler, regions, folds), regions)
        if halves is not None:
            for of_fold in halves.of_fold:
                add(half, _logits(halves.heads, regions, of_fold[folds]), regions)
        return full, half

    full, half = _no_counts(), _no_counts()
    with progress_bar(len(shards), "calibration", "shards", rank) as bar:
        for parts in in_order(threads, count, len(shards), rank.threads):
            for total, part in zip((full, half), parts, strict=True):
                for name, counts in part.items():
                    total[name].merge(counts)
            bar.update()
    return choose(full, {name: SmallerFit(half[name], halves.share) for name in half} if halves else {})


def _no_counts() -> dict[str, EvidenceCounts]:
    return {name: EvidenceCounts() for name in EVIDENCE}


def choose(counts: dict[str, EvidenceCounts], smaller: Mapping[str, SmallerFit] = MappingProxyType({})) -> ImageScores:
    """Choose the kind of evidence with the larger estimated gain; of equal ones the first.

    Args:
        counts: What was counted of each kind of evidence, on the same images.
        smaller: The same by heads fitted on fewer images.
    """
    fits = {name: Calibration.fit(counted, smaller.get(name)) for name, counted in counts.items()}
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
            "still_to_learn": calibration.still_to_learn,
            "lift": calibration.lift,
            "reliability": reliability(calibration, counts[name]),
        }
    chosen = max(gains, key=lambda name: gains[name], default=next(iter(counts)))
    adds = bool(gains) and gains[chosen] >= max(MIN_GAIN * counts[chosen].images, MIN_GAIN_LABELS)
    return ImageScores(chosen, fits[chosen], adds, estimates)
