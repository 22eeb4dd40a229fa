"""The labeler's training examples: the regions that train as a class or as background, with their features."""

import hashlib
import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hf_relabel.config import Config, TrainConfig
from hf_relabel.errors import StageError
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import Shard
from hf_relabel.run.store import cannot_write
from hf_relabel.schema import TARGET_BACKGROUND

ROWS_AT_ONCE = 256
"""Number of rows that are read from the mapped file before its pages are released."""


@dataclass(frozen=True)
class TrainingRegion:
    """A region that the labeler trains on.

    Args:
        image: Number of its image in the shard.
        target: Class, or the number of classes for background.
        rows: Its rows in the shard's features; several for regions that are merged into one.
        views: Number of views that follow each row.
        weights: Number of patches of each row.
    """

    image: int
    target: int
    rows: list[int]
    views: int
    weights: list[int]


def training_regions(
    shard: int, proposals: ShardFolder, scores: ShardFolder, classes: int, config: TrainConfig, merge: bool
) -> tuple[list[str | None], list[TrainingRegion]]:
    """Read which regions of a shard the labeler trains on.

    Without `train.background`, regions that train as background are left out.

    Args:
        shard: Number of the shard.
        proposals: The propose stage.
        scores: The score stage.
        classes: Number of classes.
        config: `background` is read.
        merge: Whether an image's proposals with the same class become one region (`score.merge`).

    Returns:
        The hashes of the shard's images, and its regions, image by image.
    """
    parts = ("feature_row", "views", "patches")
    columns = ["sha256", "feature_row", "window_row", *(f"proposals.list.element.{part}" for part in parts)]
    proposed = proposals.read(shard, columns).to_pylist()
    columns = ["label", "whole_image", "proposals.list.element.target", "windows.list.element.target"]
    scored = scores.read(shard, columns).to_pylist()
    found: list[TrainingRegion] = []
    for number, (image, score) in enumerate(zip(proposed, scored, strict=True)):
        found += _of_image(number, image, score, classes, config.background, merge)
    return [image["sha256"] for image in proposed], found


def _of_image(
    number: int, image: dict[str, Any], score: dict[str, Any], classes: int, background: bool, merge: bool
) -> Iterator[TrainingRegion]:
    if score["whole_image"]:
        yield TrainingRegion(number, score["label"], [image["feature_row"]], 0, [1])
    groups: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for place, (proposal, item) in enumerate(zip(image["proposals"], score["proposals"], strict=False)):
        target = classes if item["target"] == TARGET_BACKGROUND else item["target"]
        if target < 0 or (target == classes and not background):
            continue
        own = 0 if merge and target < classes else 1 + place
        groups.setdefault((target, proposal["views"], own), []).append(proposal)
    for (target, stored, _), members in groups.items():
        rows, weights = [item["feature_row"] for item in members], [item["patches"] for item in members]
        yield TrainingRegion(number, target, rows, stored, weights)
    if background:
        for place, item in enumerate(score["windows"]):
            if item["target"] == TARGET_BACKGROUND:
                yield TrainingRegion(number, classes, [image["window_row"] + place], 0, [1])


def pooled_feature(region: TrainingRegion, features: np.ndarray, view: int = 0) -> np.ndarray:
    """A region's feature in one view, float16 [dim], from its shard's, float16 [rows, dim].

    View 0 has all patches. A region without stored views is the same in each. The feature of merged regions is the mean
    of their features, weighted by their numbers of patches, which for disjoint regions is the mean over their union.
    """
    offset = min(view, region.views)
    parts = features[[row + offset for row in region.rows]]
    if len(parts) == 1:
        return parts[0]
    return np.average(parts.astype(np.float32), axis=0, weights=region.weights).astype(np.float16)


@dataclass(frozen=True)
class Examples:
    """Training examples of heads that are trained by gradient descent.

    Args:
        features: float16 [N, 1 + views, dim], memory-mapped.
        targets: Class, or the number of classes for background, int64 [N].
        held_out: Whether the region's image is in the validation split, bool [N].
        fold: Fold of the region's image, int64 [N].
        order: The rows in the order of their images' hashes, int64 [N]: the same whatever the images are called.
        mapping: Memory map behind `features`.
    """

    features: np.ndarray
    targets: np.ndarray
    held_out: np.ndarray
    fold: np.ndarray
    order: np.ndarray
    mapping: mmap.mmap

    def take(self, rows: np.ndarray, views: np.ndarray | int) -> np.ndarray:
        """Copy the features of some rows.

        Pages are released after every few rows. Reading a row also loads the rows around it, so the process would
        otherwise hold the whole file in memory eventually.

        Args:
            rows: Row numbers, int [n].
            views: View of each row, int [n], or one view for all.

        Returns:
            float16 [n, dim].
        """
        views = np.broadcast_to(views, rows.shape)
        taken = np.empty((len(rows), self.features.shape[2]), np.float16)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            taken[part] = self.features[rows[part], views[part]]
            if hasattr(mmap, "MADV_DONTNEED"):
                self.mapping.madvise(mmap.MADV_DONTNEED)
        return taken


def is_held_out(sha256: str | None, config: Config) -> bool:
    """Whether an image belongs to the validation split; depends only on its file's hash and the seed."""
    digest = hashlib.sha256(f"{config.run.seed}:validation:{sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < config.train.val_fraction * 2**64


def gather_examples(
    shards: list[Shard],
    proposals: ShardFolder,
    scores: ShardFolder,
    folder: Path,
    config: Config,
    classes: int,
    folds_of: Callable[[list[str | None]], np.ndarray],
) -> Examples:
    """Collect the training regions of all shards in one memory-mapped file.

    The features are in a file without a name in `folder`: no other process can change it, and the space is freed
    however this process ends.

    Args:
        shards: All shards of the run.
        proposals: The propose stage.
        scores: The score stage.
        folder: Where the file lies.
        config: Configuration of the run.
        classes: Number of classes.
        folds_of: Gives the fold of each image, int64, from their hashes.

    Raises:
        StageError: No region trains as a class.
        OutputError: The disk is full.
    """
    targets, fold, keys, held_out = array("q"), array("q"), array("Q"), bytearray()
    views, dim = proposals.fingerprint.inputs["propose"]["views"], 0
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for shard in shards:
                features = proposals.features(shard.index)
                dim = features.shape[1]
                sha256, regions = training_regions(
                    shard.index, proposals, scores, classes, config.train, config.score.merge
                )
                of_image = folds_of(sha256)
                held = [is_held_out(image, config) for image in sha256]
                for region in regions:
                    example = [pooled_feature(region, features, view) for view in range(1 + views)]
                    file.write(np.stack(example).tobytes())
                    targets.append(region.target)
                    fold.append(int(of_image[region.image]))
                    keys.append(int((sha256[region.image] or "0")[:16], 16))
                    held_out.append(held[region.image])
            file.flush()
            if any(target < classes for target in targets):
                arrays = (
                    np.frombuffer(targets, np.int64),
                    np.frombuffer(held_out, bool),
                    np.frombuffer(fold, np.int64),
                    np.argsort(np.frombuffer(keys, np.uint64), kind="stable"),
                )
                return map_examples(file, *arrays, (1 + views, dim))
    except OSError as error:
        raise cannot_write(folder, error) from error
    raise no_region(scores.folder)


def no_region(folder: Path) -> StageError:
    """The error for scores in which no region trains as a class."""
    return StageError(
        f"{folder}: no region was kept for training; lower score.tau_label, or set score.force_original true to train "
        "on the whole image if none of its regions is kept"
    )


def map_examples(
    file: IO[bytes],
    targets: np.ndarray,
    held_out: np.ndarray,
    fold: np.ndarray,
    order: np.ndarray,
    shape: tuple[int, ...],
) -> Examples:
    """Map examples from an open file of consecutive float16 features, each of the given shape."""
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    features = np.frombuffer(mapping, np.float16).reshape(len(targets), *shape)
    return Examples(features, targets, held_out, fold, order, mapping)
