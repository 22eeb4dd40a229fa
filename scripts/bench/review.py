r"""How good a review's numbers are: a simulated reviewer answers from the truth, with mistakes, once per seed.

    python scripts/bench/review.py runs/voc/release --truth truth.jsonl --answers 200 --mistakes 0.05 --seeds 50

For each seed, a sample of the added labels is drawn and answered. The report says how often the 95% interval contains
the true precision of all added labels, how wide it is, and the F1 of all labels before, after the corrections, and
after the corrections with the scores recalibrated: labels that are not checked are listed if their new score reaches
the threshold.
"""

import argparse
from pathlib import Path
from typing import Any

from timing import use_one_thread, write_report

use_one_thread()

import numpy as np  # noqa: E402

from hf_relabel.evaluation import metrics  # noqa: E402
from hf_relabel.evaluation.ground_truth import read_truth  # noqa: E402
from hf_relabel.release.label_table import LabelTable, label_table  # noqa: E402
from hf_relabel.release.reader import Release  # noqa: E402
from hf_relabel.review.answers import Answer, Review  # noqa: E402
from hf_relabel.review.checked import check  # noqa: E402
from hf_relabel.review.estimates import Interval, corrected  # noqa: E402
from hf_relabel.review.sample import Sample, draw_sample  # noqa: E402


def main() -> None:
    options = _options()
    release = Release.open(options.release)
    table = label_table(release)
    common, _ = read_truth(options.truth).within(table.class_names)
    truth = common.of(table.image_ids, table.class_names)
    added = table.classes != table.original[table.rows]
    share = float(truth[table.rows[added], table.classes[added]].mean())
    print(f"{int(added.sum())} added labels, {share:.4f} of them true")
    print(f"{options.answers} answers, {options.mistakes:.0%} mistakes, {options.seeds} seeds")
    rows = [_simulate(release, table, truth, options, seed) for seed in range(options.seeds)]
    hits = sum(row["low"] <= share <= row["high"] for row in rows)
    print(f"the interval contains the true precision in {hits} of {len(rows)}")
    undone = [corrected(Interval(row["precision"], row["low"], row["high"]), options.mistakes) for row in rows]
    known = sum(interval.low <= share <= interval.high for interval in undone)
    print(f"corrected for the mistakes (--mistakes), in {known} of {len(rows)}")
    for key, title in (
        ("precision", "estimated precision"),
        ("half_width", "half width of the interval"),
        ("before", "F1 before"),
        ("corrected", "F1 after the corrections"),
        ("recalibrated", "F1 after the corrections and the recalibration"),
        ("better", "seeds in which both together are better than before"),
    ):
        values = [row[key] for row in rows]
        print(f"{title}: {np.mean(values):.4f} ({np.min(values):.4f} to {np.max(values):.4f})")
    write_report(options.json, {"added": int(added.sum()), "true": share, "contained": hits, "rows": rows})


def _simulate(
    release: Release, table: LabelTable, truth: np.ndarray, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Draw, answer and evaluate one sample."""
    sample = draw_sample(release, options.answers, seed)
    answers = answer(sample, table, truth, options.mistakes, np.random.default_rng([seed, 1]))
    checked = check(release, Review(sample.release, sample.strata, 1, answers, [], None))
    assert checked.precision is not None
    listed = np.zeros(truth.shape, bool)
    listed[table.rows, table.classes] = True
    corrected = listed.copy()
    places = {image_id: place for place, image_id in enumerate(table.image_ids)}
    names = {name: label for label, name in enumerate(table.class_names)}
    known = np.zeros(truth.shape, bool)
    for item in answers:
        corrected[places[item.image], names[item.label]] = bool(item.is_true)
        known[places[item.image], names[item.label]] = True
    # What a build with the recalibrated scores lists: checked labels as checked, others by their new score.
    scores = np.zeros(truth.shape)
    scores[table.rows, table.classes] = checked.recalibration.apply(table.scores.astype(float))
    given = np.zeros(truth.shape, bool)
    has_given = table.original >= 0
    given[np.flatnonzero(has_given), table.original[has_given]] = True
    recalibrated = np.where(known | given, corrected, listed & (scores >= options.threshold))
    f1 = {
        "before": metrics.micro(listed, truth).f1,
        "corrected": metrics.micro(corrected, truth).f1,
        "recalibrated": metrics.micro(recalibrated, truth).f1,
    }
    return {
        "seed": seed,
        "precision": checked.precision.value,
        "low": checked.precision.low,
        "high": checked.precision.high,
        "half_width": checked.precision.half_width,
        **f1,
        "better": float(f1["recalibrated"] > f1["before"]),
        "intercept": checked.recalibration.intercept,
        "log_slope": checked.recalibration.log_slope,
    }


def answer(
    sample: Sample, table: LabelTable, truth: np.ndarray, mistakes: float, generator: np.random.Generator
) -> list[Answer]:
    """Answer every question of a sample from the truth, a share of them wrongly."""
    places = {image_id: place for place, image_id in enumerate(table.image_ids)}
    wrong = generator.random(len(sample.items)) < mistakes
    return [
        Answer(
            item.image_id,
            table.class_names[item.label],
            item.score,
            item.stratum,
            bool(truth[places[item.image_id], item.label]) != bool(is_wrong),
            "simulated",
            "2026-01-01T00:00:00Z",
        )
        for item, is_wrong in zip(sample.items, wrong, strict=True)
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("release", type=Path, help="release folder")
    parser.add_argument("--truth", required=True, help="true labels")
    parser.add_argument("--answers", type=int, default=200, help="size of the sample")
    parser.add_argument("--mistakes", type=float, default=0.05, help="share of wrong answers")
    parser.add_argument("--seeds", type=int, default=50, help="number of simulated reviews")
    parser.add_argument("--threshold", type=float, default=0.5, help="threshold of the recalibrated scores")
    parser.add_argument("--json", help="file to write all numbers to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
