"""Names and manifest entries of the files in a release folder."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hf_relabel.errors import ReleaseError
from hf_relabel.schema import CONFIG_NAMES

MANIFEST = "manifest.json"
EXCLUDED = "excluded.jsonl"
README = "README.md"

MAX_FILE_BYTES = 500_000_000
"""Maximum size of a data file; the Hub's viewer and `datasets` recommend Parquet files of about 500 MB."""

MAX_FOLDER_FILES = 10_000
"""A folder of a release has fewer files, as the Hub asks for."""

_DIGEST_LENGTH = 16
_DATA_FILE = re.compile(
    rf"data/({'|'.join(CONFIG_NAMES)})/([\w.]+)-(\d{{5}})-of-(\d{{5}})(?:-([0-9a-f]{{{_DIGEST_LENGTH}}}))?\.parquet"
)


@dataclass(frozen=True)
class DataFilePlace:
    """What the path of a data file says.

    Args:
        config_name: Its configuration.
        split: The split whose rows it has.
        index: Its place among the files of this configuration and split.
        count: How many there are.
        digest: Digest of the content of all of them; None in old releases.
    """

    config_name: str
    split: str
    index: int
    count: int
    digest: str | None


def data_file_place(path: str) -> DataFilePlace | None:
    """Read the path of a data file; None for other paths."""
    match = _DATA_FILE.fullmatch(path)
    return DataFilePlace(match[1], match[2], int(match[3]), int(match[4]), match[5]) if match else None


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release, as listed in the manifest.

    Args:
        path: Path relative to the release folder, with forward slashes.
        config_name: `labels`, `regions`, or None for a file that is not a table.
        rows: Number of images (or lines) in the file.
        bytes: Size.
        sha256: Hash of the content.
    """

    path: str
    config_name: str | None
    rows: int
    bytes: int
    sha256: str

    @property
    def split(self) -> str | None:
        """The split whose rows a data file has, as its name says; None for other files."""
        place = data_file_place(self.path)
        return place.split if place else None

    @property
    def digest(self) -> str | None:
        """The digest of the content in a data file's name; None for other files and names without one."""
        place = data_file_place(self.path)
        return place.digest if place else None


def content_digest(hashes: Iterable[str]) -> str:
    """Digest of a configuration's content, from the SHA-256 of each of its files in order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:_DIGEST_LENGTH]


def data_file_name(split: str, index: int, count: int, digest: str) -> str:
    """Name of a data file, such as `train-00000-of-00002-0123456789abcdef.parquet`.

    `datasets` identifies a cached local folder by the folder's name and the file patterns of its card, never by the
    content. The digest in names and patterns keeps releases that differ from sharing a cache entry.
    """
    return f"{split}-{index:05d}-of-{count:05d}-{digest}.parquet"


def data_configs(splits: Iterable[str], files: Iterable[ReleaseFile]) -> list[dict[str, Any]]:
    """The `configs` of a card's front matter.

    The patterns are explicit, because `datasets` would otherwise merge the folders.

    Raises:
        ReleaseError: The names of the data files contain no content digest.
    """
    stored, names = list(files), list(splits)
    configs: list[dict[str, Any]] = []
    for name in CONFIG_NAMES:
        patterns = []
        for split in names:
            digests = {file.digest for file in stored if file.config_name == name and file.split == split}
            if len(digests) != 1 or None in digests:
                raise ReleaseError(
                    f"data/{name}: the file names lack the digest of the content, without which `load_dataset` may "
                    "return the rows of another release; build the release again"
                )
            patterns.append({"split": split, "path": f"data/{name}/{split}-*-{digests.pop()}.parquet"})
        config: dict[str, Any] = {"config_name": name, "data_files": patterns}
        configs.append(config | ({"default": True} if name == CONFIG_NAMES[0] else {}))
    return configs
