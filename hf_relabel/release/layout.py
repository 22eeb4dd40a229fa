"""Names and entries of the files in a release folder."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from hf_relabel.errors import ReleaseError
from hf_relabel.schema import CONFIG_NAMES

MANIFEST = "manifest.json"


EXCLUDED = "excluded.jsonl"


README = "README.md"


def data_configs(split: str) -> list[dict[str, Any]]:
    """The `configs` of a card's front matter. The globs are explicit: without them the folders would be merged."""
    configs: list[dict[str, Any]] = []
    for name in CONFIG_NAMES:
        config = {"config_name": name, "data_files": [{"split": split, "path": f"data/{name}/{split}-*.parquet"}]}
        configs.append(config | ({"default": True} if name == CONFIG_NAMES[0] else {}))
    return configs


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release as its manifest has it.

    Args:
        path: Relative to the release folder, with slashes.
        config_name: `labels`, `regions`, or None for a file that is no table.
        rows: Images (or lines) in it.
        bytes: Size.
        sha256: Hash of its content.
    """

    path: str
    config_name: str | None
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or PurePosixPath(self.path).is_absolute() or ".." in parts or "\\" in self.path:
            raise ReleaseError(f"{MANIFEST}: path {self.path!r} leaves the release folder; the manifest is not ours")
