"""What changed between two releases: images, labels by class, regions, settings.

hf-relabel diff user/name@v1.0.0 runs/demo/release
"""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_relabel.commands.options import Command, option, positional

if TYPE_CHECKING:
    from hf_relabel.release.diff import Comparison


@dataclass(frozen=True, kw_only=True)
class DiffSettings:
    """Report.

    Args:
        old: Release folder, or user/name@revision on the Hub.
        new: Release to compare it with, a folder or user/name@revision.
        json: Write everything as JSON to this file; - prints only the JSON.
        changelog: Print the text for CHANGELOG.md instead of tables.
        top: Classes to list.
    """

    old: str = positional("OLD")
    new: str = positional("NEW")
    json: str | None = option(None, "FILE.json")
    changelog: bool = False
    top: int = 20


def run(settings: DiffSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.evaluation.report import write_results
    from hf_relabel.hub.changelog import entry
    from hf_relabel.hub.releases import open_release
    from hf_relabel.release.diff import compare

    old, new = (open_release(name, ["regions"]) for name in (settings.old, settings.new))
    result = compare(old, new)
    if settings.json == "-":
        json.dump(_plain(result), sys.stdout, indent=2, ensure_ascii=False)
        print()
        return 0
    if settings.json:
        write_results(settings.json, _plain(result))
    print(entry(result, old.version) if settings.changelog else _describe(result, settings.top))
    return 0


def _plain(result: "Comparison") -> dict[str, Any]:
    """Return a comparison as JSON values; counts only of classes that changed."""
    classes = {
        result.class_names[label]: {
            "class": label,
            "added": int(result.labels_added[label]),
            "removed": int(result.labels_removed[label]),
            "rescored": int(result.labels_rescored[label]),
        }
        for label in result.classes_by_change()
    }
    totals = {key: int(getattr(result, key).sum()) for key in ("labels_added", "labels_removed", "labels_rescored")}
    simple = {key: value for key, value in vars(result).items() if key not in totals and key != "class_names"}
    return {**simple, **totals, "classes": classes}


def _describe(result: "Comparison", top: int) -> str:
    from hf_relabel.evaluation.report import render

    rows = [
        ["images in both", result.images_common],
        ["images added", result.images_added],
        ["images removed", result.images_gone],
        ["images with other labels", result.images_relabeled],
        ["images with another original label", result.originals_changed],
        ["images with another score of the original label", result.label_scores_changed],
        ["labels added", int(result.labels_added.sum())],
        ["labels removed", int(result.labels_removed.sum())],
        ["labels rescored", int(result.labels_rescored.sum())],
        ["labels checked by hand before", result.checked_old],
        ["labels checked by hand now", result.checked_new],
        ["regions before", result.regions_old],
        ["regions now", result.regions_new],
        ["images with other masks", result.images_other_masks],
        ["images with the same masks but other region labels", result.images_other_region_labels],
    ]
    blocks = [f"{result.old} -> {result.new}", render(["", "number"], rows)]
    for title, splits in (("added", result.splits_added), ("removed", result.splits_gone)):
        if splits:
            blocks.append(f"splits {title}: {', '.join(splits)}")
    for title, examples in (("added", result.examples_added), ("removed", result.examples_gone)):
        if examples:
            blocks.append(f"images {title}, the first: {', '.join(examples)}")
    classes = result.classes_by_change()
    if classes:
        table = [
            [result.class_names[label], *(int(counts[label]) for counts in _counts(result))] for label in classes[:top]
        ]
        blocks.append(render(["class", "added", "removed", "rescored"], table))
    if len(classes) > top:
        blocks.append(f"and {len(classes) - top} more classes (--top, --json)")
    blocks += [f"setting {setting}" for setting in result.settings]
    return "\n".join(blocks)


def _counts(result: "Comparison") -> tuple[Any, Any, Any]:
    return result.labels_added, result.labels_removed, result.labels_rescored


COMMANDS = {
    "diff": Command(
        name="diff",
        summary="show what changed between two releases, in folders or on the Hub",
        settings=DiffSettings,
        run=run,
        description=__doc__ or "",
    )
}
