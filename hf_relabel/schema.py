"""Every table of the pipeline: the stages' Arrow schemas and the release's `datasets` features.

A stage's table has one row per image, in the order of the shard's image ids, with lists for an image's proposals. The
tables of two stages therefore join by position, and an image without proposals still has a row. Pooled features are not
in a table: each proposals shard has a float16 array next to it, see `FEATURES`.
"""

import json
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1

CONFIG_NAMES = ("labels", "regions")

RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
"""COCO run-length encoding: size [height, width], counts of column-major runs in COCO's compressed ASCII."""

PROPOSAL = pa.struct(
    [
        ("proposal_id", pa.string()),  # f"{image_id}#{k}", k counts from 0
        ("bbox", pa.list_(pa.float32())),  # x, y, width, height in pixels
        ("area", pa.int64()),  # pixels
        ("patches", pa.int32()),  # number of patches that its features are averaged over
        ("segmentation", RLE),
    ]
)

PROPOSALS = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("width", pa.int32()),  # after EXIF rotation; 0 in an error row
        ("height", pa.int32()),
        ("error", pa.string()),  # why the image has no proposals; null if it was read
        ("feature_row", pa.int64()),  # first row in FEATURES: the whole image, then its proposals; -1 in an error row
        ("proposals", pa.list_(PROPOSAL)),
    ]
)

FEATURES = "float16 [regions, 1 + views, dim]"
"""`<shard>.npy`: for each image one row for the whole image and one per proposal. [:, 0] is the mean over all patches
of the region, [:, 1:] are means with some patches dropped at random."""

SCORE = pa.struct(
    [
        ("proposal_id", pa.string()),
        ("top_labels", pa.list_(pa.int32())),
        ("top_scores", pa.list_(pa.float32())),
        ("original_score", pa.float32()),  # probability of the image's original label
        ("kept", pa.bool_()),
        ("target", pa.int32()),  # class it trains with; -1 if it is dropped
        ("reason", pa.string()),  # why it was dropped; null if it is kept
    ]
)

SCORES = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("whole_image", pa.bool_()),  # the whole image trains with its original label (score.force_original)
        ("error", pa.string()),
        ("proposals", pa.list_(SCORE)),
    ]
)

REGION = pa.struct(
    [
        ("proposal_id", pa.string()),
        ("top_labels", pa.list_(pa.int32())),
        ("top_scores", pa.list_(pa.float32())),
    ]
)

REGIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("error", pa.string()),
        ("global_labels", pa.list_(pa.int32())),  # the labeler's prediction for the whole image
        ("global_scores", pa.list_(pa.float32())),
        ("proposals", pa.list_(REGION)),
    ]
)


def release_features(config_name: str, class_names: list[str]) -> Any:
    """Return the `datasets.Features` of a release configuration.

    `labels` (small, the default): image_id, label (the original), labels and scores (the multi-label annotation,
    highest score first), version. `regions` adds the image's size and every region with its mask.
    """
    from datasets import ClassLabel, Features, List, Value

    class_label = ClassLabel(names=class_names)
    columns = {
        "image_id": Value("string"),
        "label": class_label,
        "labels": List(class_label),
        "scores": List(Value("float32")),
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
            "segmentation": {"size": List(Value("int32")), "counts": Value("string")},
        }
        columns |= {"width": Value("int32"), "height": Value("int32"), "regions": List(region)}
    return Features(columns | {"version": Value("string")})


def release_schema(config_name: str, class_names: list[str]) -> pa.Schema:
    """Return the Arrow schema of a release file, with metadata that datasets 2.14 to 5 read.

    datasets < 4 does not know the feature type `List`; all versions read the older notation `[feature]`.
    """
    schema = release_features(config_name, class_names).arrow_schema
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
