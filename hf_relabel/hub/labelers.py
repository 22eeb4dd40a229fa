"""Labelers on the Hub: a model repository with the heads' weights and their record."""

from pathlib import Path

from hf_relabel.errors import HubError, LabelerError
from hf_relabel.labeling.labeler import CONFIG, WEIGHTS

FILES = (CONFIG, WEIGHTS)


def download_labeler(name: str) -> Path:
    """Download a labeler, or find it in the client's cache when offline.

    Args:
        name: `user/name` or `user/name@revision` on the Hub.

    Returns:
        A folder in the client's cache.

    Raises:
        HubError: The repository or the revision cannot be downloaded.
        LabelerError: The repository contains no labeler.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo_id, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=list(FILES)))
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise HubError(f"{name}: no such folder, not in the cache, and {why}; connect, or give a folder") from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HubError(f"{name}: no such folder, and it cannot be loaded from the Hub ({reason})") from error
    missing = [file for file in FILES if not (folder / file).exists()]
    if missing:
        raise LabelerError(f"{name}: contains no {missing[0]}, so it is not a labeler of hf_relabel")
    return folder
