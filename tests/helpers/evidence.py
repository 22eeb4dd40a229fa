"""Evidence for the classes of made-up images whose truth is known."""

import numpy as np

from hf_relabel.labeling.calibration import EvidenceCounts


def simulate(images: int, present: float, strength: float, seed: int = 0, classes: int = 20):
    """Images of one given class and each other class with a chance of `present`; the evidence is noisy.

    Every class that is present is equally likely to be the given one.

    Returns:
        Evidence, float [images, classes], truth, bool [images, classes], and the given labels.
    """
    rng = np.random.default_rng(seed)
    truth = rng.random((images, classes)) < present
    truth[np.arange(images), rng.integers(classes, size=images)] = True
    order = rng.random((images, classes)) * truth
    label = order.argmax(axis=1)
    evidence = np.where(truth, strength, -strength) + 1.5 * rng.normal(size=truth.shape)
    return evidence, truth, label


def counted(evidence, label) -> EvidenceCounts:
    """What a calibration is fitted to, counted in pieces, as from shards."""
    counts = EvidenceCounts()
    for start in range(0, len(label), 700):
        part = EvidenceCounts()
        part.add(evidence[start : start + 700], label[start : start + 700])
        counts.merge(part)
    return counts
