"""Open a release by its folder, or from the Hub as `user/name` or `user/name@revision`."""

import re
from collections.abc import Sequence
from pathlib import Path

from hf_relabel.errors import HubError, ReleaseError
from hf_relabel.hub.client import HubRepo, release_patterns
from hf_relabel.release.label_table import LabelTable, label_table
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.schema import CONFIG_NAMES


def open_release(name: str, config_names: Sequence[str] = CONFIG_NAMES) -> Release:
    """Open a release from a folder or from the Hub.

    With `HF_HUB_OFFLINE`, a release from the Hub is taken from the client's cache, where the revision must be the one
    asked for.

    Args:
        name: A folder, or `user/name` or `user/name@revision` on the Hub.
        config_names: Configurations to download from the Hub.

    Raises:
        ReleaseError: The folder or the repository does not contain a release.
        HubError: The repository or the revision cannot be downloaded.
    """
    if Path(name).exists() or "/" not in name or name.startswith((".", "/", "~")):
        return Release.open(Path(name).expanduser())
    repo_id, revision = split_revision(name)
    if repo_id.count("/") != 1:
        raise ReleaseError(f"{name}: neither an existing folder nor user/name[@revision]")
    folder = _download(repo_id, revision or "main", config_names)
    if not (folder / MANIFEST).exists():
        raise ReleaseError(f"{name}: contains no {MANIFEST}, so it is not a release of hf_relabel")
    release = Release.open(folder)
    if re.fullmatch(r"v\d+\.\d+\.\d+", revision or "") and revision != f"v{release.version}":
        raise ReleaseError(f"{name}: contains version {release.version}; the tag {revision} is wrong")
    for file in release.files:
        if file.config_name in config_names and not release.path_of(file).exists():
            raise HubError(f"{name}: {file.path} is missing from the repository, or from the cache when offline")
    return release


def load_labels(name: str, split: str | None = None, with_regions: bool = False) -> LabelTable:
    """Read the label sets of a release from a folder or from the Hub.

    Args:
        name: A folder, or `user/name` or `user/name@revision` on the Hub.
        split: The split to read; None is the only one.
        with_regions: Also read the regions, with masks.

    Raises:
        ReleaseError: There is no release, it has not this split, or several, or its rows are not valid.
        HubError: The repository or the revision cannot be downloaded.
    """
    release = open_release(name, ["regions" if with_regions else "labels"])
    return label_table(release.only(split), with_regions=with_regions, origin=name)


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `user/name@revision` into repository and revision; the revision is None if there is none."""
    repo_id, _, revision = name.partition("@")
    return repo_id, revision or None


def _download(repo_id: str, revision: str, config_names: Sequence[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not constants.HF_HUB_OFFLINE:
        return HubRepo(repo_id).download_release(revision, config_names)
    try:
        patterns = release_patterns(config_names)
        return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, ValueError) as error:
        raise HubError(
            f"{repo_id}@{revision}: not in the cache, and HF_HUB_OFFLINE is set; unset it to download the release"
        ) from error
