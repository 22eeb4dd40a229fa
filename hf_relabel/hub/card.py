"""The dataset card: README.md of a published release, filled from its manifest."""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_relabel.errors import HubError
from hf_relabel.hub.card_metadata import License, card_metadata
from hf_relabel.release.reader import Release

MOST = 15
"""Rows of a table of classes or pairs."""

THRESHOLDS = {
    "propose.tau": "patches are joined above this cosine similarity",
    "propose.max_masks": "most regions an image",
    "score.method": "how regions were chosen to train the labeler on",
    "score.tau_label": "least probability of a region that trains the labeler",
    "score.bootstrap.confident": "probability above which a region is kept beside its image's best one",
    "build.threshold": "least score of a label in the table",
    "build.include_original": "the original label is always listed, with score 1",
    "build.include_global": "the labeler's answer for the whole image counts too",
}
"""Settings that decide what is in the table, with their meaning."""


@dataclass(frozen=True)
class CardOptions:
    """What the card says that the manifest does not know.

    Args:
        license: Licence of the labels.
        source_dataset: Hub id of the dataset with the images; by default what the provenance names.
        tags: Further tags.
        shown_images: Folder of the source's images, if they may be shown in the gallery.
    """

    license: License = field(default_factory=License)
    source_dataset: str | None = None
    tags: list[str] = field(default_factory=list)
    shown_images: Path | None = None


def asset(name: str) -> Path:
    """A file of `dataset_card/`: in the checkout, or where an installed package put it."""
    for folder in (Path(__file__).resolve().parents[2] / "dataset_card", Path(sys.prefix) / "share" / "hf_relabel"):
        if (folder / name).is_file():
            return folder / name
    raise HubError(f"dataset_card/{name}: not installed; install hf_relabel again")


def render_card(release: Release, repo_id: str, options: CardOptions) -> str:
    """README.md of a release, front matter and text.

    Raises:
        HubError: A value of the front matter that the Hub would refuse.
    """
    import jinja2

    source_dataset = options.source_dataset or _source_dataset(release)
    metadata = card_metadata(release, options.license, source_dataset, options.tags)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters |= {"cell": _cell, "bibtex": _bibtex}
    template = environment.from_string(asset("README.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True),
        repo_id=repo_id,
        name=_line(release.name),
        version=release.version,
        split=release.split,
        num_classes=len(release.class_names),
        source_dataset=source_dataset,
        licence=_licence(options.license),
        shows_pixels=options.shown_images is not None,
        bibtex_key=re.sub(r"[^a-z0-9]+", "_", repo_id.lower()).strip("_"),
        **_making(release.provenance),
        **_numbers(release),
    )


def _source_dataset(release: Release) -> str | None:
    """The Hub id of the source, if the release was made from one."""
    source = release.provenance.get("config", {}).get("source", {})
    path = source.get("path", "")
    return path if source.get("kind") == "dataset" and re.fullmatch(r"[\w.-]+/[\w.-]+", path) else None


def _making(provenance: dict[str, Any]) -> dict[str, Any]:
    """Models, thresholds, settings and packages, as rows, and what the labels and masks were taken from."""
    models = [("backbone", *item) for item in _leaves(provenance.get("backbone") or {})]
    models += [("labeler", *item) for item in _leaves((provenance.get("labeler") or {}).get("head") or {})]
    settings = _leaves(provenance.get("config") or {})
    values = dict(settings)
    packages = provenance.get("packages") or {}
    tool = provenance.get("tool") or {}
    named = [f"{key} {value}" for key, value in {tool.get("name"): tool.get("version"), **packages}.items() if key]
    return {
        "models": models,
        "settings": settings,
        "thresholds": [(key, values[key], meaning) for key, meaning in THRESHOLDS.items() if key in values],
        "packages": ", ".join(named),
        "uses_label_maps": values.get("score.method") == "label_map",
        "imported_from": _imported_from(values),
        "masks_from": values.get("propose.masks.file"),
    }


def _imported_from(settings: dict[str, Any]) -> str | None:
    """What an imported release was made of; None of one that the pipeline has made."""
    kind = settings.get("import.format")
    if kind is None:
        return None
    name = settings.get("import.file") or settings.get("import.folder")
    return f"{name} ({'label maps of ReLabel' if kind == 'relabel' else kind.upper()})"


def _numbers(release: Release) -> dict[str, Any]:
    """The statistics, as rows of the card's tables."""
    statistics, names = release.statistics, release.class_names
    added = statistics["added_per_class"]
    order = sorted((label for label in range(len(names)) if added[label]), key=lambda label: (-added[label], label))
    return {
        "images": f"{statistics['images']:,}",
        "labels": f"{statistics['labels']:,}",
        "regions": f"{statistics['regions']:,}",
        "has_regions": statistics["regions"] > 0,
        "facts": [
            ("images", f"{statistics['images']:,}"),
            ("labels", f"{statistics['labels']:,}"),
            ("labels an image, mean", f"{statistics['mean_labels_per_image']:.3f}"),
            ("images with more than one label", f"{statistics['multi_label_share']:.1%}"),
            ("images whose labels hold the original one", f"{statistics['original_in_labels_share']:.1%}"),
            ("images whose first label is the original one", f"{statistics['original_is_first_share']:.1%}"),
            ("classes that occur", f"{sum(count > 0 for count in statistics['labels_per_class']):,} of {len(names):,}"),
            ("regions", f"{statistics['regions']:,}"),
            ("images without a region", f"{statistics['regions_per_image'].get('0', 0):,}"),
            ("images left out", f"{statistics['excluded_images']:,}"),
        ],
        "added": [
            (
                names[label],
                f"{added[label]:,}",
                f"{statistics['originals_per_class'][label]:,}",
                f"{statistics['labels_per_class'][label]:,}",
            )
            for label in order[:MOST]
        ],
        "pairs": [(names[a], names[b], f"{count:,}") for a, b, count in statistics["label_pairs"][:MOST]],
        "excluded": [(reason, f"{count:,}") for reason, count in statistics["excluded"].items()],
    }


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested dictionaries with their dotted names, without those that are None."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((f"{prefix}{key}", value))
    return found


def _licence(license: License) -> str:
    if license.id is None:
        return "The publisher has stated no licence for the labels."
    if license.name:
        return f"The labels are under [{license.name}]({license.link})." if license.link else f"{license.name}."
    return f"The labels are under `{license.id}`."


def _cell(value: object) -> str:
    """Text for a cell of a Markdown table."""
    return _line(value).replace("|", "\\|").replace("<", "&lt;")


def _bibtex(value: str) -> str:
    return re.sub(r"[{}\\]", "", value)


def _line(value: object) -> str:
    return " ".join(str(value).split())
