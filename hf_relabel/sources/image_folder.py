"""Images in a folder as a source: one subfolder per class, like ImageNet's `train/`, or a file of labels."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.schema import NO_LABEL, Excluded
from hf_relabel.sources.classes import ClassList, classes_of_keys, read_class_list
from hf_relabel.sources.image_ids import is_safe
from hf_relabel.sources.path import check_source_path
from hf_relabel.sources.selection import Selected, select_images

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2",
        ".avif", ".heic", ".heif",
    ]
)  # fmt: skip

SYSTEM_FOLDERS = frozenset(
    ["__MACOSX", "__pycache__", "lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir"]
)
"""Folders that operating systems and tools create; they contain no images of a class."""

SPLIT_FOLDERS = frozenset(["train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"])
"""Names of folders that are splits, in lower case, if they have subfolders with images."""

WRAPPER_FOLDERS = SPLIT_FOLDERS | {
    "images",
    "image",
    "imgs",
    "img",
    "data",
    "dataset",
    "ilsvrc",
    "cls-loc",
    "jpegimages",
}
"""Names of folders that are no classes, in lower case, if they have subfolders with images."""

BAD_NAME = "the file name has characters that image ids cannot have; rename it"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderImages:
    """Images by their path below a root folder.

    Args:
        root: The folder.
        image_ids: POSIX paths relative to it.
        sizes: Size of each file in bytes, int64 [N]; -1 for a link that leads to no file.
        modified: Modification time of each file in nanoseconds since 1970, int64 [N]; -1 for such a link.
    """

    root: str
    image_ids: list[str]
    sizes: np.ndarray
    modified: np.ndarray

    @property
    def fingerprint(self) -> None:
        """A folder has no fingerprint of its own; that of the source covers its files."""
        return None

    @property
    def commit(self) -> None:
        """A folder is not on the Hub."""
        return None

    @property
    def places(self) -> dict[str, np.ndarray]:
        """Where the images are, for the run's snapshot."""
        return {"sizes": self.sizes, "modified": self.modified}

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""
        return open(os.path.join(self.root, self.image_ids[index]), "rb")

    def content_key(self) -> bytes:
        """Bytes that change when a file is replaced; no file is opened."""
        return self.sizes.astype("<i8").tobytes() + self.modified.astype("<i8").tobytes()


@dataclass
class Scan:
    """What the walk through a folder has found.

    Args:
        image_ids: Paths below the folder of files with an image suffix, in the order in which they were found.
        sizes: Size of each in bytes; -1 for a link that leads to no file.
        modified: Modification time of each in nanoseconds; -1 for such a link.
        left_out: Paths of other files.
        excluded: Images that cannot be used, by their escaped paths.
    """

    image_ids: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    modified: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    excluded: list[Excluded] = field(default_factory=list)

    def add(self, image_id: str, entry: os.DirEntry) -> None:
        """Add an image with the size and modification time of its file."""
        if not is_safe(image_id):
            self.excluded.append(Excluded(ascii(image_id)[1:-1], BAD_NAME))
            return
        try:
            stat = entry.stat()
            size, modified = stat.st_size, stat.st_mtime_ns
        except OSError:
            size, modified = -1, -1  # a broken link, a link to itself, or a file deleted just now: reading it fails
        self.image_ids.append(image_id)
        self.sizes.append(size)
        self.modified.append(modified)

    def images(self, root: str, places: np.ndarray) -> FolderImages:
        """Some of the images, by their places in the lists."""
        return FolderImages(
            root,
            [self.image_ids[place] for place in places],
            np.array(self.sizes, np.int64)[places],
            np.array(self.modified, np.int64)[places],
        )


def scan_classes(config: SourceConfig) -> tuple[FolderImages, Selected]:
    """Find the images in a folder with one subfolder per class; no file is opened.

    Hidden and system files and folders are ignored. Class folders without images, files without an image suffix,
    files next to the class folders, and links to folders below them are skipped with a warning.

    Returns:
        The N images sorted by id, and their labels and classes.

    Raises:
        SourceError: The folder is missing, contains no images or wraps the folder that was meant, or a subfolder is
            not a known class or cannot be listed.
    """
    check_source_path(config)
    root = Path(config.path)
    scan, images_in = Scan(), {}
    folders = []
    for entry in _visible(root):
        if _is_folder(entry):
            folders.append(entry.name)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not is_safe(entry.name):
            scan.excluded.append(Excluded(ascii(entry.name)[1:-1], BAD_NAME))
        else:
            scan.left_out.append(entry.name)
    for name in sorted(folders):
        before = len(scan.image_ids)
        _walk(root / name, f"{name}/", scan)
        images_in[name] = len(scan.image_ids) - before
    if not scan.image_ids:
        raise SourceError(_no_images(root, images_in, scan))
    _refuse_wrapper(root, scan.image_ids)
    report_skipped(root, scan, [name for name, count in images_in.items() if not count])
    images_in = {name: count for name, count in images_in.items() if count}
    names = list(images_in)
    classes = _classes(config, names)
    index_of = classes.indices(names, str(root))
    labels = np.repeat(np.array([index_of[name] for name in names], np.int32), list(images_in.values()))
    selected = select_images(config, scan.image_ids, labels, classes.names, index_of)
    selected.excluded.extend(scan.excluded)
    return scan.images(config.path, selected.places), selected


def scan_images(root: Path) -> Scan:
    """Find all images below a folder, whatever its layout.

    Raises:
        SourceError: A folder cannot be listed.
    """
    scan = Scan()
    _walk(root, "", scan)
    return scan


def scan_unlabeled(config: SourceConfig) -> tuple[FolderImages, Selected]:
    """Find all images below a folder, in any subfolders, without labels; no file is opened.

    Returns:
        The N images sorted by id, and -1 as their labels.

    Raises:
        SourceError: The folder is missing or contains no images, or a folder in it cannot be listed.
    """
    check_source_path(config)
    root = Path(config.path)
    scan = scan_images(root)
    if not scan.image_ids:
        raise SourceError(f"{root}: no images, only {len(scan.left_out)} other files; set --source.path to the images")
    report_skipped(root, scan, [])
    selected = select_images(config, scan.image_ids, np.full(len(scan.image_ids), NO_LABEL, np.int32), [], {})
    selected.excluded.extend(scan.excluded)
    return scan.images(config.path, selected.places), selected


def report_skipped(root: Path, scan: Scan, empty: list[str]) -> None:
    """Log a warning for each kind of file or folder that is not used."""
    for what, names in (("other files", scan.left_out), ("folders without images", empty)):
        if names:
            logger.warning("%s: skipped %d %s, such as %s", root, len(names), what, ascii(min(names)))


def _classes(config: SourceConfig, folders: list[str]) -> ClassList:
    if config.class_names is not None:
        return read_class_list(config.class_names)
    return classes_of_keys(config.path, folders)


def _visible(folder: Path | str) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS:
                    yield entry
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be listed ({error.strerror}); make it readable, or move it out of the dataset"
        ) from error


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is neither."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(folder: Path | str, prefix: str, scan: Scan) -> None:
    """Add the images below a folder; their ids start with `prefix`."""
    below = []
    for entry in _visible(folder):
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            below.append(entry)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not _is_folder(entry):
            scan.add(name, entry)
        else:
            scan.left_out.append(name)  # includes links to folders, which could form a loop
    for entry in below:
        _walk(entry.path, f"{prefix}{entry.name}/", scan)


def _refuse_wrapper(root: Path, image_ids: list[str]) -> None:
    """Refuse a folder whose subfolders are splits or wrappers, and name the folder that was probably meant.

    A folder `train` with images but no subfolders may be a class of vehicles; with subfolders it is a split.
    """
    found = root
    while True:
        prefix = found.relative_to(root).as_posix() + "/" if found != root else ""
        below = [image_id[len(prefix) :].split("/") for image_id in image_ids if image_id.startswith(prefix)]
        nested = {parts[0] for parts in below if len(parts) > 2}
        flat = {parts[0] for parts in below if len(parts) == 2}
        top = {name: name.lower() for name in nested | flat}
        is_wrapper = len(top) == 1 or set(top.values()) <= WRAPPER_FOLDERS
        is_wrapper |= sum(top[name] in SPLIT_FOLDERS for name in nested - flat) > 1
        if not nested or not is_wrapper or not {top[name] for name in flat} <= WRAPPER_FOLDERS:
            break
        found = found / min(nested, key=lambda name: (not name.lower().startswith("train"), name))
    if found == root:
        names = {image_id.split("/")[0].lower() for image_id in image_ids}
        if names <= WRAPPER_FOLDERS:
            raise SourceError(
                f"{root}: has no class folders, only images in {sorted(names)[0]!r}; set --source.labels to a CSV, "
                "JSONL or Parquet file with the label of each image"
            )
        return
    splits = sorted({image_id.split("/")[0] for image_id in image_ids})
    shown = ", ".join(splits[:4]) + (", ..." if len(splits) > 4 else "")
    raise SourceError(
        f"{root}: its subfolders ({shown}) are not classes, because the images are in folders below them; set "
        f"--source.path {found} (or --source.labels to a file with the label of each image)"
    )


def _no_images(root: Path, folders: dict[str, int], scan: Scan) -> str:
    if scan.excluded:
        return f"{root}: none of the images can be used, such as '{scan.excluded[0][0]}': {scan.excluded[0][1]}"
    images = [name for name in scan.left_out if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    if images:
        return (
            f"{root}: {len(images)} images, but no class folders; set --source.labels to a CSV, JSONL or Parquet file "
            "with the label of each image, arrange the images as <class>/<name>.jpg, or label them with a finished "
            "labeler (--source.labeled false --labeler RUN)"
        )
    if not folders and not scan.left_out:
        return f"{root}: the folder is empty; it needs one subfolder per class that contains the images of the class"
    found = f"{len(folders)} subfolders and {len(scan.left_out)} other files"
    return f"{root}: no images in class subfolders, found {found}; arrange the images as <class>/<name>.jpg"
