"""A Parquet or WebDataset dataset that is read part by part, where it is: on the Hub or in a local folder.

Opening it reads ids and labels, from Parquet files without the images. Later each shard of a run reads only the parts
of the files that contain its images, so a run that is started again reads nothing of what is done, and at most one
shard's encoded images are in memory. The ids and labels are those of the same dataset without streaming.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.sources.columns import Numbers
from hf_relabel.sources.data_files import FileOpener
from hf_relabel.sources.image_dataset import builder_arguments, no_split, one_line_errors, resolve_revision
from hf_relabel.sources.listing import Listing
from hf_relabel.sources.parquet_files import ParquetFiles
from hf_relabel.sources.path import check_source_path
from hf_relabel.sources.rows import Rows, list_rows
from hf_relabel.sources.splits import stored_split
from hf_relabel.sources.tar_files import TarFiles

TYPICAL_SHARD = 1024
"""Images per shard for an estimate of how often the files are read."""

MANY_READS = 3
"""How often streaming may read the files before a warning names the setting that avoids it."""

logger = logging.getLogger(__name__)


class Files(Protocol):
    """The data files of a split in one format.

    Attributes:
        part_columns: How many numbers of a place name the part that is read to get at an image.
    """

    part_columns: int

    def rows(self, scratch: Path | None = None) -> Rows:
        """The rows; the place of an image is its file, then numbers that order the images in it.

        Args:
            scratch: Folder for what may not fit in memory; None keeps everything there.
        """

    def read(self, places: np.ndarray) -> Iterator[bytes | None]:
        """Read the images at some places, sorted, int64 [N, k]; None where a row has no image."""


@dataclass(frozen=True)
class StreamedImages:
    """Images by their place in the data files of a dataset.

    Args:
        files: The data files.
        places: Where the images are: k columns of N numbers, the first of which is the file.
        fingerprint: Changes with the commit or the files, and with the settings that choose the images.
        commit: Commit of a dataset on the Hub; None for a local one.
    """

    files: Files
    places: dict[str, Numbers]
    fingerprint: str
    commit: str | None = None

    def content_keys(self) -> Iterator[bytes]:
        """Bytes that change when an image of the dataset is replaced; no image is read."""
        yield self.fingerprint.encode()

    def read(self, indices: range) -> Iterator[tuple[int, bytes | None]]:
        """Read the encoded images of a range, in order; each part of a file is read once.

        Images that are stored in the order of their ids are passed on as they come. Otherwise those of the range are
        kept in memory until their turn.

        Raises:
            SourceError: A file cannot be read.
        """
        where = _stacked(self.places, indices.start, indices.stop)
        order = np.lexsort(where.T[::-1])
        waiting: dict[int, bytes | None] = {}
        index = indices.start
        for place, content in zip(order, self.files.read(where[order]), strict=True):
            waiting[indices.start + int(place)] = content
            while index in waiting:
                yield index, waiting.pop(index)
                index += 1

    def open(self, index: int) -> BinaryIO:
        """Open one image for reading.

        Raises:
            SourceError: The file that contains it cannot be read.
            OSError: The row has no image.
        """
        ((_, content),) = self.read(range(index, index + 1))
        return opened(content)


def opened(content: bytes | None) -> BinaryIO:
    """An encoded image as a file; raises OSError if there is none."""
    if content is None:
        raise FileNotFoundError(0, "the row has no image")
    return io.BytesIO(content)


def open_stream(config: SourceConfig, scratch: Path | None = None) -> tuple[Listing, StreamedImages]:
    """Read ids, labels and classes of a dataset for streaming; no image is decoded.

    Args:
        config: The source's settings.
        scratch: Folder for the list of images; None keeps it in memory.

    Raises:
        SourceError: There is no such dataset, it has another format, or it does not match the configuration.
    """
    files, fingerprint, commit = _find_files(config)
    listing = list_rows(files.rows(scratch), config, scratch)
    _warn_of_order(files, listing.places, config)
    return listing, StreamedImages(files, listing.places, fingerprint, commit)


def reopen_stream(config: SourceConfig, places: dict[str, Numbers], fingerprint: str) -> StreamedImages:
    """Open the images of a dataset whose ids have been read before.

    Raises:
        SourceError: The dataset cannot be opened, or has changed.
    """
    files, now, commit = _find_files(config)
    if now != fingerprint:
        raise SourceError(
            f"{config.path}: the dataset has changed since its images were listed; run `hf-relabel propose` again"
        )
    return StreamedImages(files, places, fingerprint, commit)


def stream_fingerprint(config: SourceConfig) -> str:
    """The fingerprint of a dataset that would be streamed; only the names of its files are read.

    Raises:
        SourceError: There is no such dataset, or it has another format.
    """
    return _find_files(config)[1]


def _find_files(config: SourceConfig) -> tuple[Files, str, str | None]:
    """The data files of the configured split, their fingerprint, and their commit on the Hub."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    check_source_path(config)
    folder = Path(config.path)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        raise SourceError(f"{config.path}: was saved by save_to_disk, which needs no streaming; set it to false")
    with one_line_errors(config):
        (path, name), options = builder_arguments(config)
        resolve_revision(config, options)
        builder = datasets.load_dataset_builder(path, name, **options)
        splits = builder.config.data_files or {}
        if not isinstance(builder, Parquet | WebDataset):
            kind = type(builder).__mro__[1].__name__
            raise SourceError(
                f"{config.path}: streaming needs Parquet or WebDataset files, and this is a dataset of type {kind}; "
                "set --source.streaming false"
            )
        split = stored_split(config)
        if split not in splits:
            raise no_split(config, list(splits))
        urls = [str(url) for url in splits[split]]
    opener = FileOpener(urls)
    features = builder.info.features
    is_parquet = isinstance(builder, Parquet)
    files = ParquetFiles(config, opener, features) if is_parquet else TarFiles(config, opener, features)
    # An address on the Hub is hf://datasets/user/name@commit/path.
    commits = {found[1] for url in urls if (found := re.match(r"hf://[^@]*@([0-9a-f]{40})/", url))}
    return files, _fingerprint(config, urls), min(commits, default=None)


def _fingerprint(config: SourceConfig, urls: list[str]) -> str:
    digest = hashlib.sha256()
    for url in urls:
        stat = None if url.startswith("hf://") else os.stat(url)
        digest.update(json.dumps([url] if stat is None else [stat.st_size, stat.st_mtime_ns]).encode())
    settings = dataclasses.asdict(config)
    for key in ("path", "class_names", "only_classes", "only_ids"):
        if isinstance(settings[key], str) and Path(settings[key]).exists():
            file = Path(settings[key])
            settings[key] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() and key != "path" else ""
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def _stacked(places: dict[str, Numbers], start: int, stop: int) -> np.ndarray:
    """The places of some images, int64 [n, k]."""
    return np.stack([places[f"place_{number}"][start:stop] for number in range(len(places))], axis=1)


def _warn_of_order(files: Files, places: dict[str, Numbers], config: SourceConfig) -> None:
    """Warn if images with neighboring ids are far apart in the files, so that these are read many times."""
    parts: set[tuple[int, ...]] = set()
    count = len(next(iter(places.values())))
    shards = reads = 0
    for start in range(0, count, TYPICAL_SHARD):
        found = np.unique(_stacked(places, start, start + TYPICAL_SHARD)[:, : files.part_columns], axis=0)
        parts.update(map(tuple, found.tolist()))
        shards, reads = shards + 1, reads + len(found)
    times = reads / max(len(parts), shards)
    if times > MANY_READS:
        logger.warning(
            "%s: the images are stored in another order than that of their ids, so streaming reads the files about %d "
            "times; --source.id_from row or --source.streaming false avoids it",
            config.path,
            round(times),
        )
