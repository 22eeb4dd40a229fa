"""Every table of the pipeline: the stages' Arrow schemas and the release's `datasets` features.

A stage's table has one row per image, in the order of the shard's image ids, with lists for an image's proposals. The
tables of two stages therefore join by position, and an image without proposals still has a row. Pooled features are not
in a table: each proposals shard has a float16 array next to it, see `FEATURES`.
"""

import json
from typing import Any, NamedTuple

import pyarrow as pa

from hf_relabel.config.json_file import parse_json

SCHEMA_VERSION = 2

READABLE_VERSIONS = (1, SCHEMA_VERSION)
"""Versions of a release that can be read. Version 1 has no `label_score` and no region's `generator`; both are null."""

CONFIG_NAMES = ("labels", "regions")

NULLABLE = ("label", "label_score", "regions.generator")
"""Columns of a release, and fields of its regions, that need not have a value."""


class Excluded(NamedTuple):
    """An image that is left out, a line of `excluded.jsonl`.

    Args:
        image_id: The image.
        reason: Why it is left out.
        split: Its split; None if the release has only one.
    """

    image_id: str
    reason: str
    split: str | None = None

    @classmethod
    def parse(cls, line: str) -> "Excluded":
        """Read a line; raises KeyError or ValueError."""
        row = parse_json(line)
        return cls(row["image_id"], row["reason"], row.get("split"))

    def line(self) -> str:
        """Return the image as a line of JSON."""
        row = {key: value for key, value in self._asdict().items() if value is not None}
        return json.dumps(row, ensure_ascii=False) + "\n"


RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
"""COCO run-length encoding: size [height, width], counts of column-major runs in COCO's compressed ASCII."""

PROPOSAL = pa.struct(
    [
        ("proposal_id", pa.string()),  # f"{image_id}#{k}", k counts from 0
        ("generator", pa.string()),  # one of GENERATORS
        ("feature_row", pa.int64()),  # its row in FEATURES
        ("views", pa.int32()),  # number of the following rows that are its views
        ("patches", pa.int32()),  # number of patches that its features are averaged over
        ("grid_mask", pa.binary()),  # its patches, see vision.masks.pack
        ("segmentation", RLE),  # at the image's size; null if it is the enlarged grid mask
    ]
)

PROPOSALS = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),  # NO_LABEL for an image without one
        ("width", pa.int32()),  # after EXIF rotation; 0 in an error row
        ("height", pa.int32()),
        ("sha256", pa.string()),  # hash of the image's file, in hexadecimal; null in an error row
        ("error", pa.string()),  # why the image has no proposals; null if it was read
        ("grid", pa.list_(pa.int32())),  # patches down and across; empty in an error row
        ("feature_row", pa.int64()),  # the whole image's row in FEATURES; -1 in an error row
        ("window_row", pa.int64()),  # the first window's row in FEATURES; -1 in an error row
        ("windows", pa.int32()),  # number of windows, with one row of FEATURES each
        ("proposals", pa.list_(PROPOSAL)),
    ]
)

GENERATORS = ("maskcut", "merge", "file")
"""Where a proposal's mask comes from: MaskCut, merging of patches, or a user's file."""

FEATURES = "float16 [rows, dim]"
"""`<shard>.npy`: the pooled features of each image's regions, one after another. Some proposals have `1 + views` rows,
the mean over all patches of the region and then means with some patches dropped at random; the whole image, the other
proposals and the windows have one row each."""

NO_LABEL = -1
"""Label of an image without one, in the stages' tables; a release has null instead."""

TARGET_NOTHING, TARGET_BACKGROUND = -1, -2
"""Targets of regions that do not train as a class."""

SCORE = pa.struct(
    [
        ("proposal_id", pa.string()),
        ("top_labels", pa.list_(pa.int32())),
        ("top_scores", pa.list_(pa.float32())),
        ("original_score", pa.float32()),  # probability of the image's original label
        ("background_score", pa.float32()),  # probability of the background; null without a background class
        ("target", pa.int32()),  # class it trains as, or TARGET_NOTHING or TARGET_BACKGROUND
        ("reason", pa.string()),  # why
    ]
)

WINDOW_SCORE = pa.struct([("target", pa.int32()), ("reason", pa.string())])

SCORES = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("whole_image", pa.bool_()),  # the whole image trains with its original label (score.force_original)
        ("error", pa.string()),
        ("proposals", pa.list_(SCORE)),
        ("windows", pa.list_(WINDOW_SCORE)),  # row by row
    ]
)

REGION = pa.struct(
    [
        ("proposal_id", pa.string()),
        ("top_labels", pa.list_(pa.int32())),
        ("top_scores", pa.list_(pa.float32())),  # softmax of the labeler, over the classes and the background
        ("background_score", pa.float32()),  # the background's part of it; 0 without a background class
    ]
)

WINDOW_REGION = pa.struct([("top_labels", pa.list_(pa.int32())), ("top_scores", pa.list_(pa.float32()))])

IMAGE_LABEL = pa.struct(
    [
        ("label", pa.int32()),
        ("score", pa.float32()),  # probability that the label is true; null for the original label
        ("proposal", pa.int32()),  # number of the proposal with the highest margin for it; -1 without proposals
    ]
)

REGIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("error", pa.string()),
        ("global_labels", pa.list_(pa.int32())),  # the labeler's prediction for the whole image
        ("global_scores", pa.list_(pa.float32())),
        ("label_score", pa.float32()),  # probability that a region shows the original label; null if not calibrated
        ("labels", pa.list_(IMAGE_LABEL)),  # the original label, then the other possible ones, highest score first
        ("proposals", pa.list_(REGION)),
        ("windows", pa.list_(WINDOW_REGION)),  # row by row
    ]
)


HUMAN, MACHINE = "human", "machine"
"""Values of the column `source` of a release with corrections: whether a person has checked anything in the row."""


def release_features(config_name: str, class_names: list[str], corrected: bool = False) -> Any:
    """Return the `datasets.Features` of a release configuration.

    `labels` (small, the default): image_id, label (the original), labels and scores (the multi-label annotation,
    highest score first; the original label has score 1), label_score (the probability that a region shows the original
    label; null if it was not measured), version. `regions` adds the image's size and its regions with their masks.

    A release with corrections by hand (`corrected`) also has source (`human` if a person checked anything in the row,
    else `machine`) and checked_labels (the classes that were checked: those in `labels` are true, the others false).
    """
    from datasets import ClassLabel, Features, List, Value

    class_label = ClassLabel(names=class_names)
    columns = {
        "image_id": Value("string"),
        "label": class_label,
        "labels": List(class_label),
        "scores": List(Value("float32")),
        "label_score": Value("float32"),
    }
    if config_name == "regions":
        region = {
            "region_id": Value("string"),
            "label": class_label,
            "score": Value("float32"),
            "top_labels": List(class_label),
            "top_scores": List(Value("float32")),
            "bbox": List(Value("float32")),
            "area": Value("int64"),
            "generator": Value("string"),
            "segmentation": {"size": List(Value("int32")), "counts": Value("string")},
        }
        columns |= {"width": Value("int32"), "height": Value("int32"), "regions": List(region)}
    if corrected:
        columns |= {"source": Value("string"), "checked_labels": List(class_label)}
    return Features(columns | {"version": Value("string")})


def release_schema(config_name: str, class_names: list[str], corrected: bool = False) -> pa.Schema:
    """Return the Arrow schema of a release file, with metadata that datasets 2.14 to 5 read.

    datasets < 4 does not know the feature type `List`; all versions read the older notation `[feature]`.
    """
    return portable_schema(release_features(config_name, class_names, corrected))


def portable_schema(features: Any) -> pa.Schema:
    """Return the Arrow schema of `datasets.Features`, with metadata that datasets 2.14 to 5 read."""
    schema = features.arrow_schema
    metadata = json.loads(schema.metadata[b"huggingface"])
    metadata["info"]["features"] = _lists_in_brackets(metadata["info"]["features"])
    return schema.with_metadata({"huggingface": json.dumps(metadata)})


def _lists_in_brackets(feature: Any) -> Any:
    if isinstance(feature, list):
        return [_lists_in_brackets(item) for item in feature]
    if not isinstance(feature, dict):
        return feature
    if feature.get("_type") == "List":
        return [_lists_in_brackets(feature["feature"])]
    return {key: _lists_in_brackets(value) for key, value in feature.items()}
