"""Export a release as a folder for FiftyOne's `COCODetectionDataset` importer: `labels.json` and the images.

The importer expects the images in `data/` inside the folder, by `file_name`, or in its `data_path`. The export
therefore either links (or copies) the images, or writes the labels only.
"""

from pathlib import Path

from hf_relabel.formats.coco_export import Exported, write_coco
from hf_relabel.formats.mask_formats import MaskFormat
from hf_relabel.formats.output import new_folder
from hf_relabel.formats.release_images import check_images, image_ids, place_image
from hf_relabel.release.reader import Release
from hf_relabel.run.store import atomic_open

CARRIES = (
    "FiftyOne shows boxes, masks, classes and confidences of the regions, with region_id, label_probability, "
    "top_category_ids, top_scores and generator as attributes. It does not read original labels, labels and scores of "
    "images from labels.json."
)

LABELS = "labels.json"
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
    with new_folder(folder, LABELS, (LABELS, DATA), overwrite) as staging:
        if images is not None:
            check_images(release, images)
        with atomic_open(staging / LABELS, "w") as file:
            exported = write_coco(release, file, masks)
        if images is not None:
            for image_id in image_ids(release):
                place_image(images / image_id, staging / DATA / image_id, copy)
    return exported
