"""Values that the Hub accepts in the front matter of a dataset card, as far as the test server checks them.

They are separate from the package's own list, so that a mistake there is found here.
"""

from collections.abc import Collection
from typing import Any

TASK_CATEGORIES = {
    "image-classification",
    "image-segmentation",
    "object-detection",
    "mask-generation",
    "zero-shot-image-classification",
    "image-feature-extraction",
    "other",
}
TASK_IDS = {
    "multi-label-image-classification",
    "multi-class-image-classification",
    "instance-segmentation",
    "semantic-segmentation",
    "panoptic-segmentation",
}
CREATORS = {"machine-generated", "expert-generated", "crowdsourced", "found", "no-annotation", "other"}
SIZES = {
    "n<1K",
    "1K<n<10K",
    "10K<n<100K",
    "100K<n<1M",
    "1M<n<10M",
    "10M<n<100M",
    "100M<n<1B",
    "1B<n<10B",
    "10B<n<100B",
    "100B<n<1T",
    "n>1T",
}
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "other", "unknown"}


def metadata_errors(metadata: Any, licenses: Collection[str] = LICENSES) -> list[str]:
    """Errors that the Hub would report for a front matter."""
    if not isinstance(metadata, dict):
        return ["the front matter is no mapping"]
    errors = []
    for key, allowed in (
        ("task_categories", TASK_CATEGORIES),
        ("task_ids", TASK_IDS),
        ("annotations_creators", CREATORS),
        ("size_categories", SIZES),
    ):
        values = metadata.get(key, [])
        if not isinstance(values, list):
            errors.append(f"{key} must be a list")
        else:
            errors += [f"{key}: {value!r} is not allowed" for value in values if value not in allowed]
    license_id = metadata.get("license")
    if license_id is not None and license_id not in licenses:
        errors.append(f"license: {license_id!r} is not allowed")
    if license_id == "other" and not ("license_name" in metadata and "license_link" in metadata):
        errors.append("license: other needs license_name and license_link")
    if "pretty_name" in metadata and not isinstance(metadata["pretty_name"], str):
        errors.append("pretty_name must be a string")
    names = []
    for config in metadata.get("configs", []):
        if not {"config_name", "data_files"} <= config.keys():
            errors.append("configs: an entry lacks config_name or data_files")
        names.append(config.get("config_name"))
    if len(names) != len(set(names)):
        errors.append("configs: a name occurs twice")
    return errors
