"""Upload the content of files that a later commit refers to."""

import functools
import sys
from collections.abc import Sequence
from typing import Any

from hf_relabel.errors import ReleaseError
from hf_relabel.hub.client import HubRepo
from hf_relabel.hub.files import PlannedFile


def additions(files: Sequence[PlannedFile]) -> list[Any]:
    """The client's operations that add these files."""
    from huggingface_hub import CommitOperationAdd

    return [
        CommitOperationAdd(file.path, file.content if isinstance(file.content, bytes) else str(file.content))
        for file in files
    ]


def removals(paths: Sequence[str]) -> list[Any]:
    """The client's operations that remove files."""
    from huggingface_hub import CommitOperationDelete

    return [CommitOperationDelete(path, is_folder=False) for path in paths]


def progress_of(files: Sequence[PlannedFile]) -> Any:
    """A bar for the bytes of these files."""
    from tqdm.auto import tqdm

    total = sum(file.size for file in files)
    return tqdm(total=total, desc="uploading", unit="B", unit_scale=True, file=sys.stderr)


def upload(
    repo: HubRepo, files: Sequence[PlannedFile], operations: list[Any], revision: str, create_pr: bool, bar: Any
) -> None:
    """Upload the content of large files one at a time; files that the Hub has are not sent again.

    Args:
        repo: The repository.
        files: The files.
        operations: The `additions` of these files.
        revision: Where the commit will be made.
        create_pr: Whether that commit opens a pull request.
        bar: Progress, of `progress_of`.

    Raises:
        ReleaseError: A file is no longer what was checked.
    """
    for file, addition in zip(files, operations, strict=True):
        request = functools.partial(
            repo.api.preupload_lfs_files,
            repo.id,
            [addition],
            repo_type="dataset",
            revision=revision,
            create_pr=create_pr,
            free_memory=False,
        )
        repo.ask(f"uploading {file.path}", request)
        if addition.upload_info.sha256.hex() != file.sha256:
            raise ReleaseError(f"{file.path}: changed during the upload; build the release again")
        bar.update(file.size)
