"""What changed between two releases: images, labels by class, regions, settings.

hf-relabel diff user/name@v1.0.0 runs/demo/release
"""

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("old", help="release folder, or user/name@revision on the Hub")
    parser.add_argument("new", help="likewise")
    parser.add_argument("--json", metavar="FILE", help="write all of it as JSON; - for the standard output, alone")
    parser.add_argument("--changelog", action="store_true", help="print the text for CHANGELOG.md instead of tables")
    parser.add_argument("--top", type=int, default=20, help="classes to list (default: 20)")
    parser.add_argument(
        "--no-reuse", action="store_true", help="leave out the share of bytes that both hold, which reads all files"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.evaluation.report import write_results
    from hf_relabel.hub.changelog import entry
    from hf_relabel.hub.client import open_release
    from hf_relabel.release.diff import compare

    old, new = open_release(args.old), open_release(args.new)
    result = compare(old, new, measure_reuse=not (args.no_reuse or args.changelog))
    if args.json == "-":
        json.dump(_plain(result), sys.stdout, indent=2, ensure_ascii=False)
        print()
        return 0
    if args.json:
        write_results(args.json, _plain(result))
    print(entry(result, old.version) if args.changelog else _describe(result, args.top))
    return 0


def _plain(result) -> dict:
    """A comparison as JSON values; counts by class only where there are any."""
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


def _describe(result, top: int) -> str:
    from hf_relabel.evaluation.report import render

    rows = [
        ["images in both", result.images_common],
        ["images added", result.images_added],
        ["images gone", result.images_gone],
        ["images with another label set", result.images_relabeled],
        ["images with another original label", result.originals_changed],
        ["labels added", int(result.labels_added.sum())],
        ["labels removed", int(result.labels_removed.sum())],
        ["labels rescored", int(result.labels_rescored.sum())],
        ["regions before", result.regions_old],
        ["regions now", result.regions_new],
        ["images whose masks differ", result.images_other_masks],
        ["images whose masks are the same and named otherwise", result.images_other_region_labels],
    ]
    blocks = [f"{result.old} -> {result.new}", render(["", "number"], rows)]
    for title, examples in (("added", result.examples_added), ("gone", result.examples_gone)):
        if examples:
            blocks.append(f"images {title}, the first: {', '.join(examples)}")
    classes = result.classes_by_change()
    if classes:
        table = [
            [result.class_names[label], *(int(counts[label]) for counts in _counts(result))] for label in classes[:top]
        ]
        blocks.append(render(["class", "added", "removed", "rescored"], table))
    if len(classes) > top:
        blocks.append(f"and {len(classes) - top} classes more (--top, --json)")
    blocks += [f"setting {setting}" for setting in result.settings]
    if result.reused is not None:
        blocks.append(f"bytes of the new data in chunks that the old holds: {result.reused:.1%} (estimated)")
    return "\n".join(blocks)


def _counts(result) -> tuple:
    return result.labels_added, result.labels_removed, result.labels_rescored
