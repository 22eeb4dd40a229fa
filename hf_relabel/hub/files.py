"""The options of publishing, and the files of a published version."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from hf_relabel.hub.card import CardOptions, asset
from hf_relabel.hub.client import RemoteFile
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release

CARD, CHANGELOG, LOADER, PROVENANCE = "README.md", "CHANGELOG.md", "scripts/load_relabel.py", "provenance.json"

_OURS = re.compile(r"data/(labels|regions|preview)/[^/]+\.parquet|card/[^/]+\.png")
"""Files of an earlier version that are removed: its data files and pictures."""


@dataclass(frozen=True)
class PublishOptions:
    """How a release is published.

    Args:
        version: The version, which must be the release's.
        branch: Branch to commit to; created from `main` if it does not exist.
        private: Create the repository as private.
        create_pr: Open a pull request instead of committing to the branch; the tag is set after the merge.
        message: First line of the commit message.
        card: Contents of the card that the manifest does not record.
        previous: Folder of the previous version, so that it need not be downloaded for the changelog.
        dropped_splits: Splits of the previous version that this one need not have.
    """

    version: str
    branch: str = "main"
    private: bool = False
    create_pr: bool = False
    message: str | None = None
    card: CardOptions = field(default_factory=CardOptions)
    previous: Path | None = None
    dropped_splits: list[str] = field(default_factory=list)

    @property
    def tag(self) -> str:
        """Name of the tag."""
        return f"v{self.version}"


@dataclass(frozen=True)
class PlannedFile:
    """A file of the version: its path in the repository, content, size and hash."""

    path: str
    content: bytes | Path
    size: int
    sha256: str


def differences(
    files: list[PlannedFile], remote: dict[str, RemoteFile]
) -> tuple[list[PlannedFile], list[PlannedFile], list[str]]:
    """Files to add, files that are already there, and paths to remove."""
    add: list[PlannedFile] = []
    keep: list[PlannedFile] = []
    for file in files:
        is_there = file.path in remote and remote[file.path].holds(file.content, file.sha256)
        (keep if is_there else add).append(file)
    paths = {file.path for file in files}
    return add, keep, sorted(path for path in remote if _OURS.fullmatch(path) and path not in paths)


def version_files(release: Release, options: PublishOptions, card: str, changelog: str) -> list[PlannedFile]:
    """All files of the version as they will be in the repository."""
    from hf_relabel.hub.card_plots import card_pictures

    provenance = {"name": release.name, "version": release.version, **release.provenance}
    texts = {
        CARD: card.encode(),
        CHANGELOG: changelog.encode(),
        LOADER: asset("load_relabel.py"),
        PROVENANCE: (json.dumps(provenance, indent=1, ensure_ascii=False) + "\n").encode(),
        MANIFEST: (release.folder / MANIFEST).read_bytes(),
        **card_pictures(release, options.card.shown_images),
    }
    if (preview := options.card.preview) is not None:
        texts[preview.path] = preview.content
    files = [PlannedFile(file.path, release.path_of(file), file.bytes, file.sha256) for file in release.files]
    return files + [planned_bytes(path, content) for path, content in texts.items()]


def planned_bytes(path: str, content: bytes) -> PlannedFile:
    """Plan a small file from its content."""
    return PlannedFile(path, content, len(content), hashlib.sha256(content).hexdigest())
