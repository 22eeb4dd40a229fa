"""A dataset repository on the Hub, read and written with patience.

The client library retries some requests and not others: a commit, a tag or a download's first request that meets a
503, a 429 or a cut connection is raised. Here every request is tried again after a wait, the server's `Retry-After`
where it names one. A request whose answer was lost may have been carried out, so those that change something come
with a look at the repository, and are only repeated where nothing happened.

Tokens are the client's affair (`HF_TOKEN` or the stored login); this module never holds one.
"""

import email.utils
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hf_relabel.errors import HubError, ReleaseError

T = TypeVar("T")

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""


@dataclass(frozen=True)
class Patience:
    """How long a failing request is tried again.

    Args:
        attempts: Requests in all.
        first_wait: Seconds before the second one; doubled each time.
        longest_wait: Most seconds of a wait that the server did not ask for.
        longest_asked: Most seconds of a wait that the server asked for.
        silence: Seconds without a byte from the server after which a request has failed; huggingface_hub before 1.0
            waits for ever.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_asked: float = 900.0
    silence: float = 300.0

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait after the failure of an attempt, counted from 0."""
        if asked is not None:
            return min(asked, self.longest_asked)
        return min(self.first_wait * 2**attempt, self.longest_wait)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a revision: its size, and the hash the Hub tells; `sha256` for LFS files, `blob_id` for others."""

    size: int
    blob_id: str
    sha256: str | None

    def holds(self, content: "bytes | Path", sha256: str) -> bool:
        """Whether it has this content."""
        return sha256 == self.sha256 if self.sha256 else git_blob_id(content) == self.blob_id


def git_blob_id(content: bytes | Path) -> str:
    """The id git gives a file's content."""
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
    """Commit of every branch, tag and open pull request, by name."""

    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)


class HubRepo:
    """One dataset repository.

    Args:
        repo_id: `user/name`.
        patience: How long a failing request is tried again.
    """

    def __init__(self, repo_id: str, patience: Patience | None = None):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars, validate_repo_id
        from huggingface_hub.utils import logging as hub_logging

        if repo_id.count("/") != 1:
            raise HubError(f"{repo_id!r}: must be user/name")
        try:
            validate_repo_id(repo_id)
        except ValueError as error:
            raise HubError(f"{repo_id!r}: is no name of a repository ({_one_line(error)})") from error
        if constants.HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set, but this needs the Hub; unset it")
        # Its warnings quote addresses for uploading, which are secrets of a kind; ours tell the same.
        hub_logging.set_verbosity_error()
        disable_progress_bars()
        self.id = repo_id
        self.api = HfApi(library_name="hf_relabel")
        self.patience = patience or Patience()

    def ask(self, doing: str, request: Callable[[], T], done: Callable[[], T | None] | None = None) -> T:
        """Make a request until it is answered.

        Args:
            doing: What it is, for messages.
            request: Makes it, raising the client's exceptions.
            done: Looks whether a request that seemed to fail was carried out, and returns what it would have; needed
                where repeating it would do the same thing twice.

        Raises:
            HubError: The Hub refused, or did not answer in all attempts.
        """
        from huggingface_hub.utils import get_session

        for attempt in range(self.patience.attempts):
            # By itself the client waits for an answer for ever, and it makes new sessions, so this is said each time.
            get_session().timeout = self.patience.silence
            try:
                return request()
            except (*_transport_errors(), RuntimeError) as raised:
                error = _transport_error_of(raised)
                if error is None and isinstance(raised.__cause__, OSError):
                    raise self._local(doing, raised.__cause__) from raised
                if error is None:
                    raise
                if done is not None and (result := done()) is not None:
                    return result
                if not _is_transient(error) or attempt == self.patience.attempts - 1:
                    raise self._explained(doing, error) from error
                seconds = self.patience.wait(attempt, _asked_wait(error))
                print(f"{doing}: {_reason(error)}; trying again in {seconds:.0f} s", file=sys.stderr, flush=True)
                time.sleep(seconds)
            except OSError as error:
                raise self._local(doing, error) from error
        raise AssertionError("the last attempt returns or raises")

    def _local(self, doing: str, error: OSError) -> HubError:
        """A failure of this machine: a full disk, a file that is gone."""
        return HubError(f"{doing} ({self.id}): {error.strerror or error}; mend it and run again")

    def _explained(self, doing: str, error: BaseException) -> HubError:
        status, reason = _status(error), _reason(error)
        mend = {
            400: "",
            401: "; set HF_TOKEN to a token of this repository's owner or run `hf auth login`",
            403: "; use a token that may write to it",
            404: "; check the name, and that the token may see it if it is private",
            412: "; somebody else has committed meanwhile: look at their commit, then run the same command again",
        }.get(status, "; run the same command again later, it goes on where it stopped")
        return HubError(f"{doing} ({self.id}): {reason}{mend}")

    def user(self) -> dict[str, Any] | None:
        """Who the token belongs to, as the Hub tells it; None where there is no token."""
        from huggingface_hub import get_token

        if get_token() is None:
            return None
        return self.ask("asking whose token this is", self.api.whoami)

    def is_private(self) -> bool | None:
        """Whether the repository is private; None where there is none that this token can see."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def request() -> bool | None:
            try:
                info = self.api.repo_info(self.id, repo_type="dataset", timeout=self.patience.silence)
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
        """Branches, tags and pull requests."""
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
        """Every file of a revision by its path."""
        entries = self.ask(
            "listing the files",
            lambda: list(self.api.list_repo_tree(self.id, repo_type="dataset", revision=revision, recursive=True)),
        )
        return {
            entry.path: RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            for entry in entries
            if hasattr(entry, "blob_id")  # folders have none
        }

    def read(self, path: str, revision: str) -> bytes:
        """The content of a small file, by way of the client's cache."""
        local = self.ask(
            f"downloading {path}",
            lambda: self.api.hf_hub_download(self.id, path, repo_type="dataset", revision=revision),
        )
        return Path(local).read_bytes()

    def download_release(self, revision: str) -> Path:
        """A folder with the release of a revision: manifest, data, images left out; kept in the client's cache.

        The revision is made a commit first: under the name of a branch the cache may hold an older one.
        """
        from huggingface_hub import snapshot_download

        commit = self.ask(
            f"looking for the revision {revision}",
            lambda: (
                self.api.repo_info(self.id, repo_type="dataset", revision=revision, timeout=self.patience.silence).sha
            ),
        )
        folder = self.ask(
            f"downloading the release at {revision}",
            lambda: snapshot_download(
                self.id,
                repo_type="dataset",
                revision=commit,
                allow_patterns=["manifest.json", "excluded.jsonl", "data/**"],
            ),
        )
        return Path(folder)

    def create_branch(self, branch: str, commit: str) -> None:
        """Start a branch at a commit."""
        self.ask(
            f"creating the branch {branch}",
            lambda: self.api.create_branch(self.id, branch=branch, revision=commit, repo_type="dataset"),
            done=lambda: True if branch in self.refs().branches else None,
        )

    def create_tag(self, tag: str, commit: str, message: str) -> None:
        """Put a tag on a commit. A tag that is there is never moved.

        Raises:
            HubError: The tag is on another commit.
        """

        def done() -> bool | None:
            found = self.refs().tags.get(tag)
            if found not in (None, commit):
                raise HubError(f"tag {tag} of {self.id} is on another commit already, and tags are never moved")
            return True if found else None

        self.ask(
            f"creating the tag {tag}",
            lambda: self.api.create_tag(
                self.id, tag=tag, revision=commit, tag_message=message, repo_type="dataset", exist_ok=False
            ),
            done=done,
        )


def split_revision(name: str) -> tuple[str, str | None]:
    """`user/name@revision` as repository and revision; the revision is None where none is given."""
    repo_id, _, revision = name.partition("@")
    return repo_id, revision or None


def open_release(name: str) -> Any:
    """A release from a folder, or from the Hub as `user/name` or `user/name@revision`.

    Raises:
        ReleaseError: The folder, or what the repository holds, is no release.
        HubError: The repository or revision cannot be had.
    """
    from hf_relabel.release.layout import MANIFEST
    from hf_relabel.release.reader import Release

    if Path(name).exists() or "/" not in name or name.startswith((".", "/", "~")):
        return Release.open(Path(name).expanduser())
    repo_id, revision = split_revision(name)
    if repo_id.count("/") != 1:
        raise ReleaseError(f"{name}: neither a folder that exists nor user/name[@revision]")
    folder = HubRepo(repo_id).download_release(revision or "main")
    if not (folder / MANIFEST).exists():
        raise ReleaseError(f"{name}: holds no {MANIFEST}, so it is no release of hf_relabel")
    return Release.open(folder)


def _transport_errors() -> tuple[type[BaseException], ...]:
    """What the client raises where the Hub refuses or cannot be reached.

    Its own error derives from that of the HTTP library it was built on (requests or an httpx), whose common base is
    the last class before the built-in ones.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    library_base = [cls for cls in HfHubHTTPError.__mro__ if cls.__module__ != "builtins"][-1]
    return (HfHubHTTPError, library_base, LocalEntryNotFoundError, ConnectionError, TimeoutError)


def _transport_error_of(error: BaseException) -> BaseException | None:
    """The error, or the one that the client wrapped: in a RuntimeError if an upload failed, in another a download."""
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


def _asked_wait(error: BaseException) -> float | None:
    """Seconds that the server asks to wait for (RFC 9110, section 10.2.3: a number of them, or a date)."""
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
    told = getattr(error, "server_message", None)
    if status is None:
        return f"the Hub cannot be reached ({type(error).__name__})"
    return f"the Hub answered {status}" + (f" ({_one_line(told)})" if told else "")


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:300]
