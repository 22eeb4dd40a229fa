"""Labelers on the Hub: a model repository with the heads' weights, their record with the calibration, and a card."""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import HubError, LabelerError
from hf_relabel.hub.card_metadata import License
from hf_relabel.hub.checks import check_token
from hf_relabel.hub.client import HubRepo, RetryPolicy
from hf_relabel.hub.files import CARD, PlannedFile, planned_bytes
from hf_relabel.hub.labeler_card import labeler_card
from hf_relabel.labeling.labeler import CONFIG, WEIGHTS, read_config
from hf_relabel.run.store import sealed_json

FILES = (CONFIG, WEIGHTS)


@dataclass(frozen=True)
class LabelerOptions:
    """How to publish a labeler.

    Args:
        license: License of the labeler.
        tag: Tag to set on the commit; a tag is never moved.
        private: Create the repository as private.
    """

    license: License
    tag: str | None = None
    private: bool = False


@dataclass(frozen=True)
class PublishedLabeler:
    """The outcome: the repository, its files, the commit, and whether it was made now."""

    repo_id: str
    files: list[PlannedFile]
    commit: str
    is_new: bool


def labeler_files(folder: Path, repo_id: str, options: LabelerOptions) -> list[PlannedFile]:
    """The files of a published labeler; of paths on this machine only the names are kept.

    Raises:
        LabelerError: There is no labeler, or it is damaged.
        HubError: The Hub would reject a value of the card.
    """
    record = read_config(folder)
    if record is None:
        raise LabelerError(f"{folder}: no labeler ({CONFIG} is missing); give a run or a labeler's folder")
    try:
        weights = regular_file(folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise LabelerError(f"{folder / WEIGHTS}: cannot be read ({error.strerror}); train the labeler again") from error
    if hashlib.sha256(weights).hexdigest() != record["weights_sha256"]:
        raise LabelerError(
            f"{folder / WEIGHTS}: damaged (its hash is not the one in {CONFIG}); train the labeler again"
        )
    card = labeler_card(record, repo_id, options.license, options.tag)
    contents = {CARD: card.encode(), CONFIG: sealed_json(_public(record)).encode(), WEIGHTS: weights}
    return [planned_bytes(path, content) for path, content in contents.items()]


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """A labeler's record with only the name of the folder of label maps: others cannot use its path."""
    record = copy.deepcopy(record)
    score = record["training"].get("upstream", {}).get("scores", {}).get("inputs", {}).get("score", {})
    if score.get("label_maps"):
        score["label_maps"] = Path(score["label_maps"]).name
    return record


def publish_labeler(
    folder: Path, repo_id: str, options: LabelerOptions, retry: RetryPolicy | None = None
) -> PublishedLabeler:
    """Publish a labeler in one commit; publishing the same labeler again changes nothing.

    Raises:
        LabelerError: There is no labeler, or it is damaged.
        HubError: The Hub refused, or the tag exists on another commit.
    """
    from huggingface_hub import CommitOperationAdd

    repo = HubRepo(repo_id, retry, kind="model")
    check_token(repo, create_pr=False, dry=False)
    files = labeler_files(folder, repo.id, options)
    if repo.is_private() is None:
        repo.create(options.private)
    head = repo.refs().branches["main"]

    def holds(commit: str) -> bool:
        remote = repo.files(commit)
        return all(file.path in remote and remote[file.path].holds(file.content, file.sha256) for file in files)

    def request() -> str:
        operations = [CommitOperationAdd(file.path, file.content) for file in files]
        made = repo.api.create_commit(
            repo.id, operations, commit_message="Labeler", repo_type=repo.kind, parent_commit=head
        )
        return str(made.oid)

    def done() -> str | None:
        commit = repo.refs().branches["main"]
        return commit if commit != head and holds(commit) else None

    is_new = not holds(head)
    commit = repo.ask("committing", request, done=done) if is_new else head
    if options.tag:
        repo.create_tag(options.tag, commit, f"Labeler {options.tag}")
    return PublishedLabeler(repo.id, files, commit, is_new)


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
