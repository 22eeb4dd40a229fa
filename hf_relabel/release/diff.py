"""Compare two releases: images, labels per class, regions and settings.

Both releases are streamed. Their rows are sorted by image_id, so the two are read side by side in windows that end at
the same id, and memory does not grow with the number of images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.release.reader import Release
from hf_relabel.run.store import differences
from hf_relabel.schema import NO_LABEL

SAME_SCORE = 1e-6
"""Scores that differ by at most this much count as equal."""

MAX_EXAMPLES = 10
"""Number of added and of removed images that are named."""

COLUMNS = ["image_id", "label", "labels", "scores", "label_score", "regions"]


@dataclass
class Comparison:
    """Differences from release `old` to release `new`.

    Args:
        old, new: Names and versions of the releases, for messages.
        class_names: The C classes of both.
        splits_added, splits_gone: Splits that only `new` or only `old` has.
        images_added, images_gone, images_common: Number of images only in `new`, only in `old`, and in both.
        examples_added, examples_gone: Ids of a few added and removed images.
        images_relabeled: Common images with different label sets.
        originals_changed: Common images with different original labels.
        label_scores_changed: Common images with a different `label_score`, measured in both releases.
        labels_added, labels_removed, labels_rescored: int64 [C], labels of common images per class.
        images_other_masks: Common images with different masks.
        images_other_region_labels: Common images with equal masks where a region's best class or score differs.
        regions_old, regions_new: Total number of regions.
        checked_old, checked_new: Number of labels that a person has checked.
        settings: Provenance values that differ, as `name: old -> new`.
    """

    old: str
    new: str
    class_names: list[str]
    splits_added: list[str] = field(default_factory=list)
    splits_gone: list[str] = field(default_factory=list)
    images_added: int = 0
    images_gone: int = 0
    images_common: int = 0
    examples_added: list[str] = field(default_factory=list)
    examples_gone: list[str] = field(default_factory=list)
    images_relabeled: int = 0
    originals_changed: int = 0
    label_scores_changed: int = 0
    labels_added: np.ndarray = field(init=False)
    labels_removed: np.ndarray = field(init=False)
    labels_rescored: np.ndarray = field(init=False)
    images_other_masks: int = 0
    images_other_region_labels: int = 0
    regions_old: int = 0
    regions_new: int = 0
    checked_old: int = 0
    checked_new: int = 0
    settings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("labels_added", "labels_removed", "labels_rescored"):
            setattr(self, name, np.zeros(len(self.class_names), np.int64))

    def classes_by_change(self) -> list[int]:
        """Classes with any change, the most frequently changed first."""
        changes = self.labels_added + self.labels_removed + self.labels_rescored
        order = np.argsort(-changes, kind="stable")
        return [int(label) for label in order if changes[label]]


def compare(old: Release, new: Release) -> Comparison:
    """Compare two releases.

    Args:
        old: The earlier release.
        new: The later release.

    Raises:
        ReleaseError: A file cannot be read.
    """
    names, old_ids, new_ids = _common_classes(old, new)
    result = Comparison(f"{old.name} {old.version}", f"{new.name} {new.version}", names)
    result.settings = changed_settings(old, new)
    result.checked_old, result.checked_new = checked_labels(old), checked_labels(new)
    result.splits_added = [split for split in new.splits if split not in old.splits]
    result.splits_gone = [split for split in old.splits if split not in new.splits]
    for split in dict.fromkeys([*old.splits, *new.splits]):
        parts = [release.only(split) if split in release.splits else None for release in (old, new)]
        for before, after in _windows(*parts):
            _compare_window(result, _translated(before, old_ids), _translated(after, new_ids))
    return result


def changed_settings(old: Release, new: Release) -> list[str]:
    """Provenance values that differ, as `name: old -> new`, without the version and what follows from the settings."""
    derived = (
        "fingerprint", "counters", "labeler", "machines", "scores", "source_fingerprint",
        "corrections", "checked", "recalibration",
    )  # fmt: skip

    def chosen(release: Release) -> dict[str, Any]:
        return {key: value for key, value in release.provenance.items() if key not in derived}

    lines = differences(chosen(old), chosen(new))
    return [line.removeprefix("config.") for line in lines if not line.startswith("config.build.version")]


def checked_labels(release: Release) -> int:
    """Number of labels of a release that a person has checked."""
    count = (release.provenance.get("corrections") or {}).get("labels", 0)
    return count if isinstance(count, int) else 0


def _common_classes(old: Release, new: Release) -> tuple[list[str], np.ndarray | None, np.ndarray | None]:
    """The classes of both releases, and the index of each release's classes among them (None: unchanged)."""
    if old.class_names == new.class_names:
        return new.class_names, None, None
    names = [*new.class_names, *(name for name in old.class_names if name not in set(new.class_names))]
    index = {name: number for number, name in enumerate(names)}
    old_ids, new_ids = (np.array([index[name] for name in release.class_names]) for release in (old, new))
    return names, old_ids, new_ids


def _windows(old: Release | None, new: Release | None) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Iterate over the rows of a split of both releases, cut at the same image ids; None for one without the split."""
    streams = [iter(()) if release is None else release.batches("regions", COLUMNS) for release in (old, new)]
    pending: list[pa.Table | None] = [_next(stream) for stream in streams]
    while any(table is not None for table in pending):
        last = min(table["image_id"][-1].as_py() for table in pending if table is not None)
        window: list[pa.Table | None] = []
        for side, table in enumerate(pending):
            if table is None:
                window.append(None)
                continue
            taken = pc.sum(pc.less_equal(table["image_id"], last)).as_py() or 0
            window.append(table.slice(0, taken))
            rest = table.slice(taken)
            pending[side] = rest if len(rest) else _next(streams[side])
        empty = next(table for table in window if table is not None).slice(0, 0)
        before, after = (empty if table is None else table for table in window)
        yield before, after


def _next(stream: Iterator[pa.RecordBatch]) -> pa.Table | None:
    batch = next((batch for batch in stream if len(batch)), None)
    return None if batch is None else pa.Table.from_batches([batch])


@dataclass
class _Side:
    """Rows of one release in a window as arrays; lists are flattened, with the row of each entry."""

    image_ids: pa.Array
    original: np.ndarray
    label_rows: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    label_scores: np.ndarray
    region_counts: np.ndarray
    regions: pa.StructArray
    region_labels: np.ndarray


def _translated(table: pa.Table, ids: np.ndarray | None) -> _Side:
    columns = {name: table[name].combine_chunks() for name in COLUMNS}
    lengths = columns["labels"].value_lengths().to_numpy(zero_copy_only=False)
    regions = columns["regions"].flatten()

    def translate(labels: np.ndarray) -> np.ndarray:
        return labels if ids is None else np.where(labels == NO_LABEL, NO_LABEL, ids[labels])

    return _Side(
        image_ids=columns["image_id"],
        original=translate(columns["label"].fill_null(NO_LABEL).to_numpy()),
        label_rows=np.repeat(np.arange(len(table)), lengths),
        labels=translate(columns["labels"].flatten().to_numpy()),
        scores=columns["scores"].flatten().to_numpy(),
        label_scores=columns["label_score"].to_numpy(zero_copy_only=False),
        region_counts=columns["regions"].value_lengths().to_numpy(zero_copy_only=False),
        regions=regions,
        region_labels=translate(regions.field("label").to_numpy()),
    )


def _compare_window(result: Comparison, old: _Side, new: _Side) -> None:
    in_old = pc.index_in(new.image_ids, value_set=old.image_ids)
    old_rows = in_old.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    is_common = in_old.is_valid().to_numpy(zero_copy_only=False)
    new_rows = np.flatnonzero(is_common)
    is_gone = np.ones(len(old.image_ids), bool)
    is_gone[old_rows] = False

    result.images_common += len(new_rows)
    result.images_added += len(new.image_ids) - len(new_rows)
    result.images_gone += int(is_gone.sum())
    result.regions_old += int(old.region_counts.sum())
    result.regions_new += int(new.region_counts.sum())
    for examples, ids, chosen in (
        (result.examples_added, new.image_ids, ~is_common),
        (result.examples_gone, old.image_ids, is_gone),
    ):
        first = np.flatnonzero(chosen)[: MAX_EXAMPLES - len(examples)]
        examples += ids.take(pa.array(first)).to_pylist()

    result.originals_changed += int(np.count_nonzero(old.original[old_rows] != new.original[new_rows]))
    # The difference to a missing score is NaN, which is not above any number.
    moved = np.abs(old.label_scores[old_rows] - new.label_scores[new_rows]) > SAME_SCORE
    result.label_scores_changed += int(np.count_nonzero(moved))
    _compare_labels(result, old, new, old_rows, new_rows)
    _compare_regions(result, old, new, old_rows, new_rows)


def _compare_labels(result: Comparison, old: _Side, new: _Side, old_rows: np.ndarray, new_rows: np.ndarray) -> None:
    """Match (image, class) pairs of the common images: `old_rows[i]` and `new_rows[i]` are the same image."""
    classes = len(result.class_names)
    old_keys, old_scores = _label_keys(old, old_rows, classes)
    new_keys, new_scores = _label_keys(new, new_rows, classes)
    added, removed = np.setdiff1d(new_keys, old_keys), np.setdiff1d(old_keys, new_keys)
    common, old_places, new_places = np.intersect1d(old_keys, new_keys, return_indices=True)
    rescored = common[np.abs(old_scores[old_places] - new_scores[new_places]) > SAME_SCORE]
    for total, keys in (
        (result.labels_added, added),
        (result.labels_removed, removed),
        (result.labels_rescored, rescored),
    ):
        total += np.bincount(keys % classes, minlength=classes)
    result.images_relabeled += len(np.unique(np.concatenate([added, removed]) // classes))


def _label_keys(side: _Side, rows: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Key (image * classes + class) and score of each label in the given rows."""
    place = np.full(len(side.image_ids), -1)
    place[rows] = np.arange(len(rows))
    image = place[side.label_rows]
    chosen = image >= 0
    return image[chosen] * classes + side.labels[chosen], side.scores[chosen]


def _compare_regions(result: Comparison, old: _Side, new: _Side, old_rows: np.ndarray, new_rows: np.ndarray) -> None:
    """Compare the regions of the common images in order, where both have the same number of regions."""
    same_count = old.region_counts[old_rows] == new.region_counts[new_rows]
    counts = new.region_counts[new_rows[same_count]]
    image = np.repeat(np.arange(len(counts)), counts)
    old_places = _region_places(old, old_rows[same_count])
    new_places = _region_places(new, new_rows[same_count])
    before, after = old.regions.take(pa.array(old_places)), new.regions.take(pa.array(new_places))
    same_mask = np.ones(len(image), bool)
    for masks in zip(before.field("segmentation").flatten(), after.field("segmentation").flatten(), strict=True):
        if pa.types.is_list(masks[0].type):
            sides = [mask.flatten().to_numpy().reshape(-1, 2) for mask in masks]
            same_mask &= (sides[0] == sides[1]).all(axis=1)
        else:
            same_mask &= pc.equal(*masks).to_numpy(zero_copy_only=False)
    scores = [side.field("score").to_numpy() for side in (before, after)]
    same_label = old.region_labels[old_places] == new.region_labels[new_places]
    same_label &= np.abs(scores[0] - scores[1]) <= SAME_SCORE
    other_masks = np.zeros(len(counts), bool)
    other_masks[image[~same_mask]] = True
    other_labels = np.zeros(len(counts), bool)
    other_labels[image[~same_label]] = True
    result.images_other_masks += int(np.count_nonzero(~same_count) + other_masks.sum())
    result.images_other_region_labels += int((other_labels & ~other_masks).sum())


def _region_places(side: _Side, rows: np.ndarray) -> np.ndarray:
    """Indices of the regions of the given rows among all regions of the window, row by row."""
    starts = np.cumsum(side.region_counts) - side.region_counts
    counts = side.region_counts[rows]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts[rows], counts) + within
