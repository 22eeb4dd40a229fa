"""Pictures of a finished run: some images of the release with their regions drawn over them."""

import hashlib
from bisect import bisect_left
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hf_relabel.errors import RelabelError
from hf_relabel.pictures.overlays import contact_sheet, draw_row
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.release.samples import spread_rows
from hf_relabel.release.versions import stored_releases
from hf_relabel.run.job import Job
from hf_relabel.run.store import atomic_open, make_folder

FOLDER = "overlays"
SHEET = "sheet.png"
IMAGES = 12
COLUMNS = ["image_id", "label", "labels", "regions"]

RELEASE_KEY = "hf_relabel release"
"""Text entry of the sheet with the hash of its release's manifest, so that a sheet is drawn once per release."""


def draw_overlays(job: Job) -> str:
    """Draw images from all splits of the run with their regions: one JPEG each, and a sheet of them.

    Splits of the release that come from an earlier one (`build.base`) have their images elsewhere.

    Returns:
        Where the sheet is, or why there is none: a release stays valid without its images.
    """
    folder = job.folder / FOLDER
    try:
        release = stored_releases(job.folder)[job.config.build.version]
        digest = hashlib.sha256((release.folder / MANIFEST).read_bytes()).hexdigest()
        if _release_of(folder / SHEET) != digest:
            _draw(job, release, folder, digest)
    except (RelabelError, OSError, ValueError, KeyError) as error:
        return f"not drawn ({' '.join(str(error).split())})"
    return str(folder / SHEET)


def _draw(job: Job, release: Release, folder: Path, digest: str) -> None:
    make_folder(folder)
    pictures, captions = [], []
    for split, row in spread_rows(release, list(job.snapshot.split_sizes), IMAGES, COLUMNS):
        image = job.source.load(_place(job, split, row["image_id"])).image
        picture = draw_row(image, row, release.class_names)
        name = row["image_id"].replace("/", "-")
        with atomic_open((folder / name).with_suffix(".jpg")) as file:
            picture.save(file, "JPEG", quality=90)
        pictures.append(picture)
        found = ", ".join(release.class_names[label] for label in row["labels"])
        given = [] if row["label"] is None else [f"given: {release.class_names[row['label']]}"]
        captions.append((*given, f"now: {found}"))
    info = PngInfo()
    info.add_text(RELEASE_KEY, digest)
    with atomic_open(folder / SHEET) as file:
        contact_sheet(pictures, captions=captions).save(file, "PNG", pnginfo=info)


def _place(job: Job, split: str, image_id: str) -> int:
    """Return the index of an image in the source.

    Raises:
        ValueError: The source no longer has it.
    """
    ids, first = job.source.image_ids, 0
    for name, size in job.source.split_sizes.items():  # sorted within each split
        # The release has the split's name before ids that an earlier release has in another split.
        for own in (image_id, image_id.removeprefix(f"{split}/")) if name == split else ():
            place = bisect_left(ids, own, first, first + size)
            if place < first + size and ids[place] == own:
                return place
        first += size
    raise ValueError(f"the source no longer has {image_id}")


def _release_of(sheet: Path) -> str | None:
    """Return the hash that a sheet carries; None if there is no readable sheet."""
    try:
        with Image.open(sheet) as picture:
            return picture.info.get(RELEASE_KEY)
    except OSError:
        return None
