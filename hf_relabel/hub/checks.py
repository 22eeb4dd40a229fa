"""What must hold before a release is published, beside the release's own hashes; each refusal is a HubError."""

import json
from pathlib import PurePosixPath

from hf_relabel.errors import HubError
from hf_relabel.hub.changelog import version_key
from hf_relabel.hub.client import HubRepo, Refs, RemoteFile
from hf_relabel.hub.files import PlannedFile, PublishOptions, differences
from hf_relabel.release.layout import MANIFEST

MOST_FILES = 100
"""Files that one commit may add or remove; the Hub advises 50 to 100."""

MOST_FILES_IN_FOLDER = 10_000
MOST_FILES_IN_REPOSITORY = 100_000
MOST_BYTES = 50_000_000_000
"""The Hub's limit of a single file."""


def check_token(repo: HubRepo, options: PublishOptions, dry: bool) -> None:
    """Refuse a token that cannot write, as far as the Hub tells before the first write."""
    user = repo.user()
    if user is None:
        if dry:
            return
        raise HubError("no token: set HF_TOKEN or run `hf auth login` (a token that may write)")
    token = user.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise HubError(f"the token of {user['name']} may only read; make one that may write in the Hub's settings")
    owner = repo.id.split("/")[0]
    owners = {user["name"], *(organisation["name"] for organisation in user.get("orgs", []))}
    if owner not in owners and not options.create_pr:
        raise HubError(
            f"{repo.id}: the token of {user['name']} may not write to {owner}; publish under your own name, or open a "
            "pull request with --create-pr"
        )


def refuse_shadowing_script(repo_id: str, remote: dict[str, RemoteFile]) -> None:
    """Refuse a root script named like the repository: datasets would run it, refuse it, or serve a stale copy."""
    name = repo_id.split("/")[1].lower()
    for path in remote:
        if "/" not in path and path.lower() == f"{name}.py":
            raise HubError(
                f"{repo_id}: holds {path}, which datasets takes for a loading script; delete that file first"
            )


def refuse_older_version(
    repo: HubRepo, options: PublishOptions, head: str | None, remote: dict[str, RemoteFile]
) -> None:
    """Refuse to put an older version over a newer one."""
    if MANIFEST not in remote:
        return
    try:
        there = str(json.loads(repo.read(MANIFEST, head))["version"])
        is_newer = version_key(there) > version_key(options.version)
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(f"{repo.id}: its {MANIFEST} is not that of a release ({error}); choose another name") from error
    if is_newer:
        raise HubError(
            f"{repo.id}: {options.branch} holds version {there} already; publish {options.version} on a branch of its "
            "own with --branch"
        )


def refuse_moved_tag(repo: HubRepo, refs: Refs, options: PublishOptions, files: list[PlannedFile]) -> None:
    """Refuse a version whose tag is on other data. On the very same files, publishing again changes nothing."""
    commit = refs.tags.get(options.tag)
    if commit is None:
        return
    add, _, remove = differences(files, repo.files(commit))
    if add or remove or refs.branches.get(options.branch) != commit:
        changed = ", ".join([file.path for file in add] + remove) or f"the commit of {options.branch}"
        raise HubError(
            f"{repo.id}: tag {options.tag} is there and tags are never moved; publish the change as a new version "
            f"(it differs in {changed})"
        )


def check_limits(
    files: list[PlannedFile], remote: dict[str, RemoteFile], add: list[PlannedFile], remove: list[str]
) -> None:
    """Refuse what is beyond the Hub's limits."""
    if len(add) + len(remove) > MOST_FILES:
        raise HubError(
            f"{len(add) + len(remove)} files change, more than the {MOST_FILES} of one commit; build the release with "
            "larger files (--build.rows_per_file)"
        )
    paths = ({*remote} - {*remove}) | {file.path for file in files}
    if len(paths) > MOST_FILES_IN_REPOSITORY:
        raise HubError(f"{len(paths)} files, more than the {MOST_FILES_IN_REPOSITORY} of a repository")
    folders: dict[str, int] = {}
    for path in paths:
        folder = str(PurePosixPath(path).parent)
        folders[folder] = folders.get(folder, 0) + 1
    for folder, count in folders.items():
        if count > MOST_FILES_IN_FOLDER:
            raise HubError(f"{folder}: {count} files, more than the {MOST_FILES_IN_FOLDER} of a folder")
    for file in files:
        if file.size > MOST_BYTES:
            raise HubError(f"{file.path}: {file.size:,} bytes, more than the {MOST_BYTES:,} of a file; use more files")
