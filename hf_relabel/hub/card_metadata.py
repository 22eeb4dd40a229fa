"""The front matter of a dataset card, and the values the Hub allows in it.

The client library does not check the values, and the server rejects invalid ones only after the upload, so they are
checked here. The lists are from the Hub's dataset card specification, reduced to datasets of labels and masks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_relabel.errors import HubError
from hf_relabel.hub.card_scores import generators_of
from hf_relabel.hub.licenses import check_license_id
from hf_relabel.release.layout import data_configs
from hf_relabel.release.markdown import one_line
from hf_relabel.release.reader import Release

TASK_CATEGORIES = ("image-classification", "image-segmentation", "object-detection", "mask-generation")
TASK_IDS = ("multi-label-image-classification", "instance-segmentation")
ANNOTATION_CREATORS = ("machine-generated", "expert-generated", "crowdsourced", "found", "no-annotation", "other")

SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
    (10_000_000_000, "1B<n<10B"),
)
"""Size categories, each with its upper limit on the number of rows (exclusive)."""


@dataclass(frozen=True)
class License:
    """The license of the labels.

    Args:
        id: The Hub's identifier; None means that no license is stated.
        name: Name of the license if `id` is `other`.
        link: Web address of its text if `id` is `other`.

    Raises:
        HubError: The Hub does not know the license, or the name or link is missing or not valid.
    """

    id: str | None = None
    name: str | None = None
    link: str | None = None

    def __post_init__(self) -> None:
        if self.id is not None:
            check_license_id(self.id)
        if self.id == "other" and not (self.name and self.link):
            raise HubError("license other: also needs a name and a link (--license-name, --license-link)")
        if self.link is not None and not re.fullmatch(r"https?://[^\s()<>\[\]\"'`|]+", self.link):
            raise HubError(f"license link {self.link!r}: must be a web address such as https://example.org/license")

    def fields(self) -> dict[str, str]:
        """The license as keys of the front matter."""
        keys = {"license": self.id, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in keys.items() if value is not None}


def card_metadata(
    release: Release,
    license: License,
    source_dataset: str | None,
    tags: list[str],
    more_configs: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Make the front matter of a release's card.

    Args:
        release: The release.
        license: License of the labels.
        source_dataset: Hub id of the dataset with the images.
        tags: Additional tags.
        more_configs: Entries of `configs` besides the release's own.

    Raises:
        HubError: The Hub would reject a value.
    """
    by_maskcut = ["maskcut"] if "maskcut" in generators_of(release.provenance) else []
    metadata: dict[str, Any] = {
        "pretty_name": one_line(release.name),
        **license.fields(),
        "annotations_creators": ["machine-generated"],
        "task_categories": ["image-classification", "image-segmentation", "object-detection"],
        "task_ids": list(TASK_IDS),
        "size_categories": [size_category(release.num_images)],
        "tags": ["multi-label", "relabeling", *by_maskcut, "hf_relabel", *tags],
        "configs": [*data_configs(release.splits, release.files), *more_configs],
    }
    if source_dataset:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source_dataset, re.ASCII):
            raise HubError(f"source dataset {source_dataset!r}: must be an id on the Hub such as user/name")
        metadata["source_datasets"] = [source_dataset]
    check_metadata(metadata)
    return metadata


def size_category(rows: int) -> str:
    """The Hub's size category for a number of rows."""
    return next(name for limit, name in SIZE_CATEGORIES if rows < limit)


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise HubError for the first value that the Hub would reject."""
    allowed = {
        "task_categories": TASK_CATEGORIES,
        "task_ids": TASK_IDS,
        "annotations_creators": ANNOTATION_CREATORS,
        "size_categories": tuple(name for _, name in SIZE_CATEGORIES),
    }
    for key, values in allowed.items():
        for value in metadata.get(key, []):
            if value not in values:
                raise HubError(f"card: {key} contains {value!r}, but the Hub allows only {', '.join(values)}")
    License(metadata.get("license"), metadata.get("license_name"), metadata.get("license_link"))
    names = [config["config_name"] for config in metadata.get("configs", [])]
    if len(names) != len(set(names)):
        raise HubError(f"card: duplicate configuration name ({', '.join(names)})")
