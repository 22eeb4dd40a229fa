"""The photos of a release by image id, and small copies of them for a page."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import ImageReadError
from hf_relabel.run.store import atomic_open
from hf_relabel.sources.decoding import LoadedImage, decode
from hf_relabel.sources.image_ids import is_safe
from hf_relabel.sources.source import Source

THUMBNAIL, PHOTO = 256, 720
"""Longer sides of the small and the large copy in pixels; a smaller image keeps its size."""

_QUALITY = 82


@dataclass(frozen=True)
class Photos:
    """Photos by image id.

    Args:
        load: Decodes an image; the second argument is the smallest side that is needed. Raises ImageReadError.
        key: Text that changes when the image is replaced.
    """

    load: Callable[[str, int], LoadedImage]
    key: Callable[[str], str]


def photos_in_folder(folder: Path) -> Photos:
    """The photos of a folder; image ids are paths in it."""

    def path_of(image_id: str) -> Path:
        if not is_safe(image_id):
            raise ImageReadError(f"{image_id!a}: leads out of the folder")
        return folder / image_id

    def load(image_id: str, min_side: int) -> LoadedImage:
        try:
            with open(regular_file(path_of(image_id)), "rb") as file:
                return decode(file, min_side)
        except OSError as error:
            raise ImageReadError(f"{image_id}: {error.strerror or error}") from error

    def key(image_id: str) -> str:
        try:
            found = path_of(image_id).stat()
        except (OSError, ImageReadError):
            return ""
        return f"{found.st_size} {found.st_mtime_ns}"

    return Photos(load, key)


def photos_of_source(source: Source) -> Photos:
    """The photos of an opened source."""

    places = {image_id: place for place, image_id in enumerate(source.image_ids)}

    def load(image_id: str, min_side: int) -> LoadedImage:
        if image_id not in places:
            raise ImageReadError(f"{image_id}: not in the source")
        return source.load(places[image_id], min_side)

    fingerprint = source.fingerprint
    return Photos(load, lambda image_id: fingerprint)


@dataclass(frozen=True)
class Copy:
    """The copies of a photo.

    Args:
        image_id: The photo.
        name: Name of both files, in `thumbs/` and `photos/`; None if the photo cannot be read.
        error: Why it cannot be read; None if it can.
    """

    image_id: str
    name: str | None
    error: str | None = None


def make_copies(photos: Photos, image_ids: Iterable[str], folder: Path) -> Iterator[Copy]:
    """Write the copies that are not there yet, and yield one `Copy` per photo in the given order.

    Their names depend on the photo, so that a second page of the same photos finds them.
    """
    for name in ("thumbs", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Pillow decodes, resizes and encodes without holding the interpreter's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda image_id: _copy(photos, image_id, folder), image_ids)


def _copy(photos: Photos, image_id: str, folder: Path) -> Copy:
    digest = hashlib.sha256(f"{THUMBNAIL} {PHOTO} {image_id}\n{photos.key(image_id)}".encode("utf-8", "replace"))
    name = f"{digest.hexdigest()[:20]}.jpg"
    sizes = {folder / "thumbs" / name: THUMBNAIL, folder / "photos" / name: PHOTO}
    if all(path.exists() for path in sizes):
        return Copy(image_id, name)
    try:
        picture = photos.load(image_id, PHOTO).image
    except ImageReadError as error:
        return Copy(image_id, None, str(error))
    for path, side in reversed(sizes.items()):
        if max(picture.size) > side:
            picture = picture.resize(fitted(picture.width, picture.height, side), Image.Resampling.LANCZOS)
        with atomic_open(path) as file:
            picture.save(file, "JPEG", quality=_QUALITY)
    return Copy(image_id, name)


def fitted(width: int, height: int, side: int = PHOTO) -> tuple[int, int]:
    """Width and height reduced so that the longer side has at most `side` pixels."""
    scale = min(1.0, side / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))
