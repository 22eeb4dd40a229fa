"""Compare a release's labels with the truth: precision and recall by threshold, what scores are worth, confusions.

hf-relabel audit runs/demo/release --truth truth.jsonl --plot reliability.png
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_relabel.commands.arguments import TruthSettings
from hf_relabel.commands.options import Command, option, positional
from hf_relabel.errors import SourceError

if TYPE_CHECKING:
    from collections import Counter

    from hf_relabel.evaluation.audit import AddedLabels, Audit, LabelScores


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Audit.

    Args:
        release: Release folder, or user/name@revision on the Hub.
        split: Split of the release; needed only if it has several.
        truth: True labels to compare with.
        parents: File with lines `child<TAB>parent` of class names, or `wordnet`: also compare along this hierarchy,
            where a parent counts at its level.
        top: Classes and confusions to list.
        bins: Bins of the reliability table.
        json: Write all results to this file as JSON.
        plot: Write the reliability diagram of the added labels to this PNG file.
    """

    release: str = positional("RELEASE")
    split: str | None = option(None, "NAME")
    truth: TruthSettings
    parents: str | None = option(None, "FILE.tsv|wordnet")
    top: int = 10
    bins: int = 10
    json: str | None = option(None, "FILE.json")
    plot: str | None = option(None, "FILE.png")


def run(settings: AuditSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.evaluation.audit import audit
    from hf_relabel.evaluation.report import plain, refuse_unwritable, write_results
    from hf_relabel.evaluation.rolled_up import describe_levels, rolled_up
    from hf_relabel.hub.releases import load_labels
    from hf_relabel.sources.hierarchy import read_hierarchy

    refuse_unwritable(settings.json, settings.plot)
    true_labels = settings.truth.read()
    table = load_labels(settings.release, settings.split)
    given = true_labels.of_images(table.image_ids)
    common, left_out = given.within(table.class_names)
    truth = common.of(table.image_ids, table.class_names)
    known = given.has_labels(table.image_ids)
    try:
        result = audit(table, truth, known, top=settings.top, bins=settings.bins)
    except ValueError as error:
        raise SourceError(f"{settings.truth.truth}: nothing to compare {settings.release} with ({error})") from error
    print(_describe(settings.release, result))
    levels = None
    if settings.parents:
        hierarchy = read_hierarchy(settings.parents, table.class_names)
        levels = rolled_up(table.rows, table.classes, truth, hierarchy)
        print(f"\n{describe_levels(hierarchy.origin, levels)}")
    if left_out:
        print(f"\n{_describe_left_out(left_out)}")
    if settings.json:
        write_results(settings.json, plain(result) | {"classes_left_out": dict(left_out), "rolled_up": plain(levels)})
    if settings.plot:
        plot_reliability(result, Path(settings.plot))
    return 0


def _describe_left_out(left_out: "Counter[str]") -> str:
    shown = ", ".join(f"{name!r} ({count})" for name, count in left_out.most_common(5))
    more = ", ..." if len(left_out) > 5 else ""
    return (
        f"Compared are the classes of the release. {left_out.total()} true labels of {len(left_out)} other classes are "
        f"left out: {shown}{more}."
    )


def _describe(release: str, result: "Audit") -> str:
    from hf_relabel.evaluation.report import plain, render

    agreement, best = result.agreement, result.best
    blocks = [
        f"{release}: {result.images} images with a true label"
        + (f", {result.left_out} without one left out" if result.left_out else "")
        + (
            f"; {result.other_classes} of them only with classes that the release does not have, so every label listed "
            "there counts as false"
            if result.other_classes
            else ""
        ),
        (
            "No image has an original label. "
            if math.isnan(agreement.true)
            else f"The original label is true in {agreement.true:.1%} of the images, listed in {agreement.listed:.1%}, "
            f"first in {agreement.first:.1%}. "
        )
        + f"True labels per image: {agreement.true_labels_per_image:.2f}.",
        render(
            ["threshold", "labels/img", "precision", "recall", "F1", "macro F1", "mAP img", "exact", "IoU"],
            [list(plain(row).values()) for row in result.thresholds],
        ),
        f"Best F1 {best.f1:.4f} at threshold {best.threshold:.4f} (precision {best.precision:.4f}, "
        f"recall {best.recall:.4f})",
        _describe_added(result.added_labels),
        *_describe_label_scores(result.label_scores),
    ]
    for title, classes in (("Most often added", result.added), ("Original label most often dropped", result.dropped)):
        if classes:
            counts = [(item.class_name, item.images, item.true) for item in classes]
            blocks.append(render([title, "images", "true"], counts))
    if result.confused:
        rows = [(f"{item.missed} -> {item.listed}", item.images) for item in result.confused]
        blocks.append(render(["Most often confused (missed -> listed)", "images"], rows))
    return "\n\n".join(blocks)


def _describe_added(added: "AddedLabels") -> str:
    from hf_relabel.evaluation.report import render

    if not added.labels:
        return "Labels added to the original ones: none."
    rows = [
        (f"{row.low:.2f}-{row.high:.2f}", row.count, row.mean_score, row.hit_rate)
        for row in added.reliability
        if row.count
    ]
    return (
        f"Labels added to the original ones: {added.labels}. Precision estimated by their scores: "
        f"{added.estimated_precision:.4f}, true precision: {added.true_precision:.4f} "
        f"(expected calibration error {added.ece:.4f}).\n"
        + render(["score", "added labels", "mean score", "true"], rows)
    )


def _describe_label_scores(scores: "LabelScores") -> list[str]:
    """One line on `label_score`, if the release has any."""
    if not scores.images:
        return []
    found = f"{scores.false} of the {scores.images} original labels with a label_score are false"
    is_measured = scores.auc == scores.auc  # only NaN differs from itself
    return [f"{found}. AUC of label_score, true against false ones: {scores.auc:.4f}" if is_measured else f"{found}."]


def plot_reliability(result: "Audit", path: Path) -> None:
    """Draw the reliability diagram of the added labels as PNG: the share of true ones by score, and the diagonal."""
    from hf_relabel.pictures.charts import BLUE, Chart

    added = result.added_labels
    quality = f"ECE {added.ece:.3f}, n = {added.labels}" if added.labels else "there are none"
    chart = Chart(f"Reliability of added labels ({quality})", "score", "share that is true")
    ticks = [0, 0.25, 0.5, 0.75, 1]
    chart.y_ticks(ticks, [f"{tick:g}" for tick in ticks])
    chart.x_ticks(ticks, [f"{tick:g}" for tick in ticks])
    filled = [row for row in added.reliability if row.count]
    chart.bars([row.low for row in filled], [row.high for row in filled], [row.hit_rate for row in filled], BLUE)
    chart.line([0, 1], [0, 1])
    chart.save(path)


COMMANDS = {
    "audit": Command(
        name="audit",
        summary="compare a release's labels with true labels: precision, recall, reliability of scores, confusions",
        settings=AuditSettings,
        run=run,
        description=__doc__ or "",
        common=("truth", "split"),
    )
}
