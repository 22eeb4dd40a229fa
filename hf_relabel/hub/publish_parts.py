"""Publish a version of many files: several commits to a pull request, then one merge.

The Hub takes at most about 100 files per commit. A pull request is a branch that readers do not see, and merging it
changes `main` in one step, so that nobody reads half a version. What is left to do follows from the state of the Hub:
the same command finds its pull request again, adds what is missing and merges.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from hf_relabel.errors import HubError
from hf_relabel.hub.client import HubRepo
from hf_relabel.hub.files import PlannedFile, differences
from hf_relabel.hub.upload import additions, progress_of, removals, upload

MAX_CHANGES = 50
"""Files that one of the commits adds or removes."""

UNFINISHED = ("draft", "open")
"""States of a pull request that has not been merged or closed."""

T = TypeVar("T")


def commit_in_parts(
    repo: HubRepo, files: list[PlannedFile], head: str | None, title: str, merges: bool
) -> tuple[str, str | None]:
    """Bring a version to a pull request, and merge it.

    Args:
        repo: The repository.
        files: All files of the version.
        head: The commit of `main` that the version was planned on.
        title: Title of the pull request, by which it is found again.
        merges: Whether to merge it; otherwise its owner does.

    Returns:
        The commit of `main` and None, or without a merge the pull request's commit and address.

    Raises:
        HubError: The Hub refused, or somebody has changed `main` meanwhile.
    """
    number = _find(repo, title) or _open(repo, title)
    commit = _fill(repo, files, f"refs/pr/{number}", title)
    _ask(repo, "opening the pull request", repo.api.change_discussion_status, number, "open")
    if not merges:
        return commit, f"{repo.api.endpoint}/datasets/{repo.id}/discussions/{number}"
    found = repo.refs().branches["main"]
    if found != head:
        raise HubError(
            f"{repo.id}: someone else has committed to main in the meantime: check commit {found}, then run the same "
            "command again"
        )

    def merged() -> str | None:
        current = repo.refs().branches["main"]
        return current if current != head and _holds(repo, current, files) else None

    def merge() -> str | None:
        repo.api.merge_pull_request(repo.id, number, repo_type="dataset")
        return merged()

    result = repo.ask(f"merging pull request {number}", merge, done=merged)
    if result is None:
        raise HubError(f"{repo.id}: after merging pull request {number}, main does not contain the version; check it")
    return result, None


def _find(repo: HubRepo, title: str) -> int | None:
    """Our pull request with this title that is not merged yet."""
    user = repo.user()

    def request() -> int | None:
        found = repo.api.get_repo_discussions(repo.id, repo_type="dataset", author=user["name"] if user else None)
        ours = (each for each in found if each.is_pull_request and each.title == title and each.status in UNFINISHED)
        return max((each.num for each in ours), default=None)

    return repo.ask("looking for the pull request", request)


def _open(repo: HubRepo, title: str) -> int:
    return repo.ask(
        "creating the pull request",
        lambda: int(repo.api.create_pull_request(repo.id, title, repo_type="dataset").num),
        done=lambda: _find(repo, title),
    )


def _fill(repo: HubRepo, files: list[PlannedFile], revision: str, title: str) -> str:
    """Commit what a pull request lacks, at most `MAX_CHANGES` files at a time; returns its last commit."""
    head = repo.refs().pulls[revision]
    add, _, remove = differences(files, repo.files(head))
    changes: list[PlannedFile | str] = [*add, *remove]
    parts = [changes[start : start + MAX_CHANGES] for start in range(0, len(changes), MAX_CHANGES)]
    with progress_of(add) as bar:
        for number, part in enumerate(parts, start=1):
            added = [change for change in part if isinstance(change, PlannedFile)]
            removed = [change for change in part if isinstance(change, str)]
            operations = additions(added)
            upload(repo, added, operations, revision, False, bar)
            message = f"{title}: {number} of {len(parts)}"
            head = _commit(repo, [*operations, *removals(removed)], revision, head, message, added, removed)
    return head


def _commit(
    repo: HubRepo,
    operations: list[Any],
    revision: str,
    head: str,
    message: str,
    added: list[PlannedFile],
    removed: list[str],
) -> str:
    def request() -> str:
        made = repo.api.create_commit(
            repo.id,
            operations,
            commit_message=message,
            repo_type="dataset",
            revision=revision,
            parent_commit=head,
        )
        return str(made.oid)

    def find_commit() -> str | None:
        """Find the commit if only its response was lost."""
        current = repo.refs().pulls[revision]
        if current == head:
            return None
        remote = repo.files(current)
        return current if not differences(added, remote)[0] and not remote.keys() & {*removed} else None

    return repo.ask("committing", request, done=find_commit)


def _holds(repo: HubRepo, revision: str, files: list[PlannedFile]) -> bool:
    add, _, remove = differences(files, repo.files(revision))
    return not add and not remove


def _ask(repo: HubRepo, doing: str, request: Callable[..., T], *arguments: Any) -> T:
    return repo.ask(doing, lambda: request(repo.id, *arguments, repo_type="dataset"))
