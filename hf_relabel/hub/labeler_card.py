"""The card of a published labeler: what it is, how to use it, and what its scores are worth."""

import re
from typing import Any

import yaml

from hf_relabel.config import REGION_BACKBONE
from hf_relabel.hub.card_metadata import License
from hf_relabel.release.markdown import escape, one_line

MAX_CLASSES = 100
"""Classes that the card names."""


def labeler_card(record: dict[str, Any], repo_id: str, license: License, tag: str | None) -> str:
    """Render the README.md of a labeler.

    Args:
        record: Its `config.json`.
        repo_id: `user/name`.
        license: Its license.
        tag: The tag of this version, if it has one.
    """
    backbone, training = record["backbone"], record["training"]
    regions = backbone.get(REGION_BACKBONE)
    models = [backbone, *([regions] if regions else [])]
    metadata: dict[str, Any] = {
        **license.fields(),
        "library_name": "hf_relabel",
        "pipeline_tag": "image-classification",
        "tags": ["multi-label", "relabeling", "hf_relabel"],
    }
    on_hub = [
        str(model["model"])
        for model in models
        if not model.get("weights_sha256") and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model["model"]), re.ASCII)
    ]
    if on_hub:
        metadata["base_model"] = on_hub[0] if len(on_hub) == 1 else on_hub
    names = record["class_names"]
    listed = ", ".join(map(escape, names[:MAX_CLASSES])) + (
        f", and {len(names) - MAX_CLASSES:,} more" if len(names) > MAX_CLASSES else ""
    )
    revision = f', revision="{tag}"' if tag else ""
    needs = "".join(f', {name}="folder/of/the/{name}"' for name in local_models(record))
    lines = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---",
        "",
        f"# {escape(repo_id.split('/')[1])}",
        "",
        "A multi-label labeler made with hf_relabel: small heads on a frozen vision transformer that find the labels "
        "of a photo and the regions that show them. They were trained on images with one label each.",
        "",
        "```python",
        "from hf_relabel import Relabeler",
        "",
        f'relabeler = Relabeler.from_pretrained("{repo_id}"{revision}{needs})',
        'result = relabeler("photo.jpg")  # result.labels, result.scores, result.regions',
        "```",
        "",
        "| | |",
        "|---|---|",
        *[
            f"| {what}backbone | {_describe_model(model)}, {model['image_size']} px images |"
            for what, model in zip(("", "second, for the features of regions: "), models, strict=False)
        ],
        f"| head | {escape(training['head'])}, {training['folds']} folds, {training['regions']:,} training regions |",
        f"| classes | {len(names):,} |",
        f"| weights SHA-256 | `{record['weights_sha256']}` |",
        "",
        *_scores(record["scores"]),
        "",
        "## Classes",
        "",
        listed,
    ]
    return "\n".join(lines) + "\n"


def local_models(record: dict[str, Any]) -> list[str]:
    """Which of a labeler's models are folders that are not part of it: `backbone`, `region_backbone`."""
    backbone = record["backbone"]
    models = {"backbone": backbone, "region_backbone": backbone.get(REGION_BACKBONE) or {}}
    return [name for name, model in models.items() if model.get("weights_sha256")]


def _describe_model(model: dict[str, Any]) -> str:
    """Which model a backbone is, in Markdown."""
    if model.get("weights_sha256"):
        return f"a local {escape(model.get('architecture', 'model'))}, weights SHA-256 `{model['weights_sha256']}`"
    return f"`{one_line(model['model'])}`, revision `{one_line(model.get('revision'))}`"


def _scores(scores: dict[str, Any]) -> list[str]:
    """What the scores mean, and how they were calibrated."""
    calibration = scores["calibration"]
    if calibration is None:
        return [
            "The scores are not calibrated: use `calibrated=False` for softmax scores, which are too high on photos."
        ]
    found = [
        "A score is the estimated probability that the label is true. No human check and no ground truth went into it: "
        f"it was estimated on {calibration['images']:,} training images, each judged by a head that had not seen it. A "
        f"class that an image shows was its given label with an estimated probability of "
        f"{calibration['propensity']:.2f}. The estimate is for images like those of the training. Masks come from a "
        "coarse grid of patches.",
    ]
    rows = scores["estimates"].get(scores["evidence"], {}).get("reliability", [])
    if rows:
        found += ["", "| score | labels | mean score | given labels |", "|---|---|---|---|"]
        for row in rows:
            mean = "" if row["score"] is None else f"{row['score']:.2f}"
            found.append(f"| {row['low']:g} to {row['high']:g} | {row['labels']:,} | {mean} | {row['given']:,} |")
    return found
