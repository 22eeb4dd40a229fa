"""Statistics of a release, counted while it is written, for the manifest, the card and its plots."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from hf_relabel.schema import NO_LABEL

SCORE_BINS = 20
"""Number of equal bins of the score histogram over [0, 1]."""

TOP_PAIRS = 100
"""Number of label pairs that are listed."""

TOP_REASONS = 20
"""Number of exclusion reasons that are listed; the less frequent ones are summed."""


class ReleaseStatistics:
    """Running counts over the rows of a release. Memory grows with the classes and label pairs, not the images.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.images = 0
        self.unlabeled = 0
        self.with_original = 0
        self.original_first = 0
        self.regions = 0
        self.labels_per_image = np.zeros(1, np.int64)
        self.regions_per_image = np.zeros(1, np.int64)
        self.originals_per_class = np.zeros(num_classes, np.int64)
        self.labels_per_class = np.zeros(num_classes, np.int64)
        self.added_per_class = np.zeros(num_classes, np.int64)
        self.scores_original = np.zeros(SCORE_BINS, np.int64)
        self.scores_added = np.zeros(SCORE_BINS, np.int64)
        self.excluded: Counter[str] = Counter()
        self._pairs = (np.zeros(0, np.int64), np.zeros(0, np.int64))  # codes a * num_classes + b with a < b; counts

    def add(self, table: pa.Table) -> None:
        """Count rows of the `regions` configuration."""
        original = _numpy(table["label"].fill_null(NO_LABEL))
        has_original = original != NO_LABEL
        lengths, labels = _lists(table["labels"])
        scores = _numpy(_flat(table["scores"]))
        of_row = np.repeat(np.arange(len(lengths)), lengths)
        is_original = labels == original[of_row]
        has_labels = lengths > 0
        firsts = (np.cumsum(lengths) - lengths)[has_labels]

        self.images += len(lengths)
        self.with_original += len(np.unique(of_row[is_original]))
        self.original_first += int(np.count_nonzero(is_original[firsts]))
        self.labels_per_image = _add_counts(self.labels_per_image, lengths)
        self.unlabeled += int(np.count_nonzero(~has_original))
        self.originals_per_class += np.bincount(original[has_original], minlength=self.num_classes)
        self.labels_per_class += np.bincount(labels, minlength=self.num_classes)
        self.added_per_class += np.bincount(labels[~is_original], minlength=self.num_classes)
        bins = np.clip((scores * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
        self.scores_original += np.bincount(bins[is_original], minlength=SCORE_BINS)
        self.scores_added += np.bincount(bins[~is_original], minlength=SCORE_BINS)
        self._add_pairs(lengths, labels)

        regions = _numpy(_value_lengths(table["regions"]))
        self.regions += int(regions.sum())
        self.regions_per_image = _add_counts(self.regions_per_image, regions)

    def _add_pairs(self, lengths: np.ndarray, labels: np.ndarray) -> None:
        starts = np.cumsum(lengths) - lengths
        codes = []
        for length in np.unique(lengths[lengths > 1]):
            rows = labels[starts[lengths == length][:, None] + np.arange(length)]  # [images, length]
            first, second = np.triu_indices(length, k=1)
            low, high = np.minimum(rows[:, first], rows[:, second]), np.maximum(rows[:, first], rows[:, second])
            codes.append((low * self.num_classes + high).ravel())
        if codes:
            new, counts = np.unique(np.concatenate(codes), return_counts=True)
            merged, places = np.unique(np.concatenate([self._pairs[0], new]), return_inverse=True)
            sums = np.bincount(places, np.concatenate([self._pairs[1], counts]), len(merged))
            self._pairs = (merged, sums.astype(np.int64))

    def exclude(self, reason: str) -> None:
        """Count an excluded image."""
        self.excluded[reason] += 1

    def result(self) -> dict[str, Any]:
        """Return the statistics as JSON values; shares are fractions of the images, in [0, 1] (0 without images)."""
        labels = int(self.labels_per_class.sum())
        codes, counts = self._pairs
        top = np.lexsort((codes, -counts))[:TOP_PAIRS]
        multi = int(self.labels_per_image[2:].sum())
        reasons = dict(self.excluded.most_common(TOP_REASONS))
        if len(self.excluded) > TOP_REASONS:
            reasons["other reasons"] = self.excluded.total() - sum(reasons.values())
        return {
            "images": self.images,
            "labels": labels,
            "regions": self.regions,
            "mean_labels_per_image": self._share(labels),
            "multi_label_share": self._share(multi),
            **({"images_without_original": self.unlabeled} if self.unlabeled else {}),
            "original_in_labels_share": self._share(self.with_original),
            "original_is_first_share": self._share(self.original_first),
            "labels_per_image": _histogram(self.labels_per_image),
            "regions_per_image": _histogram(self.regions_per_image),
            "originals_per_class": self.originals_per_class.tolist(),
            "labels_per_class": self.labels_per_class.tolist(),
            "added_per_class": self.added_per_class.tolist(),
            "label_pairs": [
                [int(codes[i] // self.num_classes), int(codes[i] % self.num_classes), int(counts[i])] for i in top
            ],
            "scores_original": self.scores_original.tolist(),
            "scores_added": self.scores_added.tolist(),
            "excluded_images": self.excluded.total(),
            "excluded": reasons,
        }

    def _share(self, count: int) -> float:
        return count / self.images if self.images else 0.0


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], type=column.type.value_type)


def _value_lengths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.value_lengths() for chunk in column.chunks], type=pa.int32())


def _lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the lists, int64 [N], and their concatenated values."""
    return _numpy(_value_lengths(column)).astype(np.int64), _numpy(_flat(column))


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def _add_counts(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Add `values` to a growing histogram of small integers."""
    new = np.bincount(values, minlength=len(counts))
    new[: len(counts)] += counts
    return new


def _histogram(counts: np.ndarray) -> dict[str, int]:
    return {str(value): int(count) for value, count in enumerate(counts) if count}
