"""Pinned revisions of datasets on the Hub: what was asked for is what was loaded, or an error.

`datasets` ignores the revision when it cannot reach the Hub, and returns the version that it cached last. It names the
folder of a cached dataset by the commit, which is checked here.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_relabel.errors import SourceError

COMMIT = re.compile("[0-9a-f]{40}")


def resolve_commit(repo_id: str, revision: str, repo_type: str = "dataset") -> str:
    """Find the commit of a branch, tag or commit on the Hub, or in the client's cache if the Hub cannot be reached.

    Args:
        repo_id: A repository, `user/name`.
        revision: Branch, tag or commit.
        repo_type: `dataset` or `model`.

    Returns:
        The commit, 40 hexadecimal digits.

    Raises:
        SourceError: There is no such repository or revision, or it is not known while the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The client's error derives from that of its HTTP library, whose base class is the last one before built-in ones.
    unreachable: Any = [cls for cls in HfHubHTTPError.__mro__ if cls.__module__ != "builtins"][-1]
    try:
        commit = str(HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=20).sha)
        if not COMMIT.fullmatch(revision):
            with contextlib.suppress(EntryNotFoundError):  # a small file, so that the client remembers the revision
                hf_hub_download(repo_id, ".gitattributes", repo_type=repo_type, revision=revision)
        return commit
    except RevisionNotFoundError as error:
        raise SourceError(f"{repo_id}: no revision {revision!r} on the Hub; check the name of the tag") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise SourceError(f"{repo_id}: no such dataset on the Hub, or no access to it") from error
    except (HfHubHTTPError, unreachable, ConnectionError, TimeoutError) as error:
        if COMMIT.fullmatch(revision):
            return revision
        folder = f"{repo_type}s--{repo_id.replace('/', '--')}"
        stored = Path(constants.HF_HUB_CACHE, folder, "refs", revision)
        if stored.is_file() and COMMIT.fullmatch(found := stored.read_text().strip()):
            return found
        raise SourceError(
            f"{repo_id}: the revision {revision!r} is not known without the Hub, which cannot be reached; go online, "
            "or give the commit's 40 digits"
        ) from error


def commits_of(data: Any) -> set[str]:
    """The commits that a `datasets.Dataset` from the Hub was loaded from: one, or none if it has no cached files."""
    return {name for file in data.cache_files if COMMIT.fullmatch(name := Path(file["filename"]).parent.name)}


def check_commit(data: Any, repo_id: str, revision: str, commit: str) -> None:
    """Refuse a dataset that was not loaded from a commit.

    Args:
        data: A `datasets.Dataset`, or a mapping of splits.
        repo_id: The repository, for the message.
        revision: What was asked for, for the message.
        commit: The commit that it stands for.

    Raises:
        SourceError: The data is that of another commit.
    """
    for split in data.values() if isinstance(data, Mapping) else [data]:
        other = sorted(commits_of(split) - {commit})
        if other:
            raise SourceError(
                f"{repo_id}: asked for the revision {revision} (commit {commit[:12]}), but without the Hub `datasets` "
                f"returns the commit {other[0][:12]} from its cache; go online, or download the revision with "
                f"`hf download {repo_id} --repo-type dataset --revision {revision} --local-dir FOLDER` and use FOLDER"
            )
