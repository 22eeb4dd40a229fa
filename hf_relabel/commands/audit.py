"""Compare a release's labels with the truth: precision and recall at every threshold, calibration, confusions.

hf-relabel audit runs/demo/release --truth truth.jsonl --plot reliability.png
"""

import argparse
from pathlib import Path

from hf_relabel.commands.arguments import add_truth_arguments, truth_of
from hf_relabel.errors import SourceError
from hf_relabel.evaluation.audit import Audit, Calibration, audit
from hf_relabel.evaluation.report import plain, refuse_unwritable, render, write_results
from hf_relabel.release.table import load_labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("release", help="release folder, or user/name@revision on the Hub")
    parser.add_argument("--split", help="split of the release; needed only if it has several")
    add_truth_arguments(parser, required=True)
    parser.add_argument("--top", type=int, default=10, help="classes and confusions to list (default: 10)")
    parser.add_argument("--bins", type=int, default=10, help="bins of the reliability tables (default: 10)")
    parser.add_argument("--json", metavar="FILE", help="write all results as JSON")
    parser.add_argument("--plot", metavar="FILE.png", help="write the reliability diagram")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    refuse_unwritable(args.json, args.plot)
    table = load_labels(args.release, args.split)
    truth = truth_of(args).of(table.image_ids, table.class_names)
    try:
        result = audit(table, truth, top=args.top, bins=args.bins)
    except ValueError as error:
        raise SourceError(f"{args.truth}: nothing to compare {args.release} with ({error})") from error
    print(_describe(args.release, result))
    if args.json:
        write_results(args.json, plain(result))
    if args.plot:
        plot_reliability(result, Path(args.plot))
    return 0


def _describe(release: str, result: Audit) -> str:
    agreement, best = result.agreement, result.best
    blocks = [
        f"{release}: {result.images} images with a true label"
        + (f", {result.left_out} without one left out" if result.left_out else ""),
        f"The original label is true in {agreement.true:.1%} of the images, listed in {agreement.listed:.1%}, first in "
        f"{agreement.first:.1%}. True labels per image: {agreement.true_labels_per_image:.2f}.",
        render(
            ["threshold", "labels/img", "precision", "recall", "F1", "macro F1", "mAP img", "exact", "IoU"],
            [list(plain(row).values()) for row in result.thresholds],
        ),
        f"Best F1 {best.f1:.4f} at threshold {best.threshold:.4f} (precision {best.precision:.4f}, "
        f"recall {best.recall:.4f})",
        _describe_calibration("all labels", result.calibration),
        _describe_calibration("labels added to the original", result.calibration_of_added),
    ]
    for title, classes in (("Most often added", result.added), ("Original label most often dropped", result.dropped)):
        if classes:
            rows = [(item.class_name, item.images, item.true) for item in classes]
            blocks.append(render([title, "images", "true"], rows))
    if result.confused:
        rows = [(f"{item.missed} -> {item.listed}", item.images) for item in result.confused]
        blocks.append(render(["Most often confused (missed -> listed)", "images"], rows))
    return "\n\n".join(blocks)


def _describe_calibration(name: str, calibration: Calibration) -> str:
    rows = [
        (f"{row.low:.2f}-{row.high:.2f}", row.count, row.mean_score, row.hit_rate)
        for row in calibration.table
        if row.count
    ]
    title = f"Calibration of {name}: ECE {calibration.ece:.4f} over {calibration.labels} labels"
    return title + "\n" + render(["score", "labels", "mean score", "true"], rows)


def plot_reliability(result: Audit, path: Path) -> None:
    """The reliability diagram as PNG: the share of true labels in each bin of scores, and the diagonal."""
    from hf_relabel.pictures.charts import BLUE, ORANGE, Chart

    title = f"Reliability of the labels (ECE {result.calibration.ece:.3f}, n = {result.calibration.labels})"
    chart = Chart(title, "score", "share that is true")
    ticks = [0, 0.25, 0.5, 0.75, 1]
    chart.y_ticks(ticks, [f"{tick:g}" for tick in ticks])
    chart.x_ticks(ticks, [f"{tick:g}" for tick in ticks])
    filled = [row for row in result.calibration.table if row.count]
    chart.bars([row.low for row in filled], [row.high for row in filled], [row.hit_rate for row in filled], BLUE)
    chart.legend("all labels", BLUE)
    added = [row for row in result.calibration_of_added.table if row.count]
    if len(added) > 1:
        chart.line([row.mean_score for row in added], [row.hit_rate for row in added], ORANGE, "added labels")
    chart.line([0, 1], [0, 1])
    chart.save(path)
