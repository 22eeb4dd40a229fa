"""A dataset repository on the Hub, read and written with retries.

The client library retries some requests but not others: it raises when a commit, a tag or the first request of a
download meets a 503, a 429 or a dropped connection. Here every request is retried after a delay, or after the server's
`Retry-After`. A request may have succeeded although its response was lost, so before a request that changes something
is repeated, the repository is checked.

The client library handles tokens (`HF_TOKEN` or the stored login); this module never holds one.
"""

import email.utils
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hf_relabel.errors import HubError
from hf_relabel.release.layout import EXCLUDED, MANIFEST
from hf_relabel.schema import CONFIG_NAMES

T = TypeVar("T")

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""


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
    """One dataset repository.

    Args:
        repo_id: `user/name`.
        retry: How failed requests are repeated.

    Raises:
        HubError: The name is not valid.
        HubUnreachable: `HF_HUB_OFFLINE` is set.
    """

    def __init__(self, repo_id: str, retry: RetryPolicy | None = None):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars, validate_repo_id
        from huggingface_hub.utils import logging as hub_logging

        if repo_id.count("/") != 1:
            raise HubError(f"{repo_id!r}: must be user/name")
        try:
            validate_repo_id(repo_id)
        except ValueError as error:
            raise HubError(f"{repo_id!r}: not a valid repository name ({_one_line(error)})") from error
        if constants.HF_HUB_OFFLINE:
            raise HubUnreachable("HF_HUB_OFFLINE is set, but this command needs the Hub; unset it")
        # Its warnings quote upload URLs, which are secret; our messages contain the same information without them.
        hub_logging.set_verbosity_error()
        disable_progress_bars()
        self.id = repo_id
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
            except _request_errors() as raised:
                error = _transport_error_of(raised)
                if error is None and isinstance(raised.__cause__, OSError):
                    raise self._local(doing, raised.__cause__) from raised
                if error is None:
                    raise
                if done is not None and (result := done()) is not None:
                    return result
                if not _is_transient(error) or attempt == self.retry.attempts - 1:
                    raise self._explained(doing, error) from error
                seconds = self.retry.delay(attempt, _retry_after(error))
                print(f"{doing}: {_reason(error)}; retrying in {seconds:.0f} s", file=sys.stderr, flush=True)
                time.sleep(seconds)
            except OSError as error:
                raise self._local(doing, error) from error
        raise AssertionError("the last attempt returns or raises")

    def _local(self, doing: str, error: OSError) -> HubError:
        """The error for a local failure, such as a full disk or a missing file."""
        return HubError(f"{doing} ({self.id}): {error.strerror or error}; fix this and run the command again")

    def _explained(self, doing: str, error: BaseException) -> HubError:
        status, reason = _status(error), _reason(error)
        advice = {
            400: "",
            401: "; set HF_TOKEN to a token of this repository's owner or run `hf auth login`",
            403: "; use a token with write access to it",
            404: "; check the name, and if it is private, that the token has access",
            412: "; someone else has committed in the meantime: check their commit, then run the same command again",
        }.get(status or 0, "; run the same command again later, it resumes where it stopped")
        kind = HubUnreachable if status is None else HubError
        return kind(f"{doing} ({self.id}): {reason}{advice}")

    def user(self) -> dict[str, Any] | None:
        """The Hub's record of the token's owner; None without a token."""
        from huggingface_hub import get_token

        if get_token() is None:
            return None
        return self.ask("checking the token", self.api.whoami)

    def is_private(self) -> bool | None:
        """Whether the repository is private; None if it does not exist or the token has no access."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def request() -> bool | None:
            try:
                info = self.api.repo_info(self.id, repo_type="dataset", timeout=self.retry.timeout)
                return bool(info.private)
            except RepositoryNotFoundError:
                return None

        return self.ask("looking for the repository", request)

    def create(self, private: bool) -> None:
        """Create the repository."""
        self.ask(
            "creating the repository",
            lambda: self.api.create_repo(self.id, repo_type="dataset", private=private),
            done=lambda: True if self.is_private() is not None else None,
        )

    def refs(self) -> Refs:
        """Branches, tags and open pull requests."""
        found = self.ask(
            "listing branches and tags",
            lambda: self.api.list_repo_refs(self.id, repo_type="dataset", include_pull_requests=True),
        )
        return Refs(
            branches={ref.name: ref.target_commit for ref in found.branches},
            tags={ref.name: ref.target_commit for ref in found.tags},
            pulls={ref.ref: ref.target_commit for ref in found.pull_requests or []},
        )

    def files(self, revision: str) -> dict[str, RemoteFile]:
        """All files of a revision by path."""
        from huggingface_hub import RepoFile

        entries = self.ask(
            "listing the files",
            lambda: list(self.api.list_repo_tree(self.id, repo_type="dataset", revision=revision, recursive=True)),
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
            lambda: self.api.hf_hub_download(self.id, path, repo_type="dataset", revision=revision),
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
                        self.id, repo_type="dataset", revision=name, allow_patterns=release_patterns(config_names)
                    ),
                )
            )

        commit = self.ask(
            f"looking up the revision {revision}",
            lambda: self.api.repo_info(self.id, repo_type="dataset", revision=revision, timeout=self.retry.timeout).sha,
        )
        # By name, so that the cache knows the revision offline; a failed request silently gives an older commit.
        folder = download(revision)
        return folder if folder.name == commit else download(str(commit))

    def create_branch(self, branch: str, commit: str) -> None:
        """Create a branch at a commit."""
        self.ask(
            f"creating the branch {branch}",
            lambda: self.api.create_branch(self.id, branch=branch, revision=commit, repo_type="dataset"),
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
                self.id, tag=tag, revision=commit, tag_message=message, repo_type="dataset", exist_ok=False
            ),
            done=done,
        )


def _request_errors() -> tuple[type[BaseException], ...]:
    return (*_transport_errors(), RuntimeError)


def _transport_errors() -> tuple[type[BaseException], ...]:
    """The exceptions the client raises when the Hub refuses a request or cannot be reached.

    The client's own error derives from that of its HTTP library (requests or httpx), whose base class is the last
    class before the built-in ones.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    library_base = [cls for cls in HfHubHTTPError.__mro__ if cls.__module__ != "builtins"][-1]
    return (HfHubHTTPError, library_base, LocalEntryNotFoundError, ConnectionError, TimeoutError)


def _transport_error_of(error: BaseException) -> BaseException | None:
    """The transport error itself, or the one that the client wrapped in another error."""
    for candidate in (error.__cause__, error):
        if isinstance(candidate, _transport_errors()):
            return candidate
    return None


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _is_transient(error: BaseException) -> bool:
    status = _status(error)
    return status is None or status in TRANSIENT


def _retry_after(error: BaseException) -> float | None:
    """Delay in seconds that the server asks for (RFC 9110, section 10.2.3: a number of seconds, or a date)."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time()) if date.tzinfo else None


def _reason(error: BaseException) -> str:
    status = _status(error)
    message = getattr(error, "server_message", None)
    if status is None:
        return f"the Hub cannot be reached ({type(error).__name__})"
    return f"the Hub answered {status}" + (f" ({_one_line(message)})" if message else "")


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:300]
