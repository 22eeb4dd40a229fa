"""CHANGELOG.md of a published dataset: one section per version, newest first."""

import re

from hf_relabel.release.diff import Comparison, changed_settings
from hf_relabel.release.markdown import escape
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import version_key

HEADER = "# Changelog\n\nEvery version is a tag of this repository. Label counts are for images in both versions.\n"

MAX_CLASSES = 10
"""Maximum number of classes that an entry lists."""

_SECTION = re.compile(r"^## (\d+\.\d+\.\d+)$", re.MULTILINE)


def first_entry(release: Release) -> str:
    """The entry of a version without a predecessor."""
    return f"First release: {_totals(release)}.\n"


def preview_entry(previous: Release, release: Release) -> str:
    """The entry of a dry run, from the manifests of two versions only, without reading the rows of the previous one."""
    lines = [
        f"Since {previous.version} (the full comparison needs the rows of {previous.version} and is made when "
        "publishing):",
        "",
        f"- before: {_totals(previous)}",
        f"- now: {_totals(release)}",
        *_setting_lines(changed_settings(previous, release)),
    ]
    return "\n".join(lines) + "\n"


def _totals(release: Release) -> str:
    statistics = release.statistics
    return f"{statistics['images']:,} images, {statistics['labels']:,} labels, {statistics['regions']:,} regions"


def _setting_lines(settings: list[str]) -> list[str]:
    return [f"- setting {escape(setting)}" for setting in settings]


def entry(comparison: Comparison, previous: str) -> str:
    """The entry of a version with a predecessor.

    Args:
        comparison: Comparison of the previous version (old) with this one (new).
        previous: The previous version, such as 1.0.0.
    """
    added, removed, rescored = (
        int(counts.sum()) for counts in (comparison.labels_added, comparison.labels_removed, comparison.labels_rescored)
    )
    lines = [f"Since {previous}:", ""]
    for title, splits in (("added", comparison.splits_added), ("removed", comparison.splits_gone)):
        if splits:
            lines.append(f"- splits {title}: {', '.join(f'`{split}`' for split in splits)}")
    lines.append(f"- images: {comparison.images_added:,} added, {comparison.images_gone:,} removed")
    lines.append(
        f"- labels: {added:,} added, {removed:,} removed, {rescored:,} rescored; "
        f"{comparison.images_relabeled:,} images have a different label set"
    )
    if comparison.checked_old != comparison.checked_new:
        lines.append(f"- labels checked by hand: {comparison.checked_old:,} before, {comparison.checked_new:,} now")
    if comparison.originals_changed:
        lines.append(f"- original labels: {comparison.originals_changed:,} changed")
    if comparison.label_scores_changed:
        lines.append(f"- scores of the original labels (label_score): {comparison.label_scores_changed:,} changed")
    lines.append(
        f"- regions: {comparison.regions_old:,} before, {comparison.regions_new:,} now; "
        f"{comparison.images_other_masks:,} images have different masks, "
        f"{comparison.images_other_region_labels:,} have the same masks with different labels"
    )
    lines += _setting_lines(comparison.settings)
    most = comparison.classes_by_change()[:MAX_CLASSES]
    if most:
        lines += ["", "| class | added | removed | rescored |", "|---|---|---|---|"]
        for label in most:
            name = escape(comparison.class_names[label])
            counts = [
                f"{int(column[label]):,}"
                for column in (comparison.labels_added, comparison.labels_removed, comparison.labels_rescored)
            ]
            lines.append(f"| {name} | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n"


def extended(changelog: str, version: str, text: str) -> str:
    """Add the section of a version to a changelog, or replace it, with the newest version first.

    Other sections and the header keep what someone wrote there.
    """
    head, sections = _parts(changelog or HEADER)
    sections[version] = f"## {version}\n\n{text}"
    ordered = sorted(sections.items(), key=lambda item: version_key(item[0]), reverse=True)
    return "\n\n".join([head.strip(), *(section.strip() for _, section in ordered)]) + "\n"


def _parts(changelog: str) -> tuple[str, dict[str, str]]:
    head, *rest = _SECTION.split(changelog)  # head, version, text, version, text, ...
    return head, {version: f"## {version}{text}" for version, text in zip(rest[::2], rest[1::2], strict=True)}
