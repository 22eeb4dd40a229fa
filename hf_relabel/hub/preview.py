"""The configuration `preview`: some images with their regions drawn in, for the Hub's dataset viewer.

The viewer shows pictures but draws no run lengths, so without it nobody sees a mask there. It contains pixels of the
source's images, so it is only made if their license allows that they are published again, changed.
"""

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hf_relabel.errors import HubError
from hf_relabel.hub.card_plots import shown_image
from hf_relabel.hub.licenses import check_license_id
from hf_relabel.pictures.overlays import draw_row
from hf_relabel.release.layout import content_digest, data_file_name
from hf_relabel.release.reader import Release
from hf_relabel.release.samples import spread_rows
from hf_relabel.schema import portable_schema

CONFIG_NAME = "preview"

MAX_ROWS = 500

SIDE = 640
"""Longer side of a picture in pixels."""

UNCLEAR = {"cc", "other", "unknown"}
"""License identifiers that do not say what they allow."""


@dataclass(frozen=True)
class Preview:
    """The file of the configuration.

    Args:
        path: Its path in the repository.
        content: The Parquet file.
        rows: Number of images.
        left_out: Number of images that could not be read, by reason.
    """

    path: str
    content: bytes
    rows: int
    left_out: Counter[str]

    @property
    def config(self) -> dict[str, Any]:
        """Its entry among the `configs` of the card's front matter."""
        split = Path(self.path).name.partition("-")[0]
        return {"config_name": CONFIG_NAME, "data_files": [{"split": split, "path": self.path}]}


def why_no_preview(license_id: str | None) -> str | None:
    """Why pictures with regions drawn in must not be published under a license of the images; None if they may be."""
    if license_id is None:
        return "the license of the images is not known; name it with --images-license if it allows redistribution"
    check_license_id(license_id, "--images-license")
    if license_id in UNCLEAR:
        return f"the license {license_id} does not say whether the images may be redistributed"
    if "-nd" in license_id:
        return f"the license {license_id} does not allow changed images to be redistributed"
    return None


def make_preview(release: Release, images: Path, count: int = MAX_ROWS) -> Preview:
    """Draw images at equal distances, with their regions.

    Args:
        release: The release.
        images: Folder of the source's images.
        count: Maximum number of images.

    Raises:
        HubError: No image could be read.
        ReleaseError: A mask has another size than its image.
    """
    from datasets import ClassLabel, Features, List, Value
    from datasets import Image as ImageFeature

    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for _, row in spread_rows(release, [release.split], count):
        try:
            image = shown_image(images, row["image_id"])
        except HubError as error:
            left_out[str(error)] += 1
            continue
        picture = draw_row(image, row, release.class_names)
        if max(picture.size) > SIDE:
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=88)
        rows.append(
            {"image": {"bytes": file.getvalue(), "path": None}}
            | {key: row[key] for key in ("image_id", "label", "labels", "scores")}
        )
    if not rows:
        reason = next(iter(left_out), "the release has no images")
        raise HubError(f"preview: no image could be drawn ({reason})")
    name = ClassLabel(names=release.class_names)
    features = Features(
        {
            "image": ImageFeature(),
            "image_id": Value("string"),
            "label": name,
            "labels": List(name),
            "scores": List(Value("float32")),
        }
    )
    table = pa.Table.from_pylist(rows, schema=portable_schema(features))
    output = io.BytesIO()
    pq.write_table(table, output, row_group_size=100)
    digest = content_digest([hashlib.sha256(output.getvalue()).hexdigest()])
    path = f"data/{CONFIG_NAME}/{data_file_name(release.split, 0, 1, digest)}"
    return Preview(path, output.getvalue(), len(rows), left_out)
