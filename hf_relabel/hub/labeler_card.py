"""The card of a published labeler: what it is, how to use it, and what its scores are worth."""

import re
from typing import Any

import yaml

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
    is_local = bool(backbone.get("weights_sha256"))
    metadata: dict[str, Any] = {
        **license.fields(),
        "library_name": "hf_relabel",
        "pipeline_tag": "image-classification",
        "tags": ["multi-label", "relabeling", "hf_relabel"],
    }
    if not is_local and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(backbone["model"]), re.ASCII):
        metadata["base_model"] = backbone["model"]
    names = record["class_names"]
    listed = ", ".join(map(escape, names[:MAX_CLASSES])) + (
        f", and {len(names) - MAX_CLASSES:,} more" if len(names) > MAX_CLASSES else ""
    )
    revision = f', revision="{tag}"' if tag else ""
    needs = ', backbone="folder/of/the/backbone"' if is_local else ""
    source = (
        f"a local {escape(backbone.get('architecture', 'model'))}, weights SHA-256 `{backbone['weights_sha256']}`"
        if is_local
        else f"`{one_line(backbone['model'])}`, revision `{one_line(backbone.get('revision'))}`"
    )
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
        f"| backbone | {source} |",
        f"| image size | {backbone['image_size']} px |",
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
