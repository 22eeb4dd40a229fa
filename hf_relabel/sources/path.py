"""Whether a source's path can be right, checked without importing `datasets` or asking the Hub."""

import re
from pathlib import Path

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError

LABEL_FILES = (".csv", ".tsv", ".jsonl", ".parquet")
"""Suffixes of a file that has the labels of a folder's images."""

DATASET_FILES = (*LABEL_FILES, ".json", ".arrow", ".tar")
"""Suffixes of a file that has the rows of a dataset."""

HUB_ID = r"[\w.-]+(/[\w.-]+)?"


def check_source_path(config: SourceConfig, option: str = "--source.path") -> None:
    """Refuse a path that does not exist.

    Args:
        config: The source.
        option: The option that sets its path, for the message.

    Raises:
        SourceError: The image folder or the file of labels is missing, or the dataset is neither a folder nor a file
            nor a possible Hub id.
    """
    path = Path(config.path)
    suffixes = LABEL_FILES if config.kind == "folder" else DATASET_FILES
    if config.labels is not None and not Path(config.labels).is_file():
        raise SourceError(f"{config.labels}: no such file; set --source.labels to a CSV, TSV, JSONL or Parquet file")
    if path.is_dir() or (path.is_file() and path.suffix.lower() in suffixes and config.labels is None):
        return
    what = f"is no folder, and no {', '.join(suffixes)} file" if path.exists() else "no such folder"
    if config.kind == "folder":
        raise SourceError(
            f"{config.path}: {what}; set {option} to a folder with one subfolder per class, or to a file of labels"
        )
    if path.exists() or not re.fullmatch(HUB_ID, config.path):
        what = what if path.exists() else "no such folder or file, and not a Hub id"
        raise SourceError(f"{config.path}: {what}; set {option} to the dataset's folder or its Hub id")
