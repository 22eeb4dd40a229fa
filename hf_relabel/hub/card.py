"""The dataset card: README.md of a published release, rendered from its manifest."""

import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hf_relabel.config import REGION_BACKBONE
from hf_relabel.errors import HubError
from hf_relabel.hub.card_metadata import License, card_metadata
from hf_relabel.hub.card_scores import checked_values, score_values
from hf_relabel.hub.preview import Preview
from hf_relabel.release.markdown import escape, one_line
from hf_relabel.release.reader import Release
from hf_relabel.run.store import atomic_open

MAX_ROWS = 15
"""Maximum number of rows in a table of classes or label pairs."""

SETTINGS = {
    "propose.tau": "cosine similarity above which MaskCut connects patches",
    "propose.max_masks": "maximum number of masks per image by MaskCut",
    "propose.merge_masks": "maximum number of masks per image by merging",
    "propose.windows": "windows per side of a grid that is classified in addition to the masks",
    "score.method": "how the regions that train the labeler were selected",
    "score.tau_label": "minimum probability of a region that trains the labeler",
    "score.bootstrap.confident": "probability above which more regions than the best one of an image are kept",
    "build.threshold": "minimum score of a label in the table",
    "build.region_score": "minimum softmax probability of a region that carries none of its image's labels",
    "build.include_original": "whether the original label is always listed, with score 1",
    "build.include_global": "whether predictions for the whole image count as well",
}
"""The settings with the largest effect on the table, with their meaning."""


@dataclass(frozen=True)
class CardOptions:
    """Contents of the card that the manifest does not record.

    Args:
        license: License of the labels.
        source_dataset: Hub id of the dataset with the images; by default the one in the provenance.
        tags: Additional tags.
        shown_images: Folder of the source's images, if they may be shown in the gallery.
        preview: The configuration `preview`, if there is one.
    """

    license: License = field(default_factory=License)
    source_dataset: str | None = None
    tags: list[str] = field(default_factory=list)
    shown_images: Path | None = None
    preview: Preview | None = None


def asset(name: str) -> bytes:
    """Content of a file of `dataset_card/`, from the installed package or the checkout."""
    package = files("hf_relabel")
    # A wheel contains the folder inside the package; in a checkout it is next to the package.
    for folder in (package / "dataset_card", Path(str(package)).parent / "dataset_card"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    raise HubError(f"dataset_card/{name}: not found; install hf_relabel again")


def render_card(release: Release, repo_id: str, options: CardOptions) -> str:
    """Render README.md of a release, with its front matter.

    Raises:
        HubError: The Hub would reject a value of the front matter.
    """
    import jinja2

    source_dataset = options.source_dataset or _source_dataset(release)
    metadata = card_metadata(
        release,
        options.license,
        source_dataset,
        options.tags,
        [options.preview.config] if options.preview else [],
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters.update(escape=escape, bibtex=_bibtex)
    template = environment.from_string(asset("README.md.jinja").decode("utf-8"))
    return template.render(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True),
        repo_id=repo_id,
        name=one_line(release.name),
        version=release.version,
        split=release.split,
        splits=_splits(release),
        **_carried(release),
        num_classes=len(release.class_names),
        source_dataset=source_dataset,
        license=_license(options.license),
        shows_pixels=options.shown_images is not None,
        preview_rows=options.preview.rows if options.preview else 0,
        bibtex_key=re.sub(r"[^a-z0-9]+", "_", repo_id.lower()).strip("_"),
        **_making(release.provenance),
        **score_values(release.provenance),
        **checked_values(release.provenance),
        **_numbers(release),
    )


def write_card(release: Release, repo_id: str, options: CardOptions, path: Path) -> None:
    """Write the card to a file, without its pictures.

    Raises:
        HubError: The Hub would reject a value of the card.
        OutputError: The file cannot be written.
    """
    card = render_card(release, repo_id, options)
    with atomic_open(path, "w") as file:
        file.write(card)


def _source_dataset(release: Release) -> str | None:
    """The Hub id of the source, if the provenance names one."""
    source = (release.provenance.get("config") or {}).get("source") or {}
    path = str(source.get("path"))
    return path if source.get("kind") == "dataset" and re.fullmatch(r"[\w.-]+/[\w.-]+", path) else None


def _making(provenance: dict[str, Any]) -> dict[str, Any]:
    """Models, thresholds, settings and packages as table rows, and the origin of labels and masks."""
    backbone = provenance.get("backbone") or {}
    models = [("backbone", *item) for item in _leaves(backbone)]
    labeler = provenance.get("labeler") or {}
    models += [("labeler", *item) for item in _leaves(_shape(labeler.get("head") or {}))]
    if labeler.get("weights_sha256"):
        models.append(("labeler", "weights_sha256", labeler["weights_sha256"]))
    label_maps = provenance.get("label_maps")
    label_maps = label_maps if isinstance(label_maps, dict) else {}
    models += [("label maps", *item) for item in _leaves(_with_identity_alone(label_maps))]
    settings = _leaves(provenance.get("config") or {})
    values = dict(settings)
    # With `build.precision`, build.threshold is not used; the table of the scores has the threshold that is.
    shown = [key for key in SETTINGS if key in values and (key != "build.threshold" or "build.precision" not in values)]
    packages = provenance.get("packages") or {}
    tool = provenance.get("tool") or {}
    named = [f"{key} {value}" for key, value in [(tool.get("name"), tool.get("version")), *packages.items()] if key]
    return {
        "models": models,
        "backbone": _describe_backbone(backbone),
        "settings": settings,
        "main_settings": [(key, values[key], SETTINGS[key]) for key in shown],
        "packages": ", ".join(named),
        "machines": ", ".join(sorted(provenance.get("machines") or {})),
        "label_maps_by": _describe_maker(label_maps) if values.get("score.method") == "label_map" else None,
        "imported_from": _imported_from(values),
        "masks_from": values.get("propose.masks.file"),
    }


def _shape(head: dict[str, Any]) -> dict[str, Any]:
    """The shape of the labeler's heads, without the hidden layers that only an MLP has."""
    is_linear = head.get("head") in ("discriminant", "linear")
    return {key: value for key, value in head.items() if not (is_linear and key in ("hidden", "layers", "dropout"))}


def _describe_backbone(backbone: dict[str, Any]) -> str | None:
    """A phrase in Markdown that identifies the backbone; None if none is recorded.

    The name of a local folder means nothing to readers, so a local model is described by its architecture, its sizes
    and the hash of its weights.
    """
    if not backbone.get("model"):
        return None
    details = []
    if backbone.get("revision"):
        details.append(f"revision `{_code(str(backbone['revision'])[:12])}`")
    for key, unit in (("patch_size", "px patches"), ("image_size", "px images")):
        if backbone.get(key):
            details.append(f"{escape(backbone[key])} {unit}")
    weights = backbone.get("weights_sha256")
    if weights is None:
        name = f"`{_code(backbone['model'])}`"
    else:
        name = f"a local {escape(backbone.get('architecture') or 'model')}"
        details.append(f"weights SHA-256 `{_code(weights)}`")
    phrase = f"{name} ({', '.join(details)})" if details else name
    regions = _describe_backbone(backbone.get(REGION_BACKBONE) or {})
    return f"{phrase}, with the regions' features from {regions}" if regions else phrase


def _with_identity_alone(label_maps: dict[str, Any]) -> dict[str, Any]:
    """What made the label maps, with only the identity of a labeler's backbone, which is no model of the release."""
    if not isinstance(backbone := label_maps.get("backbone"), dict):
        return label_maps
    return label_maps | {"backbone": {key: backbone.get(key) for key in ("model", "revision", "weights_sha256")}}


def _describe_maker(label_maps: dict[str, Any]) -> str:
    """A phrase in Markdown that identifies what made the label maps."""
    if label_maps.get("labeler"):
        backbone = _describe_backbone(label_maps.get("backbone") or {})
        return f"the labeler with weights SHA-256 `{_code(label_maps['labeler'])}` on {backbone}"
    known = label_maps.get("revision") or label_maps.get("weights_sha256")
    return (_describe_backbone(label_maps) if known else None) or "a classifier that is not recorded"


def _imported_from(settings: dict[str, Any]) -> str | None:
    """What a release was imported from; None if the pipeline made it."""
    kind = settings.get("import.format")
    if kind is None:
        return None
    name = settings.get("import.file") or settings.get("import.folder")
    return f"{name} ({'ReLabel label maps' if kind == 'relabel' else str(kind).upper()})"


def _numbers(release: Release) -> dict[str, Any]:
    """The statistics as rows of the card's tables."""
    statistics, names = release.statistics, release.class_names
    added = statistics["added_per_class"]
    order = sorted((label for label in range(len(names)) if added[label]), key=lambda label: (-added[label], label))
    return {
        "images": f"{statistics['images']:,}",
        "labels": f"{statistics['labels']:,}",
        "regions": f"{statistics['regions']:,}",
        "has_regions": statistics["regions"] > 0,
        "has_unlabeled": "images_without_original" in statistics,
        "facts": [
            ("images", f"{statistics['images']:,}"),
            ("labels", f"{statistics['labels']:,}"),
            ("labels per image, mean", f"{statistics['mean_labels_per_image']:.3f}"),
            ("images with more than one label", f"{statistics['multi_label_share']:.1%}"),
            *_unlabeled(statistics),
            ("images with the original label among their labels", f"{statistics['original_in_labels_share']:.1%}"),
            ("images with the original label first", f"{statistics['original_is_first_share']:.1%}"),
            ("classes in use", f"{sum(count > 0 for count in statistics['labels_per_class']):,} of {len(names):,}"),
            ("regions", f"{statistics['regions']:,}"),
            ("images without regions", f"{statistics['regions_per_image'].get('0', 0):,}"),
            ("excluded images", f"{statistics['excluded_images']:,}"),
        ],
        "added": [
            (
                names[label],
                f"{added[label]:,}",
                f"{statistics['originals_per_class'][label]:,}",
                f"{statistics['labels_per_class'][label]:,}",
            )
            for label in order[:MAX_ROWS]
        ],
        "pairs": [(names[a], names[b], f"{count:,}") for a, b, count in statistics["label_pairs"][:MAX_ROWS]],
        "excluded": [(reason, f"{count:,}") for reason, count in statistics["excluded"].items()],
    }


def _splits(release: Release) -> list[tuple[str, str, str, str]]:
    """Name, images, labels and regions of each split, if there are several."""
    return [
        (split, f"{counts['images']:,}", f"{counts['labels']:,}", f"{counts['regions']:,}")
        for split, counts in release.of_splits.items()
    ]


def _carried(release: Release) -> dict[str, Any]:
    """The splits taken over from earlier versions, and whether the labeler of all splits was trained on the first."""
    found = release.provenance.get("carried")
    known = found if isinstance(found, dict) else {}
    carried = {split: known[split] for split in release.splits if isinstance(known.get(split), dict)}

    def labeler(provenance: Any) -> Any:
        stored = provenance.get("labeler") if isinstance(provenance, dict) else None
        return str(stored.get("weights_sha256")) if isinstance(stored, dict) else None

    others = {labeler(entry.get("provenance")) for entry in carried.values()}
    return {
        "carried": [(split, entry.get("version")) for split, entry in carried.items()],
        "trained_on_first": others <= {labeler(release.provenance)},
    }


def _unlabeled(statistics: dict[str, Any]) -> list[tuple[str, str]]:
    """The number of images without an original label, if there are any."""
    count = statistics.get("images_without_original")
    return [("images without an original label", f"{count:,}")] if count else []


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested dictionaries by dotted names, without None."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((f"{prefix}{key}", value))
    return found


def _license(license: License) -> str:
    if license.id is None:
        return "The publisher has not stated a license for the labels."
    if license.name:
        name = escape(license.name)
        return f"The labels are licensed under [{name}]({license.link})." if license.link else f"{name}."
    return f"The labels are licensed under `{license.id}`."


def _code(value: object) -> str:
    """Text for inline code."""
    return one_line(value).replace("`", "").replace("|", "")


def _bibtex(value: str) -> str:
    return re.sub(r"[{}\\`]", "", value)
