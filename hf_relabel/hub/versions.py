"""The versions that a published dataset has already, and what a new one takes over from them."""

import dataclasses
import re

import yaml

from hf_relabel.errors import HubError, ReleaseError
from hf_relabel.hub.card_metadata import License
from hf_relabel.hub.changelog import version_key
from hf_relabel.hub.client import HubRepo, Refs, RemoteFile
from hf_relabel.hub.files import CARD, PublishOptions
from hf_relabel.release.chunking import reused_share
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release

_TAG = re.compile(r"v(\d+\.\d+\.\d+)")


def published_versions(refs: Refs) -> list[str]:
    """Versions that have a tag, oldest first."""
    matches = (_TAG.fullmatch(tag) for tag in refs.tags)
    return sorted((match[1] for match in matches if match), key=version_key)


def previous_version(refs: Refs, version: str) -> str | None:
    """The latest published version that is older than this one."""
    earlier = [found for found in published_versions(refs) if version_key(found) < version_key(version)]
    return earlier[-1] if earlier else None


def previous_release(repo: HubRepo, previous: str | None, options: PublishOptions) -> Release | None:
    """The release of the version before, from the folder that was named or else from the Hub."""
    if previous is None:
        return None
    tag = f"v{previous}"
    if options.previous is None:
        folder = repo.download_release(tag)
        return Release.open(folder) if (folder / MANIFEST).exists() else None
    local = Release.open(options.previous)
    if (options.previous / MANIFEST).read_bytes() != repo.read(MANIFEST, tag):
        raise ReleaseError(
            f"{options.previous}: is version {local.version} of {local.name}, but not what {repo.id} holds as {tag}; "
            "leave --previous away to download that"
        )
    return local


def reused_bytes(release: Release, before: Release | None) -> float | None:
    """Share of the data's bytes in chunks that the version before holds; None where there is none."""
    if before is None:
        return None
    new, old = ([made.path_of(file) for file in made.files if file.config_name] for made in (release, before))
    return reused_share(new, old)


def with_inherited_license(
    options: PublishOptions, repo: HubRepo, head: str | None, remote: dict[str, RemoteFile]
) -> PublishOptions:
    """Where no licence is given, that of the card which is there holds on."""
    if options.card.license.id is not None or CARD not in remote:
        return options
    parts = repo.read(CARD, head).decode().split("---\n", 2)
    try:
        metadata = yaml.safe_load(parts[1]) if len(parts) == 3 else {}
    except yaml.YAMLError as error:
        raise HubError(f"{repo.id}: the front matter of its {CARD} is not valid YAML; mend it there first") from error
    there = License(*((metadata or {}).get(key) for key in ("license", "license_name", "license_link")))
    return dataclasses.replace(options, card=dataclasses.replace(options.card, license=there))
