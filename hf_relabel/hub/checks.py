"""Checks before a release is published, in addition to the hashes of its files. Each failure is a HubError."""

import json

from hf_relabel.errors import HubError
from hf_relabel.hub.client import HubRepo, Refs, RemoteFile
from hf_relabel.hub.files import PlannedFile, PublishOptions, differences
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import version_key


def check_token(repo: HubRepo, create_pr: bool, dry: bool) -> None:
    """Refuse a missing token, and one that cannot write as far as the Hub reports it before the first write.

    The repository's owner may be written in any case; `repo.id` becomes the Hub's spelling.
    """
    user = repo.user()
    if user is None:
        if dry:
            return
        raise HubError("no token: set HF_TOKEN or run `hf auth login` (with a token that has write access)")
    token = user.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise HubError(f"the token of {user['name']} is read-only; create one with write access in the Hub's settings")
    roles = {user["name"]: None, **{org["name"]: org.get("roleInOrg") for org in user.get("orgs", [])}}
    owner, name = repo.id.split("/")
    known = next((each for each in roles if each.lower() == owner.lower()), None)
    if known is not None:
        repo.id = f"{known}/{name}"
    if create_pr:
        return
    if known is None:
        raise HubError(
            f"{repo.id}: the token of {user['name']} has no write access to {owner}; publish under your own name, or "
            "open a pull request with --create-pr"
        )
    if roles[known] in ("read", "no_access"):
        raise HubError(
            f"{repo.id}: {user['name']} may only read in the organization {known} (role {roles[known]}); ask its "
            "administrator for the role `contributor` or `write`, or open a pull request with --create-pr"
        )


def refuse_shadowing_script(repo_id: str, remote: dict[str, RemoteFile]) -> None:
    """Refuse a root script named like the repository: datasets would run it, fail, or load a stale copy."""
    name = repo_id.split("/")[1].lower()
    for path in remote:
        if "/" not in path and path.lower() == f"{name}.py":
            raise HubError(
                f"{repo_id}: contains {path}, which datasets treats as a loading script; delete that file first"
            )


def refuse_older_version(
    repo: HubRepo, options: PublishOptions, head: str | None, remote: dict[str, RemoteFile]
) -> None:
    """Refuse to replace a newer version by an older one."""
    if MANIFEST not in remote:
        return
    try:
        there = str(json.loads(repo.read(MANIFEST, head or "main"))["version"])
        is_newer = version_key(there) > version_key(options.version)
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(f"{repo.id}: its {MANIFEST} is not from hf_relabel ({error}); choose another name") from error
    if is_newer:
        raise HubError(
            f"{repo.id}: {options.branch} already contains version {there}; publish {options.version} on another "
            "branch with --branch"
        )


def refuse_dropped_splits(repo: HubRepo, before: Release, release: Release, options: PublishOptions) -> None:
    """Refuse a version without a split that the previous version has, unless that is asked for."""
    dropped = [split for split in before.splits if split not in release.splits]
    unexpected = [split for split in dropped if split not in options.dropped_splits]
    if unexpected:
        raise HubError(
            f"{repo.id}: version {before.version} has the splits {', '.join(before.splits)}, this release only "
            f"{', '.join(release.splits)}, so {', '.join(unexpected)} would be removed; build the release with "
            f"--build.base {repo.id}@v{before.version} to keep it, or remove it with --drop-split {unexpected[0]}"
        )


def refuse_moved_tag(repo: HubRepo, refs: Refs, options: PublishOptions, files: list[PlannedFile]) -> None:
    """Refuse a version whose tag has other files. With the same files, publishing again changes nothing."""
    commit = refs.tags.get(options.tag)
    if commit is None:
        return
    add, _, remove = differences(files, repo.files(commit))
    if add or remove or refs.branches.get(options.branch) != commit:
        changed = ", ".join([file.path for file in add] + remove) or f"the commit of {options.branch}"
        raise HubError(
            f"{repo.id}: tag {options.tag} already exists and tags are never moved; publish the change as a new "
            f"version (changed: {changed})"
        )
