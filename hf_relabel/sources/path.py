"""Whether a source's path can be right, checked without importing `datasets` or asking the Hub."""

import re
from pathlib import Path

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError

HUB_ID = r"[\w.-]+(/[\w.-]+)?"


def check_source_path(config: SourceConfig) -> None:
    """Refuse a path that does not exist.

    Raises:
        SourceError: The image folder is missing, or the dataset is neither a folder nor a possible Hub id.
    """
    folder = Path(config.path)
    if folder.is_dir():
        return
    if config.kind == "folder":
        what = "is not a folder" if folder.exists() else "no such folder"
        raise SourceError(f"{folder}: {what}; set --source.path to a folder with one subfolder per class")
    if folder.exists() or not re.fullmatch(HUB_ID, config.path):
        what = "is a file" if folder.exists() else "no such folder, and not a Hub id"
        raise SourceError(f"{config.path}: {what}; set --source.path to the dataset's folder or its Hub id")
