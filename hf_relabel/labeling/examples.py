"""The labeler's training examples: features of the kept regions, collected in one memory-mapped file."""

import hashlib
import mmap
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hf_relabel.config import Config
from hf_relabel.errors import StageError
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import Shard
from hf_relabel.run.store import cannot_write

ROWS_AT_ONCE = 256
"""Number of rows that are read from the mapped file before its pages are released."""


@dataclass(frozen=True)
class Examples:
    """Training examples of the labeler.

    Args:
        features: float16 [N, 1 + views, dim], memory-mapped.
        targets: Class indices, int64 [N].
        held_out: Whether the region's image is in the validation split, bool [N].
        mapping: Memory map behind `features`.
    """

    features: np.ndarray
    targets: np.ndarray
    held_out: np.ndarray
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


def is_held_out(image_id: str, config: Config) -> bool:
    """Whether an image belongs to the validation split; depends only on its id and the seed."""
    digest = hashlib.sha256(f"{config.run.seed}:validation:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < config.train.val_fraction * 2**64


def gather_examples(
    shards: list[Shard], proposals: ShardFolder, scores: ShardFolder, folder: Path, config: Config
) -> Examples:
    """Collect the kept regions of all shards.

    With `score.merge`, kept proposals of an image with the same class become one region. Its feature is the mean of
    their features, weighted by their numbers of patches, which for disjoint proposals is the mean over their union.

    The features are in a file without a name in `folder`: no other process can change it, and the space is freed
    however this process ends.

    Raises:
        StageError: No region was kept.
        OutputError: The disk is full.
    """
    targets, held_out = array("q"), bytearray()
    shape: tuple[int, ...] = ()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for shard in shards:
                features = proposals.features(shard.index)
                shape = features.shape[1:]
                for target, held, feature in _examples_of(shard.index, features, proposals, scores, config):
                    file.write(feature.tobytes())
                    targets.append(target)
                    held_out.append(held)
            file.flush()
            if targets:
                return map_examples(file, np.frombuffer(targets, np.int64), np.frombuffer(held_out, bool), shape)
    except OSError as error:
        raise cannot_write(folder, error) from error
    raise StageError(
        f"{scores.folder}: no region was kept for training; lower score.tau_label, or set score.force_original "
        "true to train on the whole image if none of its regions is kept"
    )


def _examples_of(
    shard: int, features: np.ndarray, proposals: ShardFolder, scores: ShardFolder, config: Config
) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Yield the kept regions of a shard: class, whether it is held out, and feature, float16 [1 + views, dim]."""
    columns = ["image_id", "feature_row", "proposals.list.element.patches"]
    proposed = proposals.read(shard, columns).to_pylist()
    columns = ["label", "whole_image", "proposals.list.element.kept", "proposals.list.element.target"]
    scored = scores.read(shard, columns).to_pylist()
    for image, score in zip(proposed, scored, strict=True):
        held = is_held_out(image["image_id"], config)
        for target, rows, weights in _regions(image, score, config.score.merge):
            yield target, held, _weighted_mean(features[rows], weights)


def map_examples(file: IO[bytes], targets: np.ndarray, held_out: np.ndarray, shape: tuple[int, ...]) -> Examples:
    """Map examples from an open file of consecutive float16 features, each of the given shape."""
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    features = np.frombuffer(mapping, np.float16).reshape(len(targets), *shape)
    return Examples(features, targets, held_out, mapping)


def _regions(image: dict[str, Any], score: dict[str, Any], merge: bool) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield an image's training regions: class, rows of the shard's features, number of patches of each row."""
    first = image["feature_row"]
    kept = [(k, item["target"]) for k, item in enumerate(score["proposals"]) if item["kept"]]
    if score["whole_image"]:
        yield score["label"], [first], [1]
    groups: dict[tuple[int, int], list[int]] = {}
    for k, target in kept:
        groups.setdefault((target, 0 if merge else k), []).append(k)
    for (target, _), members in groups.items():
        yield target, [first + 1 + k for k in members], [image["proposals"][k]["patches"] for k in members]


def _weighted_mean(features: np.ndarray, weights: list[int]) -> np.ndarray:
    """Average features, float16 [regions, 1 + views, dim], over the regions: float16 [1 + views, dim]."""
    if len(features) == 1:
        return features[0]
    return np.average(features.astype(np.float32), axis=0, weights=weights).astype(np.float16)
