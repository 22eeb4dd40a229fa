"""An image folder as a source: one subfolder per class, like ImageNet's `train/`."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.sources.classes import ClassList, imagenet_classes, read_class_list
from hf_relabel.sources.image_ids import is_safe
from hf_relabel.sources.path import check_source_path

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".gif",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".jp2",
        ".avif",
    ]
)

SYSTEM_FOLDERS = frozenset(["__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir"])
"""Folders that operating systems and archive tools create; they contain no images of a class."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderImages:
    """Images by their path below a root folder.

    Args:
        root: The folder.
        image_ids: POSIX paths relative to it.
        sizes: Size of each file in bytes, int64 [N]; -1 for a broken link.
        modified: Modification time of each file in nanoseconds since 1970, int64 [N]; -1 for a broken link.
    """

    root: str
    image_ids: list[str]
    sizes: np.ndarray
    modified: np.ndarray

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""
        return open(os.path.join(self.root, self.image_ids[index]), "rb")

    def content_key(self) -> bytes:
        """Bytes that change when a file is replaced; no file is opened."""
        return self.sizes.astype("<i8").tobytes() + self.modified.astype("<i8").tobytes()


@dataclass
class _Scan:
    """What the walk through the folder has found so far."""

    image_ids: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    modified: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, image_id: str, entry: os.DirEntry) -> None:
        """Add an image with the size and modification time of its file."""
        try:
            stat = entry.stat()
            size, modified = stat.st_size, stat.st_mtime_ns
        except FileNotFoundError:
            size, modified = -1, -1  # a broken link, or a file deleted just now: reading it gives the error
        self.image_ids.append(image_id)
        self.sizes.append(size)
        self.modified.append(modified)


def scan_folder(config: SourceConfig) -> tuple[FolderImages, np.ndarray, list[str]]:
    """Find the images in a folder; no file is opened.

    Hidden and system files and folders are ignored. Class folders without images, files without an image suffix,
    files next to the class folders, and links to folders below them are skipped with a warning.

    Returns:
        The N images sorted by id, their labels int32 [N], and the C class names.

    Raises:
        SourceError: The folder is missing or contains no images, a subfolder is not a known class, or a file name
            cannot be an image id.
    """
    check_source_path(config)
    root = Path(config.path)
    scan = _Scan()
    try:
        folders = []
        for entry in _visible(root):
            if entry.is_dir():
                folders.append(entry.name)
            else:
                scan.left_out.append(entry.name)
        counts = []
        for name in sorted(folders):
            before = len(scan.image_ids)
            _walk(root / name, f"{name}/", scan)
            counts.append(len(scan.image_ids) - before)
    except OSError as error:
        raise SourceError(f"{error.filename}: cannot be listed ({error.strerror})") from error
    folders.sort()
    if not scan.image_ids:
        raise SourceError(_no_images(root, folders, scan.left_out))
    _check_names(root, scan.image_ids)
    images_in = dict(zip(folders, counts, strict=True))
    _report(root, scan.left_out, [name for name in folders if not images_in[name]])
    images_in = {name: count for name, count in images_in.items() if count}
    classes = _classes(config, list(images_in))
    index_of = classes.indices(list(images_in), str(root))
    labels = np.repeat(np.array([index_of[name] for name in images_in], np.int32), list(images_in.values()))
    order = sorted(range(len(scan.image_ids)), key=scan.image_ids.__getitem__)[: config.limit]
    images = FolderImages(
        config.path,
        [scan.image_ids[place] for place in order],
        np.array(scan.sizes, np.int64)[order],
        np.array(scan.modified, np.int64)[order],
    )
    return images, labels[order], classes.names


def _classes(config: SourceConfig, folders: list[str]) -> ClassList:
    if config.class_names is not None:
        return read_class_list(config.class_names)
    imagenet = imagenet_classes()
    if set(folders) <= set(imagenet.keys or []):
        return imagenet
    if all(name.isdecimal() and str(int(name)) == name for name in folders):
        folders = sorted(folders, key=int)  # class indices, as in ImageNet-V2: 10 comes after 9
    return ClassList(config.path, folders, folders)


def _visible(folder: Path | str) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS:
                yield entry


def _walk(folder: Path | str, prefix: str, scan: _Scan) -> None:
    """Add the images below a folder; their ids start with `prefix`."""
    below = []
    for entry in _visible(folder):
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            below.append(entry)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not entry.is_dir():
            scan.add(name, entry)
        else:
            scan.left_out.append(name)  # includes links to folders, which could form a loop
    for entry in below:
        _walk(entry.path, f"{prefix}{entry.name}/", scan)


def _check_names(root: Path, image_ids: list[str]) -> None:
    unsafe = next((name for name in image_ids if not is_safe(name)), None)
    if unsafe is not None:
        raise SourceError(f"{root}: the file name {unsafe!a} has characters that image ids cannot have; rename it")


def _no_images(root: Path, folders: list[str], left_out: list[str]) -> str:
    if not folders and not left_out:
        return f"{root}: the folder is empty; it needs one subfolder per class that contains the images of the class"
    found = f"{len(folders)} subfolders and {len(left_out)} other files"
    return f"{root}: no images in class subfolders, found {found}; arrange the images as <class>/<name>.jpg"


def _report(root: Path, left_out: list[str], empty: list[str]) -> None:
    if left_out:
        logger.warning("%s: skipped %d other files, such as %s", root, len(left_out), ascii(min(left_out)))
    if empty:
        logger.warning("%s: skipped %d folders without images, such as %s", root, len(empty), ascii(empty[0]))
