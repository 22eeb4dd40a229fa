"""CHANGELOG.md of a published dataset: a section a version, the newest first, written from comparisons."""

import re

from hf_relabel.release.diff import Comparison
from hf_relabel.release.reader import Release

HEADER = "# Changelog\n\nEvery version is a tag of this repository. Numbers are about the images of both versions.\n"

MOST_CLASSES = 10
"""Classes that an entry names."""

_SECTION = re.compile(r"^## (\d+\.\d+\.\d+)$", re.MULTILINE)


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers, to sort by."""
    return tuple(int(part) for part in version.split("."))


def first_entry(release: Release) -> str:
    """What the changelog says of a version without a predecessor."""
    statistics = release.statistics
    return (
        f"First release: {statistics['images']:,} images, {statistics['labels']:,} labels, "
        f"{statistics['regions']:,} regions.\n"
    )


def entry(comparison: Comparison, previous: str) -> str:
    """What the changelog says of a version that follows another.

    Args:
        comparison: Of the previous version (old) with this one (new).
        previous: The previous version, such as 1.0.0.
    """
    added, removed, rescored = (
        int(counts.sum()) for counts in (comparison.labels_added, comparison.labels_removed, comparison.labels_rescored)
    )
    lines = [f"Since {previous}:", ""]
    lines.append(f"- images: {comparison.images_added:,} added, {comparison.images_gone:,} gone")
    lines.append(
        f"- labels: {added:,} added, {removed:,} removed, {rescored:,} rescored; "
        f"{comparison.images_relabeled:,} images have another label set"
    )
    if comparison.originals_changed:
        lines.append(f"- original labels: {comparison.originals_changed:,} changed")
    lines.append(
        f"- regions: {comparison.regions_old:,} before, {comparison.regions_new:,} now; masks differ in "
        f"{comparison.images_other_masks:,} images, labels of the same masks in "
        f"{comparison.images_other_region_labels:,}"
    )
    lines += [f"- setting {setting}" for setting in comparison.settings]
    most = comparison.classes_by_change()[:MOST_CLASSES]
    if most:
        lines += ["", "| class | added | removed | rescored |", "|---|---|---|---|"]
        for label in most:
            name = comparison.class_names[label].replace("|", "\\|")
            counts = [
                f"{int(column[label]):,}"
                for column in (comparison.labels_added, comparison.labels_removed, comparison.labels_rescored)
            ]
            lines.append(f"| {name} | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n"


def extended(changelog: str, version: str, text: str) -> str:
    """A changelog with the section of a version added, or replaced where it was there, newest first.

    What somebody wrote into other sections or the head stays.
    """
    head, sections = _parts(changelog or HEADER)
    sections[version] = f"## {version}\n\n{text}"
    ordered = sorted(sections.items(), key=lambda item: version_key(item[0]), reverse=True)
    return "\n\n".join([head.strip(), *(section.strip() for _, section in ordered)]) + "\n"


def _parts(changelog: str) -> tuple[str, dict[str, str]]:
    head, *rest = _SECTION.split(changelog)  # head, version, text, version, text, ...
    return head, {version: f"## {version}{text}" for version, text in zip(rest[::2], rest[1::2], strict=True)}
