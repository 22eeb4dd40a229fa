"""Compare ways to label the same images: with masks and without, with a labeler and without (`ways.py`).

All of them start from the given labels and from the features that `propose` stored. Labels with a score of at least 0.5
are added to the given one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_relabel.comparison.crops import Encoder
from hf_relabel.comparison.ways import Images, Ways, job_with_proposals
from hf_relabel.config import ScoreConfig
from hf_relabel.errors import RelabelError
from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.ground_truth import Truth
from hf_relabel.evaluation.rolled_up import rolled_up
from hf_relabel.review.photos import Photos
from hf_relabel.sources.hierarchy import Hierarchy

THRESHOLD = 0.5
"""Smallest score of a label that is added."""


@dataclass(frozen=True)
class Row:
    """What a way to label images achieves.

    Args:
        f1: Micro F1 of the final labels.
        best_f1: The same at the threshold that would be best, which only the truth knows: how well labels are ranked.
        added: Number of added labels.
        precision: Share of true ones among them; NaN if there are none.
        calibration_error: Mean difference between the scores of added labels and the share of true ones, in bins of
            their score; NaN if there are none.
        coverage: Share of the true labels that were not given that it added.
        seconds: Time beyond the `propose` stage.
        rolled_f1: Micro F1 with all ancestors of the labels, where the parents of classes are known.
    """

    f1: float
    best_f1: float
    added: int
    precision: float
    calibration_error: float
    coverage: float
    seconds: float
    rolled_f1: float | None = None


@dataclass(frozen=True)
class LabelComparison:
    """Ways to label images, compared.

    Args:
        images: Number of images.
        classes: Number of classes.
        given_f1: Micro F1 of the given labels alone.
        missing: Number of true labels that were not given.
        rows: What each way achieves, by name.
        left_out: Why a way was left out, by name.
        given_rolled_f1: Micro F1 of the given labels with all ancestors, where the parents of classes are known.
    """

    images: int
    classes: int
    given_f1: float
    missing: int
    rows: dict[str, Row]
    left_out: dict[str, str]
    given_rolled_f1: float | None = None


def compare_labels(
    run: Path,
    truth: Truth,
    work: Path,
    *,
    label_maps: Path | None = None,
    photos: Photos | None = None,
    encoder: Encoder | None = None,
    hierarchy: Hierarchy | None = None,
    seed: int = 0,
    tick: Callable[[str], None] = lambda name: None,
) -> LabelComparison:
    """Label the images of a run in every way, and compare the labels with the truth.

    Args:
        run: Folder of a run whose `propose` stage is complete; nothing in it is changed.
        truth: The true labels.
        work: Empty folder for the stages' files.
        label_maps: Folder with ReLabel's label maps; None makes some by a classifier of whole images.
        photos: The images, for masked crops; None leaves these out.
        encoder: Gives the global features of masked crops and of whole images; None leaves masked crops out.
        hierarchy: The ancestors of the classes, to compare along them too.
        seed: Seed of the methods.
        tick: Called with the name of each way before it starts.

    Raises:
        StageError: `propose` is not complete, or an image has no label.
        SourceError: The truth does not fit the images.
    """
    data = Images.read(job_with_proposals(run, work / "data", ScoreConfig(), seed))
    sets = truth.of(data.image_ids, data.class_names)
    given = np.zeros(sets.shape, bool)
    given[np.arange(len(sets)), data.labels] = True
    ways = Ways(run, work, data, label_maps, photos, encoder, seed)
    rows: dict[str, Row] = {}
    left_out: dict[str, str] = {}
    for name, way in ways.all().items():
        tick(name)
        start = time.perf_counter()
        try:
            scores = way()
        except RelabelError as error:
            left_out[name] = str(error)
            continue
        rows[name] = _row(scores, given, sets, time.perf_counter() - start, hierarchy)
    missing = int(np.count_nonzero(sets & ~given))
    return LabelComparison(
        *(len(sets), sets.shape[1], metrics.micro(given, sets).f1, missing, rows, left_out),
        given_rolled_f1=_rolled_f1(given, sets, hierarchy),
    )


def _row(scores: np.ndarray, given: np.ndarray, truth: np.ndarray, seconds: float, hierarchy: Hierarchy | None) -> Row:
    added = (scores >= THRESHOLD) & ~given
    true = truth[added]
    missing = int(np.count_nonzero(truth & ~given))
    return Row(
        f1=metrics.micro(given | added, truth).f1,
        best_f1=_best_f1(scores, given, truth),
        added=int(added.sum()),
        precision=float(true.mean()) if len(true) else math.nan,
        calibration_error=metrics.expected_calibration_error(metrics.reliability(scores[added], true)),
        coverage=int(true.sum()) / missing if missing else math.nan,
        seconds=seconds,
        rolled_f1=_rolled_f1(given | added, truth, hierarchy),
    )


def _rolled_f1(labels: np.ndarray, truth: np.ndarray, hierarchy: Hierarchy | None) -> float | None:
    rows, classes = np.nonzero(labels)
    return None if hierarchy is None else rolled_up(rows, classes, truth, hierarchy).all.f1


def _best_f1(scores: np.ndarray, given: np.ndarray, truth: np.ndarray) -> float:
    """The highest micro F1 over all thresholds, the given labels always listed."""
    ranked = np.where(given, np.inf, scores)
    listed = ranked > 0
    return float(metrics.threshold_curve(ranked[listed], truth[listed], int(truth.sum())).f1.max())
