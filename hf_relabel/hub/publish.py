"""Publish a release: check everything first, upload the data file by file, make one commit and one tag.

Nothing on the Hub changes before the commit, and the commit changes everything in one step. A version of more files
than a commit takes is brought to a pull request in several commits, and its merge is that step (`publish_parts`).
The remaining work is always derived from the state of the Hub, so the same command resumes after any interruption:
files that exist are not sent again, a commit that was made is found, a missing tag is set.
"""

import dataclasses
from dataclasses import dataclass

from hf_relabel.errors import HubError, ReleaseError
from hf_relabel.hub.card import render_card
from hf_relabel.hub.changelog import entry, extended, first_entry, preview_entry
from hf_relabel.hub.checks import (
    check_token,
    refuse_dropped_splits,
    refuse_moved_tag,
    refuse_older_version,
    refuse_shadowing_script,
)
from hf_relabel.hub.client import HubRepo, HubUnreachable, Refs, RemoteFile, RetryPolicy
from hf_relabel.hub.files import CHANGELOG, PlannedFile, PublishOptions, differences, version_files
from hf_relabel.hub.limits import MAX_FILES, check_limits
from hf_relabel.hub.publish_parts import commit_in_parts
from hf_relabel.hub.upload import additions, progress_of, removals, upload
from hf_relabel.hub.versions import previous_release, previous_version, with_inherited_license
from hf_relabel.release.diff import compare
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import refuse_links, verify


@dataclass(frozen=True)
class Plan:
    """What publishing will do.

    Args:
        repo_id: The repository.
        exists: Whether the repository exists.
        head: Commit the plan is based on; None if the repository does not exist.
        starts_branch: Whether the branch does not exist yet.
        add: Files to upload.
        keep: Files of the version that the branch already has.
        remove: Paths of earlier versions' files to delete.
        card: Content of README.md.
        changes: This version's section of the changelog.
        unreachable: Why the Hub could not be asked, in a dry run; the plan then is the one for an empty repository.
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
    unreachable: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether the branch already contains the version."""
        return not self.add and not self.remove

    @property
    def is_large(self) -> bool:
        """Whether it changes more files than one commit takes, so that it goes through a pull request in parts."""
        return len(self.add) + len(self.remove) > MAX_FILES


@dataclass(frozen=True)
class Published:
    """The outcome: the commit, its tag (None for a pull request) and the address of the pull request."""

    commit: str
    tag: str | None
    pull_request: str | None = None


def make_plan(release: Release, repo: HubRepo, options: PublishOptions, *, dry: bool = False) -> Plan:
    """Check everything that can be checked before the first upload, and plan the uploads.

    Args:
        release: The release.
        repo: The repository.
        options: How to publish.
        dry: For a dry run, which needs no token and does not download the rows of the previous version.

    Raises:
        ReleaseError: The release is damaged or has another version.
        HubError: The repository, the token, the card or a limit does not allow it.
    """
    _check_release(release, options)
    check_token(repo, options.create_pr, dry)
    private = repo.is_private()
    if private is False and options.private:
        raise HubError(f"{repo.id}: is public, but --private was given; change it in the repository's settings")
    refs = repo.refs() if private is not None else Refs()
    starts_branch = private is not None and options.branch not in refs.branches
    head = refs.branches.get(options.branch) or refs.branches.get("main")
    remote = repo.files(head) if head else {}
    refuse_shadowing_script(repo.id, remote)
    refuse_older_version(repo, options, head, remote)

    options = with_inherited_license(options, repo, head, remote)
    previous = previous_version(refs, options.version)
    has_rows = not dry or options.previous is not None
    before = previous_release(repo, previous, options, rows=has_rows)
    if before is not None:
        refuse_dropped_splits(repo, before, release, options)
    if before is None:
        changes = first_entry(release)
    elif has_rows:
        changes = entry(compare(before, release), before.version)
    else:
        changes = preview_entry(before, release)
    old_changelog = repo.read(CHANGELOG, head).decode() if head and CHANGELOG in remote else ""
    card = render_card(release, repo.id, options.card)
    repo.validate_card(card)
    files = version_files(release, options, card, extended(old_changelog, options.version, changes))
    add, keep, remove = differences(files, remote)
    refuse_moved_tag(repo, refs, options, files)
    check_limits(files, remote, add, remove, options.branch)
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
    )


def _check_release(release: Release, options: PublishOptions) -> None:
    if options.version != release.version:
        raise ReleaseError(
            f"{release.folder}: is version {release.version}, not {options.version}; every row contains the version, "
            f"so build it with --build.version {options.version}"
        )
    refuse_links(release)
    verify(release)


def dry_run(release: Release, repo_id: str, options: PublishOptions) -> Plan:
    """Plan a publication without changing anything on the Hub; works without a network.

    Raises:
        ReleaseError: The release is damaged or has another version.
        HubError: The repository, the card or a limit does not allow it.
    """
    try:
        return make_plan(release, HubRepo(repo_id, RetryPolicy(attempts=2)), options, dry=True)
    except HubUnreachable as error:
        _check_release(release, options)
        card = render_card(release, repo_id, options.card)
        changes = "Written when publishing, from the versions on the Hub.\n"
        files = version_files(release, options, card, extended("", options.version, changes))
        check_limits(files, {}, files, [], options.branch)
        return Plan(
            repo_id=repo_id,
            exists=False,
            head=None,
            starts_branch=False,
            add=files,
            keep=[],
            remove=[],
            card=card,
            changes=changes,
            unreachable=str(error),
        )


def publish(
    release: Release, repo_id: str, options: PublishOptions, retry: RetryPolicy | None = None
) -> tuple[Plan, Published]:
    """Publish a release; the module's docstring describes the steps.

    Raises:
        ReleaseError: The release is damaged or has another version.
        HubError: The Hub refused, or the content does not meet its rules.
    """
    repo = HubRepo(repo_id, retry)
    plan = make_plan(release, repo, options)
    if not plan.exists:
        repo.create(options.private)
        plan = _started(plan, repo, options) or make_plan(release, repo, options)
    if plan.starts_branch:
        repo.create_branch(options.branch, plan.head or "main")
    if plan.is_done and plan.head is not None:
        commit = plan.head
    else:
        commit, pull_request = _commit(repo, plan, options)
        if options.create_pr:
            return plan, Published(commit, None, pull_request)
    repo.create_tag(options.tag, commit, f"{release.name} {release.version}")
    return plan, Published(commit, options.tag)


def _started(plan: Plan, repo: HubRepo, options: PublishOptions) -> Plan | None:
    """Adapt the plan to the repository that was just created; None if it contains more than a new one does."""
    branches = repo.refs().branches
    head = branches.get("main")
    remote = repo.files(head) if head else {}
    if head is None or remote.keys() - {".gitattributes"}:
        return None
    return dataclasses.replace(plan, exists=True, head=head, starts_branch=options.branch not in branches)


def _commit(repo: HubRepo, plan: Plan, options: PublishOptions) -> tuple[str, str | None]:
    """Upload the files and make the commit; return its id and the address of the pull request."""
    message = options.message or f"Version {options.version}"
    if plan.is_large:
        return commit_in_parts(repo, [*plan.add, *plan.keep], plan.head, f"{message}, in parts", not options.create_pr)
    added = additions(plan.add)
    with progress_of(plan.add) as bar:
        upload(repo, plan.add, added, options.branch, options.create_pr, bar)

    def request() -> tuple[str, str | None]:
        made = repo.api.create_commit(
            repo.id,
            [*added, *removals(plan.remove)],
            commit_message=message,
            repo_type="dataset",
            revision=options.branch,
            parent_commit=plan.head,
            create_pr=options.create_pr,
        )
        return made.oid, made.pr_url

    def find_commit() -> tuple[str, str | None] | None:
        """Find the commit if only its response was lost: a branch head or pull request with these files."""
        refs = repo.refs()
        candidates: dict[str, str] = refs.pulls if options.create_pr else refs.branches
        for name, commit in candidates.items():
            if (
                (options.create_pr or name == options.branch)
                and commit != plan.head
                and _holds(repo.files(commit), plan)
            ):
                return commit, name if options.create_pr else None
        return None

    commit, pull_request = repo.ask("committing", request, done=find_commit)
    if not _holds(repo.files(commit), plan):
        raise HubError(f"{repo.id}: commit {commit} does not contain what was uploaded; check it before you continue")
    return commit, pull_request


def _holds(remote: dict[str, RemoteFile], plan: Plan) -> bool:
    """Whether a revision has exactly the files of the plan."""
    add, _, remove = differences([*plan.add, *plan.keep], remote)
    return not add and not remove
