"""Export a release as a folder for FiftyOne: `labels.json` with the regions, `image_labels.json`, and the images.

`labels.json` is for the importer of a `COCODetectionDataset`, which reads no labels of whole images; these are in
`image_labels.json` for the importer of a `FiftyOneImageClassificationDataset`.

The importers expect the images in `data/` inside the folder, or in their `data_path`. The export therefore either
links (or copies) the images, or writes the labels only.
"""

import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from hf_relabel.formats.coco_export import Exported, write_coco
from hf_relabel.formats.mask_formats import MaskFormat
from hf_relabel.formats.output import new_folder
from hf_relabel.formats.release_images import check_images, image_ids, place_image
from hf_relabel.release.reader import Release
from hf_relabel.run.store import atomic_open

CARRIES = (
    "FiftyOne shows boxes, masks, classes and confidences of the regions, with region_id, label_probability, "
    "top_category_ids, top_scores and generator as attributes, and from image_labels.json the labels and scores of "
    "images. Original labels are only in labels.json, where it does not read them."
)

LABELS = "labels.json"
IMAGE_LABELS = "image_labels.json"
DATA = "data"


def export_fiftyone(
    release: Release,
    folder: Path,
    *,
    images: Path | None = None,
    copy: bool = False,
    masks: MaskFormat = "rle",
    overwrite: bool = False,
) -> Exported:
    """Write a release as a folder for FiftyOne, completely or not at all.

    Args:
        release: The release.
        folder: The folder to create.
        images: Folder of the release's images, to which `data/` links; None omits `data/`.
        copy: Copy the images instead of linking to them.
        masks: How the masks are written.
        overwrite: Replace an existing folder of this kind.

    Raises:
        FormatError: The folder exists, images are missing, or the folder cannot be written.
        ReleaseError: The release cannot be read.
    """
    with new_folder(folder, LABELS, (LABELS, IMAGE_LABELS, DATA), overwrite) as staging:
        if images is not None:
            check_images(release, images)
        with atomic_open(staging / LABELS, "w") as file:
            exported = write_coco(release, file, masks)
        with atomic_open(staging / IMAGE_LABELS, "w") as file:
            json.dump(_image_labels(release), file, ensure_ascii=False)
        if images is not None:
            for image_id in image_ids(release):
                place_image(images / image_id, staging / DATA / image_id, copy)
    return exported


def _image_labels(release: Release) -> dict[str, Any]:
    """The labels and scores of each image by its path without suffix, which is what the importer looks up.

    Images that differ only in their suffix would get each other's labels, so they have none here.
    """
    rows = list(release.rows("labels", ["image_id", "labels", "scores"]))
    keys = [PurePosixPath(row["image_id"]).with_suffix("").as_posix() for row in rows]
    count = Counter(keys)
    labels = {
        key: [
            {"label": release.class_names[label], "confidence": score}
            for label, score in zip(row["labels"], row["scores"], strict=True)
        ]
        for key, row in zip(keys, rows, strict=True)
        if count[key] == 1
    }
    return {"classes": release.class_names, "labels": labels}
