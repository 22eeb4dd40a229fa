"""The images of a release, in a folder of an export: links to the user's own images, or copies."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from hf_relabel.errors import FormatError
from hf_relabel.release.reader import Release


def image_ids(release: Release) -> Iterator[str]:
    """The image ids of a release in its order; a release's ids are safe as paths within a folder."""
    for batch in release.batches("labels", ["image_id"]):
        yield from batch["image_id"].to_pylist()


def check_images(release: Release, images: Path) -> None:
    """Raise FormatError if images are missing, on which the readers of an export would fail."""
    if not images.is_dir():
        raise FormatError(f"--images {images}: no such folder")
    missing: list[str] = []
    number = 0
    for image_id in image_ids(release):
        if not (images / image_id).is_file():
            number += 1
            missing = [*missing, image_id][:3]
    if number:
        shown = ", ".join(map(repr, missing))
        raise FormatError(
            f"--images {images}: {number} of the release's {release.num_images} images are not there: {shown}; give "
            "the folder that was relabeled"
        )


def place_image(source: Path, target: Path, copy: bool) -> None:
    """Link to an image, or copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copy2(source, target)
    else:
        target.symlink_to(source.resolve())
