"""A random sample of a release's added labels to check by hand, stratified by score and spread over the classes.

Strata are ranges of the score. Each gets a share of the sample in proportion to the square root of its size (power
allocation, Bankier, "Power allocations: determining sample sizes for subnational areas", 1988), so that the precision
of every range can be told, and that of all labels nearly as well as by a plain random sample. Within a stratum, labels
are sorted by class, in random order within a class, and every k-th is taken from a random start, so each is as likely
as the others, and every class has its share. The sample is asked in random order: whoever stops early has answered a
smaller random sample.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release

WIDTH = 0.1
"""Width of a range of scores."""


@dataclass(frozen=True)
class Stratum:
    """The added labels in a range of scores.

    Args:
        low, high: Scores from `low` to below `high`; the last range includes 1.
        labels: Their number in the release.
        sampled: Number of them in the sample.
    """

    low: float
    high: float
    labels: int
    sampled: int


@dataclass(frozen=True)
class Item:
    """A label to check: does the image show the class?

    Args:
        image_id: The image.
        label: The class, by index.
        score: The label's score in the release.
        stratum: Index of its stratum.
    """

    image_id: str
    label: int
    score: float
    stratum: int


@dataclass(frozen=True)
class Sample:
    """A sample of a release's added labels.

    Args:
        release: Name, version and the SHA-256 of the manifest of the release.
        seed: Seed of the draw.
        strata: The strata; every added label is in one.
        items: The labels to check in the order of asking.
    """

    release: dict[str, str]
    seed: int
    strata: list[Stratum]
    items: list[Item]

    @property
    def id(self) -> str:
        """A short name that only this sample has."""
        text = repr((self.release["manifest_sha256"], self.seed, len(self.items)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_page(self) -> dict[str, Any]:
        """What the page needs; it writes the strata into its answers."""
        return {
            "id": self.id,
            "release": self.release,
            "strata": [asdict(stratum) for stratum in self.strata],
            "items": [[item.image_id, item.label, item.score, item.stratum] for item in self.items],
        }


@dataclass(frozen=True)
class AddedLabels:
    """The labels of a release that are not given ones and that nobody has checked yet.

    Args:
        image_ids: The image of each, [n].
        labels: Class of each, int64 [n].
        scores: Score of each, float64 [n].
    """

    image_ids: list[str]
    labels: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)


def identity_of(release: Release) -> dict[str, str]:
    """Name, version and the SHA-256 of the manifest of a release."""
    digest = hashlib.sha256((release.folder / MANIFEST).read_bytes()).hexdigest()
    return {"name": release.name, "version": release.version, "manifest_sha256": digest}


def added_labels(release: Release) -> AddedLabels:
    """Read the added labels of a release, in its order."""
    found = [
        (row["image_id"], label, score)
        for row in release.rows("labels")
        for label, score in zip(row["labels"], row["scores"], strict=True)
        if label != row["label"] and label not in (row.get("checked_labels") or ())
    ]
    image_ids, labels, scores = zip(*found, strict=True) if found else ((), (), ())
    return AddedLabels(list(image_ids), np.array(labels, np.int64), np.array(scores, np.float64))


def draw_sample(release: Release, size: int, seed: int = 0) -> Sample:
    """Draw a sample; it contains all added labels if there are no more than `size`.

    Raises:
        ReleaseError: The release has no added label.
    """
    added = added_labels(release)
    if not len(added):
        raise ReleaseError(f"{release.folder}: has no added label to check; build it with a lower --build.threshold")
    generator = np.random.default_rng(seed)
    # A score such as 0.7 is stored as 0.69999999.
    ranges = np.clip(np.floor(added.scores / WIDTH + 1e-6).astype(int), 0, round(1 / WIDTH) - 1)
    used, stratum_of = np.unique(ranges, return_inverse=True)
    counts = np.bincount(stratum_of)
    sizes = allocate(counts, size)
    chosen = [
        _systematic(np.flatnonzero(stratum_of == number), added.labels, int(taken), generator)
        for number, taken in enumerate(sizes)
    ]
    order = generator.permutation(np.concatenate(chosen))
    strata = [
        Stratum(round(int(step) * WIDTH, 6), round((int(step) + 1) * WIDTH, 6), int(count), int(taken))
        for step, count, taken in zip(used, counts, sizes, strict=True)
    ]
    items = [
        Item(added.image_ids[place], int(added.labels[place]), float(added.scores[place]), int(stratum_of[place]))
        for place in order
    ]
    return Sample(identity_of(release), seed, strata, items)


def allocate(counts: np.ndarray, size: int) -> np.ndarray:
    """Share a sample among strata: int64 [strata], each at least 1 and at most its count.

    Args:
        counts: Number of labels in each stratum, int64 [strata]; none is 0.
        size: Size of the sample.
    """
    if size >= counts.sum():
        return counts.copy()
    weights = np.sqrt(counts)
    low, high = 0.0, float(np.sqrt(counts.max()))
    for _ in range(60):  # the factor at which the shares, none above its count, fill the sample
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * weights, counts).sum() < size else (low, middle)
    shares = np.minimum(high * weights, counts)
    sizes = np.maximum(np.floor(shares + 1e-9), 1).astype(np.int64)
    rest = max(0, size - int(sizes.sum()))
    sizes[np.argsort(sizes - shares, kind="stable")[:rest]] += 1  # the largest remainders
    return np.minimum(sizes, counts)


def _systematic(places: np.ndarray, labels: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Take `size` of the places with equal chances, spread over the classes."""
    shuffled = generator.permutation(places)
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    steps = (generator.random() + np.arange(size)) * len(ordered) / max(size, 1)
    return ordered[np.minimum(steps.astype(np.int64), len(ordered) - 1)]
