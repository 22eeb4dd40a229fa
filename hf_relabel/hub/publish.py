"""Publish a release: everything checked first, data uploaded file by file, one commit, one tag.

Nothing on the Hub changes before the commit, and the commit changes everything at once. What is to be done is always
worked out from what the Hub has, so the same command run again after any interruption goes on where it stopped: files
that are there are not sent, a commit that was made is found, a tag that is missing is set.
"""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from hf_relabel.errors import HubError, ReleaseError
from hf_relabel.hub.card import render_card
from hf_relabel.hub.changelog import entry, extended, first_entry
from hf_relabel.hub.checks import (
    check_limits,
    check_token,
    refuse_moved_tag,
    refuse_older_version,
    refuse_shadowing_script,
)
from hf_relabel.hub.client import HubRepo, Patience, Refs, RemoteFile
from hf_relabel.hub.files import CHANGELOG, PlannedFile, PublishOptions, differences, version_files
from hf_relabel.hub.versions import previous_release, previous_version, reused_bytes, with_inherited_license
from hf_relabel.release.diff import compare
from hf_relabel.release.reader import Release


@dataclass(frozen=True)
class Plan:
    """What publishing does, and to what.

    Args:
        repo_id: The repository.
        exists: Whether it is there.
        head: Commit the plan is based on; None where the repository is not there.
        starts_branch: Whether the branch is not there yet.
        add: Files to send.
        keep: Files of the version that the branch has already.
        remove: Paths of earlier versions' files that go.
        card: README.md.
        changes: This version's section of the changelog.
        previous: The version before, if there is one.
        reused: Share of the data's bytes in chunks that the version before holds; None where there is none.
    """

    repo_id: str
    exists: bool
    head: str | None
    starts_branch: bool
    add: list[PlannedFile]
    keep: list[PlannedFile]
    remove: list[str]
    card: str
    changes: str
    previous: str | None
    reused: float | None

    @property
    def is_done(self) -> bool:
        """Whether the branch holds the version already."""
        return not self.add and not self.remove


@dataclass(frozen=True)
class Published:
    """The outcome: the commit, its tag (None for a pull request) and the pull request's address."""

    commit: str
    tag: str | None
    pull_request: str | None = None


def make_plan(release: Release, repo: HubRepo, options: PublishOptions, *, dry: bool = False) -> Plan:
    """Check everything that can be checked before a byte is sent, and work out what is to be sent.

    Args:
        release: The release.
        repo: The repository.
        options: How to publish.
        dry: Nothing will be sent, so a missing token is no error.

    Raises:
        ReleaseError: The release is damaged or of another version.
        HubError: The repository, the token, the card or a limit forbids it.
    """
    if options.version != release.version:
        raise ReleaseError(
            f"{release.folder}: is version {release.version}, not {options.version}; the version is in every row, so "
            f"build it with --build.version {options.version}"
        )
    release.verify()
    check_token(repo, options, dry)
    private = repo.is_private()
    if private is False and options.private:
        raise HubError(f"{repo.id}: is public, but --private was asked for; change it in the repository's settings")
    refs = repo.refs() if private is not None else Refs()
    starts_branch = private is not None and options.branch not in refs.branches
    head = refs.branches.get(options.branch) or refs.branches.get("main")
    remote = repo.files(head) if head else {}
    refuse_shadowing_script(repo.id, remote)
    refuse_older_version(repo, options, head, remote)

    options = with_inherited_license(options, repo, head, remote)
    previous = previous_version(refs, options.version)
    before = previous_release(repo, previous, options)
    changes = first_entry(release) if before is None else entry(compare(before, release), previous)
    old_changelog = repo.read(CHANGELOG, head).decode() if CHANGELOG in remote else ""
    card = render_card(release, repo.id, options.card)
    files = version_files(release, options, card, extended(old_changelog, options.version, changes))
    add, keep, remove = differences(files, remote)
    refuse_moved_tag(repo, refs, options, files)
    check_limits(files, remote, add, remove)
    return Plan(
        repo_id=repo.id,
        exists=private is not None,
        head=head,
        starts_branch=starts_branch,
        add=add,
        keep=keep,
        remove=remove,
        card=card,
        changes=changes,
        previous=previous if before is not None else None,
        reused=reused_bytes(release, before) if add else None,
    )


def publish(
    release: Release, repo_id: str, options: PublishOptions, patience: Patience | None = None
) -> tuple[Plan, Published]:
    """Publish a release; see the module's docstring for what happens in which order.

    Raises:
        ReleaseError: The release is damaged or of another version.
        HubError: The Hub refused, or what would be published is not fit to be.
    """
    repo = HubRepo(repo_id, patience)
    plan = make_plan(release, repo, options)
    if not plan.exists:
        repo.create(options.private)
        plan = _started(plan, repo, options) or make_plan(release, repo, options)
    if plan.starts_branch:
        repo.create_branch(options.branch, plan.head)
    if plan.is_done:
        commit, pull_request = plan.head, None
    else:
        commit, pull_request = _commit(repo, plan, options)
    if options.create_pr and not plan.is_done:
        return plan, Published(commit, None, pull_request)
    repo.create_tag(options.tag, commit, f"{release.name} {release.version}")
    return plan, Published(commit, options.tag)


def _started(plan: Plan, repo: HubRepo, options: PublishOptions) -> Plan | None:
    """The plan in the repository that was just created; None where it holds more than a new one does."""
    branches = repo.refs().branches
    head = branches.get("main")
    remote = repo.files(head) if head else {}
    if head is None or remote.keys() - {".gitattributes"}:
        return None
    return dataclasses.replace(plan, exists=True, head=head, starts_branch=options.branch not in branches)


def _commit(repo: HubRepo, plan: Plan, options: PublishOptions) -> tuple[str, str | None]:
    """Send the files and make the commit; returns its id and the pull request's address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    additions = [
        CommitOperationAdd(file.path, file.content if isinstance(file.content, bytes) else str(file.content))
        for file in plan.add
    ]
    _upload(repo, plan, additions, options)
    removals = [CommitOperationDelete(path, is_folder=False) for path in plan.remove]
    message = options.message or f"Version {options.version}"

    def request() -> tuple[str, str | None]:
        made = repo.api.create_commit(
            repo.id,
            [*additions, *removals],
            commit_message=message,
            repo_type="dataset",
            revision=options.branch,
            parent_commit=plan.head,
            create_pr=options.create_pr,
        )
        return made.oid, made.pr_url

    def made_already() -> tuple[str, str | None] | None:
        """The commit whose answer was lost: a head, or a pull request, that holds the version."""
        refs = repo.refs()
        candidates = refs.pulls if options.create_pr else {options.branch: refs.branches.get(options.branch)}
        for name, commit in candidates.items():
            if commit and commit != plan.head and _holds(repo.files(commit), plan):
                return commit, name if options.create_pr else None
        return None

    commit, pull_request = repo.ask("committing", request, done=made_already)
    if not _holds(repo.files(commit), plan):
        raise HubError(f"{repo.id}: commit {commit} does not hold what was sent; look at it before anything else")
    return commit, pull_request


def _upload(repo: HubRepo, plan: Plan, additions: list[Any], options: PublishOptions) -> None:
    """Send the content of large files, one file a time; those that the Hub has are not sent again."""
    from tqdm.auto import tqdm

    total = sum(file.size for file in plan.add)
    with tqdm(total=total, desc="uploading", unit="B", unit_scale=True, file=sys.stderr) as bar:
        for file, addition in zip(plan.add, additions, strict=True):
            repo.ask(
                f"uploading {file.path}",
                lambda addition=addition: repo.api.preupload_lfs_files(
                    repo.id,
                    [addition],
                    repo_type="dataset",
                    revision=options.branch,
                    create_pr=options.create_pr,
                    free_memory=False,
                ),
            )
            if addition.upload_info.sha256.hex() != file.sha256:
                raise ReleaseError(f"{file.content}: altered while it was uploaded; build the release again")
            bar.update(file.size)


def _holds(remote: dict[str, RemoteFile], plan: Plan) -> bool:
    add, _, remove = differences([*plan.add, *plan.keep], remote)
    return not add and not remove
