from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from hf_relabel.errors import HubError, ReleaseError
from hf_relabel.hub.client import HubRepo, HubUnreachable, RemoteFile, RetryPolicy, git_blob_id
from hf_relabel.hub.releases import open_release, split_revision


def failure(status: int, retry_after: str | None = None) -> Exception:
    """An error as the client raises it, with the answer's status and header."""
    error = ConnectionError()
    error.response = SimpleNamespace(status_code=status, headers={"Retry-After": retry_after} if retry_after else {})
    return error


def test_delays_double_up_to_a_maximum():
    retry = RetryPolicy(first_delay=1, max_delay=10)
    assert [retry.delay(attempt, None) for attempt in range(6)] == [1, 2, 4, 8, 10, 10]


def test_delays_follow_the_server_up_to_a_maximum():
    retry = RetryPolicy(max_delay=10, max_retry_after=900)
    assert retry.delay(0, 300.0) == 300
    assert retry.delay(5, 0.0) == 0
    assert retry.delay(0, 86400.0) == 900


@pytest.fixture
def repo(monkeypatch) -> HubRepo:
    """A repository that sends failing requests three times, without delays."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return HubRepo("user/name", RetryPolicy(attempts=3, first_delay=0))


class Flaky:
    """A request that fails with each of the errors in turn and then answers 7."""

    def __init__(self, *errors: BaseException):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


def test_a_request_is_repeated_until_it_is_answered(repo, capsys):
    request = Flaky(failure(503), TimeoutError())
    assert repo.ask("asking", request) == 7
    assert request.calls == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "asking: the Hub answered 503; retrying in 0 s"
    assert "cannot be reached (TimeoutError)" in lines[1]


def test_the_number_of_attempts_is_limited(repo):
    request = Flaky(*[failure(503)] * 5)
    with pytest.raises(HubError, match=r"asking \(user/name\): the Hub answered 503; run the same command again later"):
        repo.ask("asking", request)
    assert request.calls == 3


@pytest.mark.parametrize(("status", "advice"), [(401, "HF_TOKEN"), (403, "write access"), (404, "check the name")])
def test_a_refusal_is_not_repeated(repo, status, advice):
    request = Flaky(failure(status))
    with pytest.raises(HubError, match=advice):
        repo.ask("asking", request)
    assert request.calls == 1


def test_what_was_done_in_spite_of_an_error_is_not_done_again(repo):
    request = Flaky(TimeoutError())
    assert repo.ask("asking", request, done=lambda: 42) == 42
    assert request.calls == 1


def test_local_failures_are_reported_as_such(repo):
    full = OSError(28, "No space left on device")
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = full
    for error in (full, wrapped):
        with pytest.raises(HubError, match=r"asking \(user/name\): No space left on device; fix this"):
            repo.ask("asking", Flaky(error))
    with pytest.raises(RuntimeError, match="a bug"):
        repo.ask("asking", Flaky(RuntimeError("a bug")))


def test_invalid_names_and_offline_mode(repo, monkeypatch):
    for name in ("name", "a/b/c", "owner/na me"):
        with pytest.raises(HubError, match=name):
            HubRepo(name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"):
        HubRepo("user/name")


def test_repository_and_revision():
    assert split_revision("user/name") == ("user/name", None)
    assert split_revision("user/name@v1.0.0") == ("user/name", "v1.0.0")
    assert split_revision("user/name@refs/pr/1") == ("user/name", "refs/pr/1")
    assert split_revision("user/name@") == ("user/name", None)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c"])
def test_neither_a_folder_nor_a_repository(name):
    with pytest.raises(ReleaseError, match=r"nowhere|neither an existing folder"):
        open_release(name)


def test_files_are_compared_by_the_hash_from_the_hub(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    oid = "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert git_blob_id(b"hello\n") == git_blob_id(path) == oid
    assert RemoteFile(6, oid, None).holds(path, "sha")
    assert not RemoteFile(6, "0" * 40, None).holds(path, "sha")
    assert RemoteFile(6, "0" * 40, "sha").holds(path, "sha")
    assert not RemoteFile(6, oid, "other").holds(path, "sha")
