"""The published versions of a dataset, and what a new version takes over from them."""

import dataclasses
import re

import yaml

from hf_relabel.errors import HubError, ReleaseError
from hf_relabel.hub.card_metadata import License
from hf_relabel.hub.client import HubRepo, Refs, RemoteFile
from hf_relabel.hub.files import CARD, PublishOptions
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import version_key

_TAG = re.compile(r"v(\d+\.\d+\.\d+)")


def published_versions(refs: Refs) -> list[str]:
    """Versions with a tag, oldest first."""
    matches = (_TAG.fullmatch(tag) for tag in refs.tags)
    return sorted((match[1] for match in matches if match), key=version_key)


def previous_version(refs: Refs, version: str) -> str | None:
    """The latest published version before this one."""
    earlier = [found for found in published_versions(refs) if version_key(found) < version_key(version)]
    return earlier[-1] if earlier else None


def previous_release(repo: HubRepo, previous: str | None, options: PublishOptions, *, rows: bool) -> Release | None:
    """The release of the previous version.

    Args:
        repo: The repository.
        previous: The previous version, if there is one.
        options: Options; `options.previous` may name a local copy of the release.
        rows: Whether the rows are needed. Otherwise only the manifest is downloaded.

    Raises:
        ReleaseError: The local copy is not the published version.
        HubError: The download failed.
    """
    if previous is None:
        return None
    tag = f"v{previous}"
    if options.previous is not None:
        local = Release.open(options.previous)
        if (options.previous / MANIFEST).read_bytes() != repo.read(MANIFEST, tag):
            raise ReleaseError(
                f"{options.previous}: is version {local.version} of {local.name}, but differs from {tag} of {repo.id}; "
                "omit --previous to download that version"
            )
        return local
    if MANIFEST not in repo.files(tag):
        return None
    folder = repo.download_release(tag, ["regions"] if rows else [])
    return Release.open(folder)


def with_inherited_license(
    options: PublishOptions, repo: HubRepo, head: str | None, remote: dict[str, RemoteFile]
) -> PublishOptions:
    """Take over the license of the existing card if none is given."""
    if options.card.license.id is not None or head is None or CARD not in remote:
        return options
    parts = repo.read(CARD, head).decode().split("---\n", 2)
    try:
        metadata = yaml.safe_load(parts[1]) if len(parts) == 3 else {}
    except yaml.YAMLError as error:
        raise HubError(f"{repo.id}: the front matter of its {CARD} is not valid YAML; fix it there first") from error
    values = {key: (metadata or {}).get(key) for key in ("license", "license_name", "license_link")}
    license = License(values["license"], values["license_name"], values["license_link"])
    return dataclasses.replace(options, card=dataclasses.replace(options.card, license=license))
