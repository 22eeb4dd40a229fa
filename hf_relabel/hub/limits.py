"""The Hub's limits on files.

`huggingface_hub` 1.x has them next to `upload_large_folder`; 0.34 and 2.x have only the size of a file, which all of
them have among their constants. What the installed version does not have is from the Hub's documentation
(https://huggingface.co/docs/hub/storage-limits, "Repository limitations and recommendations").
"""

import importlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from hf_relabel.errors import HubError
from hf_relabel.hub.client import RemoteFile
from hf_relabel.hub.files import PlannedFile
from hf_relabel.release.layout import MAX_FILE_BYTES, MAX_FOLDER_FILES, data_file_place

MAX_FILES = 100
"""Number of files that one commit may add or remove; the Hub recommends 50 to 100. More go through a pull request.
`huggingface_hub` has no such number: its own upload starts with 250 and adapts to how long the commits take."""

DOCUMENTED_FILES = 100_000
"""Files per repository by the documentation."""


@dataclass(frozen=True)
class Limits:
    """What a repository takes.

    Args:
        files: Files per repository, at most.
        files_per_folder: Files per folder; there must be fewer.
        file_bytes: Size of a file, at most.
    """

    files: int
    files_per_folder: int
    file_bytes: int


def hub_limits() -> Limits:
    """The limits, from the installed `huggingface_hub` where it has them."""
    from huggingface_hub import constants

    own = _large_uploads()
    return Limits(
        _number(own, "MAX_FILES_PER_REPO", DOCUMENTED_FILES),
        _number(own, "MAX_FILES_PER_FOLDER", MAX_FOLDER_FILES),
        constants.MAX_HTTP_DOWNLOAD_SIZE,
    )


def _large_uploads() -> ModuleType | None:
    try:
        return importlib.import_module("huggingface_hub._upload_large_folder")
    except ImportError:
        return None


def _number(module: ModuleType | None, name: str, documented: int) -> int:
    """A limit in a module of the client; the module is not public, so anything else in it is ignored."""
    found: Any = getattr(module, name, None)
    return found if isinstance(found, int) and found > 0 else documented


def check_limits(
    files: list[PlannedFile], remote: dict[str, RemoteFile], add: list[PlannedFile], remove: list[str], branch: str
) -> None:
    """Refuse to exceed the Hub's limits, and data files that are larger than those of `build`.

    Args:
        files: All files of the version.
        remote: The files on the Hub.
        add: The files to add.
        remove: Paths of the files to remove.
        branch: The branch.

    Raises:
        HubError: A limit would be exceeded.
    """
    limits = hub_limits()
    if len(add) + len(remove) > MAX_FILES and branch != "main":
        raise HubError(
            f"{len(add) + len(remove)} files change on the branch {branch}, but a commit may change at most "
            f"{MAX_FILES}, and only `main` takes more, through a pull request; build the release with larger files "
            "(--build.rows_per_file)"
        )
    paths = ({*remote} - {*remove}) | {file.path for file in files}
    if len(paths) > limits.files:
        raise HubError(
            f"the repository would have {len(paths)} files; the Hub allows {limits.files}; build the release with "
            "larger files (--build.rows_per_file)"
        )
    folders: dict[str, int] = {}
    for path in paths:
        folder = str(PurePosixPath(path).parent)
        folders[folder] = folders.get(folder, 0) + 1
    for folder, count in folders.items():
        if count >= limits.files_per_folder:
            raise HubError(
                f"{folder}: {count} files; the Hub takes fewer than {limits.files_per_folder} per folder; move some of "
                "them, or build the release with larger files (--build.rows_per_file)"
            )
    for file in files:
        allowed = MAX_FILE_BYTES if data_file_place(file.path) is not None else limits.file_bytes
        if file.size > allowed:
            raise HubError(
                f"{file.path}: {file.size:,} bytes, at most {allowed:,} are allowed; build the release again, with "
                "fewer images per file (--build.rows_per_file)"
            )
