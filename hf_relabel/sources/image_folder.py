"""Images in a folder as a source: one subfolder per class, like ImageNet's `train/`, or a file of labels."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from hf_relabel.config import SourceConfig
from hf_relabel.config.checks import regular_file
from hf_relabel.errors import SourceError
from hf_relabel.schema import NO_LABEL, Excluded
from hf_relabel.sources.classes import ClassList, classes_of_keys, read_class_list
from hf_relabel.sources.columns import Numbers, chunks
from hf_relabel.sources.image_ids import is_safe
from hf_relabel.sources.listing import Listing, as_columns, make_listing, scratch_folder
from hf_relabel.sources.path import check_source_path
from hf_relabel.sources.selection import Selector
from hf_relabel.sources.sorted_rows import RowSorter
from hf_relabel.sources.stored_table import GROUP_ROWS

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

Found = tuple[str, int, int]
"""An image: its id, and the size in bytes and modification time in nanoseconds of its file (-1 for a broken link)."""


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
    image_ids: Sequence[str]
    sizes: Numbers
    modified: Numbers

    @property
    def fingerprint(self) -> None:
        """A folder has no fingerprint of its own; that of the source covers its files."""
        return None

    @property
    def commit(self) -> None:
        """A folder is not on the Hub."""
        return None

    @property
    def places(self) -> dict[str, Numbers]:
        """Where the images are, for the run's snapshot."""
        return {"sizes": self.sizes, "modified": self.modified}

    def open(self, index: int) -> BinaryIO:
        """Open the file of an image for reading; raises OSError."""
        return open(regular_file(Path(self.root, self.image_ids[index])), "rb")

    def content_keys(self) -> Iterator[bytes]:
        """Bytes that change when a file is replaced; no file is opened."""
        for column in (self.sizes, self.modified):
            yield from (part.astype("<i8").tobytes() for part in chunks(column))


@dataclass
class LeftOut:
    """Files that are not used, and folders: how many, and the first by name.

    Args:
        count: How many.
        images: How many of them have an image suffix.
        first: The first in the order of the names.
    """

    count: int = 0
    images: int = 0
    first: str | None = None

    def add(self, name: str) -> None:
        """Count a file."""
        self.count += 1
        self.images += has_image_suffix(name)
        self.first = name if self.first is None else min(name, self.first)


@dataclass
class Walk:
    """What a walk through folders has passed besides images.

    Args:
        own: A file that is not counted: the one that has the labels.
        left_out: Other files; links to folders are among them, since they could form a loop.
        excluded: Images that cannot be used, by their escaped paths.
        folders: Paths of the folders with images, each ending in a slash.
    """

    own: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    excluded: list[Excluded] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    def images(self, folder: Path | str, prefix: str = "") -> Iterator[Found]:
        """Yield the images below a folder; their ids start with `prefix`.

        Raises:
            SourceError: A folder cannot be listed.
        """
        below = []
        for entry in _visible(folder):
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                below.append(entry)
            elif not has_image_suffix(name) or _is_folder(entry):
                if name != self.own:
                    self.left_out.add(name)
            elif is_safe(name):
                self.folders.add(prefix)
                yield (name, *_size_and_time(entry))
            else:
                self.excluded.append(Excluded(ascii(name)[1:-1], BAD_NAME))
        for entry in below:
            yield from self.images(entry.path, f"{prefix}{entry.name}/")


def has_image_suffix(name: str) -> bool:
    """Whether a file is an image by its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _size_and_time(entry: os.DirEntry) -> tuple[int, int]:
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1  # a broken link, a link to itself, or a file deleted just now: reading it fails
    return stat.st_size, stat.st_mtime_ns


def scan_classes(config: SourceConfig, scratch: Path | None = None) -> tuple[FolderImages, Listing]:
    """Find the images in a folder with one subfolder per class; no file is opened.

    Hidden and system files and folders are ignored. Class folders without images, files without an image suffix,
    files next to the class folders, and links to folders below them are skipped with a warning.

    Args:
        config: The source's settings.
        scratch: Folder for the list of images; None keeps it in memory.

    Returns:
        The N images sorted by id, and their labels and classes.

    Raises:
        SourceError: The folder is missing, contains no images or wraps the folder that was meant, or a subfolder is
            not a known class or cannot be listed.
    """
    check_source_path(config)
    root = Path(config.path)
    walk, sorter = Walk(), RowSorter(scratch_folder(scratch))
    folders = []
    for entry in _visible(root):
        if _is_folder(entry):
            folders.append(entry.name)
        elif has_image_suffix(entry.name) and not is_safe(entry.name):
            walk.excluded.append(Excluded(ascii(entry.name)[1:-1], BAD_NAME))
        else:
            walk.left_out.add(entry.name)
    names: list[str] = []
    empty = LeftOut()
    for name in sorted(folders):
        if _add(sorter, walk.images(root / name, f"{name}/"), len(names)):
            names.append(name)
        else:
            empty.add(name)
    if not names:
        raise SourceError(_no_images(root, len(folders), walk))
    _refuse_wrapper(root, walk.folders)
    _report_skipped(root, walk, empty)
    classes = _classes(config, names)
    index_of = classes.indices(names, str(root))
    labels = np.array([index_of[name] for name in names], np.int32)
    return _listed(config, walk, sorter, labels, Selector(config, classes.names, index_of), scratch)


def scan_unlabeled(config: SourceConfig, scratch: Path | None = None) -> tuple[FolderImages, Listing]:
    """Find all images below a folder, in any subfolders, without labels; no file is opened.

    Args:
        config: The source's settings.
        scratch: Folder for the list of images; None keeps it in memory.

    Returns:
        The N images sorted by id, and -1 as their labels.

    Raises:
        SourceError: The folder is missing or contains no images, or a folder in it cannot be listed.
    """
    check_source_path(config)
    root = Path(config.path)
    walk, sorter = Walk(), RowSorter(scratch_folder(scratch))
    if not _add(sorter, walk.images(root), 0):
        raise SourceError(f"{root}: no images, only {walk.left_out.count} other files; set --source.path to the images")
    _report_skipped(root, walk, LeftOut())
    return _listed(config, walk, sorter, np.array([NO_LABEL], np.int32), Selector(config, [], {}), scratch)


def _add(sorter: RowSorter, images: Iterator[Found], folder: int) -> int:
    """Add images to a sorter, with the number of their class folder; returns how many."""
    count = 0
    while found := list(islice(images, GROUP_ROWS)):
        image_ids, sizes, modified = zip(*found, strict=True)
        folders = np.full(len(found), folder, np.int32)
        sorter.add(as_columns(image_ids, folder=folders, sizes=np.array(sizes), modified=np.array(modified)))
        count += len(found)
    return count


def _listed(
    config: SourceConfig, walk: Walk, sorter: RowSorter, labels: np.ndarray, selector: Selector, scratch: Path | None
) -> tuple[FolderImages, Listing]:
    """List the images of a sorter; `labels` has the label of each class folder, int32 [F]."""

    def batches() -> Iterator[pa.Table]:
        for table in sorter.merged():
            is_used, label = selector.choose(table["image_id"].combine_chunks(), labels[table["folder"].to_numpy()])
            labeled = table.append_column("label", pa.array(label))
            yield labeled if is_used.all() else labeled.filter(pa.array(is_used))
        selector.check()

    listing = make_listing(config, batches(), ["sizes", "modified"], selector.class_names, walk.excluded, scratch)
    listing.excluded.extend(selector.excluded)
    return FolderImages(config.path, listing.image_ids, **listing.places), listing


def _report_skipped(root: Path, walk: Walk, empty: LeftOut) -> None:
    """Log a warning for each kind of file or folder that is not used."""
    for what, names in (("other files", walk.left_out), ("folders without images", empty)):
        report_skipped(root, names, what)


def report_skipped(root: Path, names: LeftOut, what: str = "other files") -> None:
    """Log a warning for files or folders that are not used."""
    if names.first is not None:
        logger.warning("%s: skipped %d %s, such as %s", root, names.count, what, ascii(names.first))


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


def _refuse_wrapper(root: Path, folders: set[str]) -> None:
    """Refuse a folder whose subfolders are splits or wrappers, and name the folder that was probably meant.

    A folder `train` with images but no subfolders may be a class of vehicles; with subfolders it is a split.

    Args:
        root: The folder.
        folders: Paths of the folders with images, each ending in a slash.
    """
    found = root
    while True:
        prefix = found.relative_to(root).as_posix() + "/" if found != root else ""
        below = [folder[len(prefix) :].split("/") for folder in folders if folder.startswith(prefix)]
        nested = {parts[0] for parts in below if len(parts) > 2}
        flat = {parts[0] for parts in below if len(parts) == 2}
        top = {name: name.lower() for name in nested | flat}
        is_wrapper = len(top) == 1 or set(top.values()) <= WRAPPER_FOLDERS
        is_wrapper |= sum(top[name] in SPLIT_FOLDERS for name in nested - flat) > 1
        if not nested or not is_wrapper or not {top[name] for name in flat} <= WRAPPER_FOLDERS:
            break
        found = found / min(nested, key=lambda name: (not name.lower().startswith("train"), name))
    if found == root:
        names = {folder.split("/")[0].lower() for folder in folders}
        if names <= WRAPPER_FOLDERS:
            raise SourceError(
                f"{root}: has no class folders, only images in {sorted(names)[0]!r}; set --source.labels to a CSV, "
                "JSONL or Parquet file with the label of each image"
            )
        return
    splits = sorted({folder.split("/")[0] for folder in folders})
    shown = ", ".join(splits[:4]) + (", ..." if len(splits) > 4 else "")
    raise SourceError(
        f"{root}: its subfolders ({shown}) are not classes, because the images are in folders below them; set "
        f"--source.path {found} (or --source.labels to a file with the label of each image)"
    )


def _no_images(root: Path, folders: int, walk: Walk) -> str:
    if walk.excluded:
        return f"{root}: none of the images can be used, such as '{walk.excluded[0][0]}': {walk.excluded[0][1]}"
    if walk.left_out.images:
        return (
            f"{root}: {walk.left_out.images} images, but no class folders; set --source.labels to a CSV, JSONL or "
            "Parquet file with the label of each image, arrange the images as <class>/<name>.jpg, or label them with a "
            "finished labeler (--source.labeled false --labeler RUN)"
        )
    if not folders and not walk.left_out.count:
        return f"{root}: the folder is empty; it needs one subfolder per class that contains the images of the class"
    found = f"{folders} subfolders and {walk.left_out.count} other files"
    return f"{root}: no images in class subfolders, found {found}; arrange the images as <class>/<name>.jpg"
