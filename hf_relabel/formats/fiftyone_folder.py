"""Export a release as a folder for FiftyOne's `COCODetectionDataset` importer: `labels.json` and the images.

The importer expects the images in `data/` inside the folder, by `file_name`, or in its `data_path`. The export
therefore either links (or copies) the images, or writes the labels only.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from hf_relabel.errors import FormatError, ReleaseError
from hf_relabel.formats.coco_export import Exported, write_coco
from hf_relabel.release.reader import Release
from hf_relabel.run.store import atomic_open
from hf_relabel.sources.image_ids import is_safe

CARRIES = (
    "FiftyOne shows boxes, masks, classes and confidences of the regions, with region_id, top_category_ids, top_scores "
    "and generator as attributes. It does not read original labels, labels and scores of images from labels.json."
)

LABELS = "labels.json"
DATA = "data"


def export_fiftyone(
    release: Release, folder: Path, *, images: Path | None = None, copy: bool = False, overwrite: bool = False
) -> Exported:
    """Write a release as a folder for FiftyOne, completely or not at all.

    Args:
        release: The release.
        folder: The folder to create.
        images: Folder of the release's images, to which `data/` links; None omits `data/`.
        copy: Copy the images instead of linking to them.
        overwrite: Replace an existing folder of this kind.

    Raises:
        FormatError: The folder exists, images are missing, or the folder cannot be written.
        ReleaseError: The release cannot be read, or an image id leads out of a folder.
    """
    _refuse_to_replace(folder, overwrite)
    if images is not None:
        _check_images(release, images)
    staging = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        with atomic_open(staging / LABELS, "w") as file:
            exported = write_coco(release, file)
        if images is not None:
            _fill(staging / DATA, release, images.resolve(), copy)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except OSError as error:
        raise FormatError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return exported


def _refuse_to_replace(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / LABELS).is_file() or any(path.name not in (LABELS, DATA) for path in folder.iterdir()):
        raise FormatError(f"{folder}: exists and contains other files; move it or choose another folder")
    if not overwrite:
        raise FormatError(f"{folder}: already exists; choose another folder, or replace it with --overwrite")


def _image_ids(release: Release) -> Iterator[str]:
    for batch in release.batches("labels", ["image_id"]):
        yield from batch["image_id"].to_pylist()


def _check_images(release: Release, images: Path) -> None:
    """Raise FormatError if images are missing, on which FiftyOne's importer would fail."""
    if not images.is_dir():
        raise FormatError(f"--images {images}: no such folder")
    missing: list[str] = []
    number = 0
    for image_id in _image_ids(release):
        if not is_safe(image_id):
            raise ReleaseError(
                f"{release.folder}: the image id {image_id!a} leads out of the folder; do not use this release"
            )
        if not (images / image_id).is_file():
            number += 1
            missing = [*missing, image_id][:3]
    if number:
        shown = ", ".join(map(repr, missing))
        raise FormatError(
            f"--images {images}: {number} of the release's {release.num_images} images are not there: {shown}; give "
            "the folder that was relabeled"
        )


def _fill(data: Path, release: Release, images: Path, copy: bool) -> None:
    for image_id in _image_ids(release):
        path = data / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copy2(images / image_id, path)
        else:
            path.symlink_to(images / image_id)
