"""What publishing puts into a repository: the options, and every file of a version."""

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

_OURS = re.compile(r"data/(labels|regions)/[^/]+\.parquet|card/[^/]+\.png")
"""Files of an earlier version that must go: its shards, which the configurations' globs would match, and pictures."""


@dataclass(frozen=True)
class PublishOptions:
    """How a release is published.

    Args:
        version: Must be the release's.
        branch: Branch that is committed to; created from `main` if it is not there.
        private: Create the repository private.
        create_pr: Open a pull request instead of committing to the branch; the tag is left for when it is merged.
        message: First line of the commit.
        card: What the card says beside the manifest.
        previous: Folder of the version before, to save downloading it for the changelog.
    """

    version: str
    branch: str = "main"
    private: bool = False
    create_pr: bool = False
    message: str | None = None
    card: CardOptions = field(default_factory=CardOptions)
    previous: Path | None = None

    @property
    def tag(self) -> str:
        """Name of the tag."""
        return f"v{self.version}"


@dataclass(frozen=True)
class PlannedFile:
    """A file of the version: its path in the repository, content and hash."""

    path: str
    content: bytes | Path
    size: int
    sha256: str


def differences(
    files: list[PlannedFile], remote: dict[str, RemoteFile]
) -> tuple[list[PlannedFile], list[PlannedFile], list[str]]:
    """Files to add, files that are there, and paths to remove."""
    add, keep = [], []
    for file in files:
        there = file.path in remote and remote[file.path].holds(file.content, file.sha256)
        (keep if there else add).append(file)
    paths = {file.path for file in files}
    return add, keep, sorted(path for path in remote if _OURS.fullmatch(path) and path not in paths)


def version_files(release: Release, options: PublishOptions, card: str, changelog: str) -> list[PlannedFile]:
    """Every file of the version as it will be in the repository."""
    from hf_relabel.hub.card_plots import card_pictures

    provenance = {"name": release.name, "version": release.version, **release.provenance}
    texts = {
        CARD: card.encode(),
        CHANGELOG: changelog.encode(),
        LOADER: asset("load_relabel.py").read_bytes(),
        PROVENANCE: (json.dumps(provenance, indent=1, ensure_ascii=False) + "\n").encode(),
        MANIFEST: (release.folder / MANIFEST).read_bytes(),
        **card_pictures(release, options.card.shown_images),
    }
    files = [PlannedFile(file.path, release.path_of(file), file.bytes, file.sha256) for file in release.files]
    return files + [planned_bytes(path, content) for path, content in texts.items()]


def planned_bytes(path: str, content: bytes) -> PlannedFile:
    """A small file made here."""
    return PlannedFile(path, content, len(content), hashlib.sha256(content).hexdigest())
