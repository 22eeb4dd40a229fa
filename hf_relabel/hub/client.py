"""A dataset repository on the Hub, read and written with retries.

The client library retries some requests but not others: it raises when a commit, a tag or the first request of a
download meets a 503, a 429 or a dropped connection. Here every request is retried after a delay, or after the time that
the server asks for. A request may have succeeded although its response was lost, so before a request that changes
something is repeated, the repository is checked.

The client library handles tokens (`HF_TOKEN` or the stored login); this module never holds one.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hf_relabel.errors import HubError
from hf_relabel.hub.answers import (
    asked_delay,
    client_message,
    is_transient,
    one_line,
    reason,
    status_of,
    transport_error,
)
from hf_relabel.release.layout import EXCLUDED, MANIFEST
from hf_relabel.schema import CONFIG_NAMES

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after which delays a failed request is repeated.

    Args:
        attempts: Maximum number of requests.
        first_delay: Seconds before the second request; doubled each time.
        max_delay: Maximum delay in seconds when the server does not ask for one.
        max_retry_after: Maximum delay in seconds when the server asks for one.
        timeout: Seconds without data from the server after which a request has failed; huggingface_hub before 1.0
            waits forever.
    """

    attempts: int = 8
    first_delay: float = 1.0
    max_delay: float = 60.0
    max_retry_after: float = 900.0
    timeout: float = 300.0

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """Seconds to wait after a failed attempt (counted from 0)."""
        if retry_after is not None:
            return min(retry_after, self.max_retry_after)
        return min(self.first_delay * 2**attempt, self.max_delay)


class HubUnreachable(HubError):
    """The Hub cannot be reached: offline mode, no network, or no answer."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a revision with its size and the hash the Hub reports: `sha256` for LFS files, `blob_id` for others."""

    size: int
    blob_id: str
    sha256: str | None

    def holds(self, content: "bytes | Path", sha256: str) -> bool:
        """Whether the file has this content."""
        return sha256 == self.sha256 if self.sha256 else git_blob_id(content) == self.blob_id


def git_blob_id(content: bytes | Path) -> str:
    """Git's id of a file with this content."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with open(content, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Refs:
    """Commits of all branches, tags and open pull requests, by name."""

    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)


def release_patterns(config_names: Sequence[str]) -> list[str]:
    """Patterns of the files in a repository that belong to a release with these configurations."""
    return [MANIFEST, EXCLUDED, *(f"data/{name}/*" for name in config_names)]


class HubRepo:
    """One repository, of a dataset or a model.

    Args:
        repo_id: `user/name`.
        retry: How failed requests are repeated.
        kind: `dataset` or `model`.

    Raises:
        HubError: The name is not valid.
        HubUnreachable: `HF_HUB_OFFLINE` is set.
    """

    def __init__(self, repo_id: str, retry: RetryPolicy | None = None, kind: str = "dataset"):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars, validate_repo_id
        from huggingface_hub.utils import logging as hub_logging

        if repo_id.count("/") != 1:
            raise HubError(f"{repo_id!r}: must be user/name")
        try:
            validate_repo_id(repo_id)
        except ValueError as error:
            raise HubError(f"{repo_id!r}: not a valid repository name ({one_line(error)})") from error
        if constants.HF_HUB_OFFLINE:
            raise HubUnreachable("HF_HUB_OFFLINE is set, but this command needs the Hub; unset it")
        # Its warnings quote upload URLs, which are secret; our messages contain the same information without them.
        hub_logging.set_verbosity_error()
        disable_progress_bars()
        self.id = repo_id
        self.kind = kind
        self.api = HfApi(library_name="hf_relabel")
        self.retry = retry or RetryPolicy()

    def ask(self, doing: str, request: Callable[[], T], done: Callable[[], T | None] | None = None) -> T:
        """Send a request and repeat it until it succeeds.

        Args:
            doing: What the request does, for messages.
            request: Sends it; raises the client's exceptions.
            done: Checks whether a request that seemed to fail has succeeded, and returns its result in that case;
                needed for requests that must not take effect twice.

        Raises:
            HubUnreachable: The Hub could not be reached in any attempt.
            HubError: The Hub refused the request or failed in every attempt.
        """
        from huggingface_hub.utils import get_session

        for attempt in range(self.retry.attempts):
            # The client's default is no timeout, and it may create a new session at any time, so this is set each time.
            cast(Any, get_session()).timeout = self.retry.timeout
            try:
                return request()
            except Exception as raised:
                error = transport_error(raised)
                if error is None and (other := self._other(doing, raised)) is not None:
                    raise other from raised
                if error is None:
                    raise
                if done is not None and (result := done()) is not None:
                    return result
                if not is_transient(error) or attempt == self.retry.attempts - 1:
                    raise self._explained(doing, error) from error
                seconds = self.retry.delay(attempt, asked_delay(error))
                print(f"{doing}: {reason(error)}; retrying in {seconds:.0f} s", file=sys.stderr, flush=True)
                time.sleep(seconds)
        raise AssertionError("the last attempt returns or raises")

    def _other(self, doing: str, raised: Exception) -> HubError | None:
        """The error for a failure without a response: a local one (a full disk), or the client's own refusal.

        None for an exception from elsewhere, which is a bug or an error of ours.
        """
        for error in (raised, raised.__cause__):
            if isinstance(error, OSError):
                return HubError(f"{doing} ({self.id}): {error.strerror or error}; fix this and run the command again")
        message = client_message(raised)
        return None if message is None else HubError(f"{doing} ({self.id}): {message}")

    def _explained(self, doing: str, error: BaseException) -> HubError:
        """The error for a refusal: the Hub's own words, and advice where they are missing or not enough."""
        status, words = status_of(error), reason(error)
        advice = {
            401: "; set HF_TOKEN to a token of this repository's owner or run `hf auth login`",
            404: "; check the name, and if it is private, that the token has access",
            412: "; someone else has committed in the meantime: check their commit, then run the same command again",
        }.get(status or 0, "")
        if status == 403 and "(" not in words:
            advice = "; use a token with write access to it"
        if is_transient(error):
            advice = "; run the same command again later, it resumes where it stopped"
        kind = HubUnreachable if status is None else HubError
        return kind(f"{doing} ({self.id}): {words}{advice}")

    def user(self) -> dict[str, Any] | None:
        """The Hub's record of the token's owner; None without a token."""
        from huggingface_hub import get_token

        if get_token() is None:
            return None
        return self.ask("checking the token", self.api.whoami)

    def validate_card(self, content: str) -> None:
        """Ask the Hub whether it accepts a card's metadata.

        Raises:
            HubError: It does not; the message contains its reasons.
        """
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        def request() -> None:
            body = {"content": content, "repoType": self.kind}
            url = f"{self.api.endpoint}/api/validate-yaml"
            hf_raise_for_status(get_session().post(url, json=body, headers=build_hf_headers()))

        self.ask("checking the card's metadata", request)

    def is_private(self) -> bool | None:
        """Whether the repository is private; None if it does not exist or the token has no access.

        `id` becomes the Hub's own spelling, because the Hub finds a repository by its name in any case.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        def request() -> bool | None:
            try:
                info = self.api.repo_info(self.id, repo_type=self.kind, timeout=self.retry.timeout)
                if info.id.lower() == self.id.lower():
                    self.id = info.id
                return bool(info.private)
            except RepositoryNotFoundError:
                return None

        return self.ask("looking for the repository", request)

    def create(self, private: bool) -> None:
        """Create the repository."""
        self.ask(
            "creating the repository",
            lambda: self.api.create_repo(self.id, repo_type=self.kind, private=private),
            done=lambda: True if self.is_private() is not None else None,
        )

    def refs(self) -> Refs:
        """Branches, tags and open pull requests."""
        found = self.ask(
            "listing branches and tags",
            lambda: self.api.list_repo_refs(self.id, repo_type=self.kind, include_pull_requests=True),
        )
        return Refs(
            branches={ref.name: ref.target_commit for ref in found.branches},
            tags={ref.name: ref.target_commit for ref in found.tags},
            pulls={ref.ref: ref.target_commit for ref in found.pull_requests or []},
        )

    def files(self, revision: str) -> dict[str, RemoteFile]:
        """All files of a revision by path."""
        from huggingface_hub.hf_api import RepoFile

        entries = self.ask(
            "listing the files",
            lambda: list(self.api.list_repo_tree(self.id, repo_type=self.kind, revision=revision, recursive=True)),
        )
        return {
            entry.path: RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def read(self, path: str, revision: str) -> bytes:
        """The content of a small file, through the client's cache."""
        local = self.ask(
            f"downloading {path}",
            lambda: self.api.hf_hub_download(self.id, path, repo_type=self.kind, revision=revision),
        )
        return Path(local).read_bytes()

    def download_release(self, revision: str, config_names: Sequence[str] = CONFIG_NAMES) -> Path:
        """Download a release: its manifest, excluded images and the data of some configurations.

        Returns:
            A folder in the client's cache.
        """
        from huggingface_hub import snapshot_download

        def download(name: str) -> Path:
            return Path(
                self.ask(
                    f"downloading the release at {revision}",
                    lambda: snapshot_download(
                        self.id, repo_type=self.kind, revision=name, allow_patterns=release_patterns(config_names)
                    ),
                )
            )

        commit = self.ask(
            f"looking up the revision {revision}",
            lambda: self.api.repo_info(self.id, repo_type=self.kind, revision=revision, timeout=self.retry.timeout).sha,
        )
        # By name, so that the cache knows the revision offline; a failed request silently gives an older commit.
        folder = download(revision)
        return folder if folder.name == commit else download(str(commit))

    def create_branch(self, branch: str, commit: str) -> None:
        """Create a branch at a commit."""
        self.ask(
            f"creating the branch {branch}",
            lambda: self.api.create_branch(self.id, branch=branch, revision=commit, repo_type=self.kind),
            done=lambda: True if branch in self.refs().branches else None,
        )

    def create_tag(self, tag: str, commit: str, message: str) -> None:
        """Create a tag on a commit. An existing tag is never moved.

        Raises:
            HubError: The tag exists on another commit.
        """

        def done() -> bool | None:
            found = self.refs().tags.get(tag)
            if found not in (None, commit):
                raise HubError(f"tag {tag} of {self.id} already exists on another commit, and tags are never moved")
            return True if found else None

        self.ask(
            f"creating the tag {tag}",
            lambda: self.api.create_tag(
                self.id, tag=tag, revision=commit, tag_message=message, repo_type=self.kind, exist_ok=False
            ),
            done=done,
        )
