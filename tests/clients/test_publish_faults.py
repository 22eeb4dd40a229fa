"""Publishing to a faulty Hub: nothing is lost, nothing is done twice."""

import shutil
import subprocess
import sys
from collections import Counter

import huggingface_hub
import pytest
from hub_environment import TIMEOUT, environment
from hub_server import Fault
from releases import make_release

ROUTES_OF_PUBLISH = [
    "whoami",
    "create",
    "validate",
    "preupload",
    "commit",
    "tag",
    "branch",
    "refs",
    "tree",
    "info",
    "lfs_batch",
    "lfs_put",
    "resolve",
]

pytestmark = pytest.mark.slow


def assert_published(hub, repo_id, release, commits=1):
    """The branch and the tag hold the release, from the given number of commits after the first, without a token."""
    repo = hub.repo(repo_id)
    assert len(repo.commits) == 1 + commits
    assert repo.tags[f"v{release.version}"] == repo.branches["main"]
    stored = repo.files("main")
    for file in release.files:
        assert stored[file.path].sha256 == file.sha256
    shards = {path for path in stored if path.startswith("data/")}
    assert shards == {file.path for file in release.files if file.config_name}
    for path in ("README.md", "CHANGELOG.md", "scripts/load_relabel.py", "provenance.json", "manifest.json"):
        assert path in stored
    for path in stored:
        assert b"_secret" not in repo.read("main", path)


def puts(hub):
    """How often each content was sent."""
    return Counter(path.rsplit("/", 1)[1] for route, _, path in hub.requests if route == "lfs_put")


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, pytest.param(429, marks=pytest.mark.slow)])
@pytest.mark.parametrize("route", ROUTES_OF_PUBLISH)
def test_waits_out_a_busy_endpoint(hub, hf_relabel, repo_id, v1, v2, route, status):
    release, before = (v2, 1) if route == "resolve" else (v1, 0)
    if before:  # only a version with a predecessor reads something
        hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    hub.faults.append(Fault(route, status=status, headers={"Retry-After": "0"}))
    branch = ["--branch", "next"] if route == "branch" else []
    hf_relabel("publish", release.folder, repo_id, "--version", release.version, *branch).ok()
    assert all(fault.times == 0 for fault in hub.faults)
    if branch:
        hub.repo(repo_id).branches["main"] = hub.repo(repo_id).branches["next"]
    assert_published(hub, repo_id, release, commits=before + 1)


def test_waits_as_long_as_it_is_asked_to(hub, hf_relabel, repo_id, v1):
    hub.faults.append(Fault("tag", status=429, headers={"Retry-After": "2"}))
    done = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0")
    assert "retrying in 2 s" in done.err
    assert_published(hub, repo_id, v1)


@pytest.mark.parametrize("route", ["create", "commit", "tag", "lfs_put"])
def test_an_answer_that_is_lost(hub, hf_relabel, repo_id, v1, route):
    hub.faults.append(Fault(route, action="lose"))
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert hub.faults[0].times == 0
    assert_published(hub, repo_id, v1)


def test_a_lost_answer_to_a_pull_request_opens_no_second_one(hub, hf_relabel, repo_id, v1):
    hub.store.create(repo_id)
    hub.faults.append(Fault("commit", action="lose"))
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0", "--create-pr").ok()
    assert list(hub.repo(repo_id).pulls) == ["refs/pr/1"]


def test_a_connection_cut_in_the_middle_of_an_upload(hub, hf_relabel, repo_id, v1):
    hub.faults.append(Fault("lfs_put", action="cut", skip=1))
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert hub.faults[0].times == 0
    assert_published(hub, repo_id, v1)


def test_resumes_after_a_permanent_failure(hub, hf_relabel, repo_id, v1):
    hub.faults.append(Fault("lfs_put", status=403, skip=2, times=100))
    error = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").error()
    assert f"uploading {v1.files_of('regions')[1].path}" in error
    assert "403" in error
    assert len(hub.repo(repo_id).commits) == 1
    hub.faults.clear()
    sent = {oid for oid, _ in puts(hub).most_common()}
    hub.requests.clear()
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert_published(hub, repo_id, v1)
    arrived = {file.sha256 for file in v1.files_of("labels") + v1.files_of("regions")[:1]}
    assert arrived < sent
    assert not arrived & puts(hub).keys(), "what had arrived is not sent again"


def kill_when_it_hangs(hub, *arguments, home):
    """Run a command in a process of its own until the fault `hang` has begun, and SIGKILL it."""
    command = [sys.executable, "-m", "hf_relabel", *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(hub, home), stderr=subprocess.DEVNULL)
    try:
        assert hub.reached.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait(timeout=TIMEOUT)


def test_killed_during_the_upload_and_run_again(hub, hf_relabel, repo_id, v1, tmp_path):
    hub.faults.append(Fault("lfs_put", action="hang", skip=2))
    kill_when_it_hangs(hub, "publish", v1.folder, repo_id, "--version", "1.0.0", home=tmp_path)
    assert len(hub.repo(repo_id).commits) == 1
    assert not hub.repo(repo_id).tags
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert_published(hub, repo_id, v1)
    twice = [oid for oid, count in puts(hub).items() if count > 1]
    assert twice == [v1.files_of("regions")[1].sha256], "only the file on its way is sent again"


def test_killed_between_commit_and_tag(hub, hf_relabel, repo_id, v1, tmp_path):
    hub.faults.append(Fault("tag", action="hang"))
    kill_when_it_hangs(hub, "publish", v1.folder, repo_id, "--version", "1.0.0", home=tmp_path)
    assert len(hub.repo(repo_id).commits) == 2
    assert not hub.repo(repo_id).tags
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert_published(hub, repo_id, v1)


@pytest.mark.skipif(huggingface_hub.__version__ < "1", reason="older clients wait for a response forever")
@pytest.mark.parametrize(
    "route", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("info", "refs", "lfs_put", "tag")), "commit"]
)
def test_a_server_that_falls_silent(hub, repo_id, v1, tmp_path, route):
    hub.faults.append(Fault(route, action="hang"))
    code = (
        "import sys; from hf_relabel.hub.client import RetryPolicy; from hf_relabel.hub.files import PublishOptions;"
        "from hf_relabel.hub.publish import publish;"
        "from hf_relabel.release.reader import Release;"
        "retry = RetryPolicy(first_delay=0, timeout=1);"
        "publish(Release.open(sys.argv[1]), sys.argv[2], PublishOptions('1.0.0'), retry)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(v1.folder), repo_id],
        env=environment(hub, tmp_path),
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=True,
    )
    assert hub.faults[0].times == 0
    assert_published(hub, repo_id, v1)


def test_someone_else_commits_in_the_meantime(hub, hf_relabel, repo_id, v1):
    repo = hub.store.create(repo_id)
    note = {"key": "file", "value": {"path": "NOTE.md", "content": "aGVsbG8="}}

    def commit():
        repo.commit("main", [{"key": "header", "value": {"summary": "a note"}}, note], False)

    hub.before["commit"] = commit
    error = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").error()
    assert "someone else has committed in the meantime" in error
    assert sorted(repo.files("main")) == [".gitattributes", "NOTE.md"]
    assert not repo.tags
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert repo.read("main", "NOTE.md") == b"hello"
    assert_published(hub, repo_id, v1, commits=2)


def test_the_tag_is_there_on_other_data(hub, hf_relabel, repo_id, v1, tmp_path):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    before = dict(hub.repo(repo_id).tags)
    other = make_release(tmp_path / "other", "1.0.0", threshold=0.9)
    hub.requests.clear()
    error = hf_relabel("publish", other.folder, repo_id, "--version", "1.0.0").error()
    assert "tag v1.0.0 already exists" in error
    assert "never moved" in error
    assert hub.repo(repo_id).tags == before
    assert not any(hub.count(route) for route in ("preupload", "lfs_batch", "lfs_put", "commit", "tag"))


def test_somebody_sets_the_tag_meanwhile(hub, hf_relabel, repo_id, v1):
    repo = hub.store.create(repo_id)
    first = repo.branches["main"]
    hub.before["tag"] = lambda: repo.tags.update({"v1.0.0": first})
    error = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").error()
    assert "tags are never moved" in error
    assert repo.tags == {"v1.0.0": first}


def test_a_token_that_may_only_read(hub, command, repo_id, v1):
    error = command("publish", v1.folder, repo_id, "--version", "1.0.0", token="hf_reader_secret").error()
    assert "is read-only" in error
    assert repo_id not in hub.store.repos


def test_no_token(hub, command, repo_id, v1):
    assert "HF_TOKEN" in command("publish", v1.folder, repo_id, "--version", "1.0.0", token=None).error()


def test_a_token_that_the_hub_does_not_know(hub, command, repo_id, v1):
    error = command("publish", v1.folder, repo_id, "--version", "1.0.0", token="hf_wrong_secret").error()
    assert "401" in error


def test_another_users_repository(hub, command, repo_id, v1):
    hub.store.create(repo_id)
    error = command("publish", v1.folder, repo_id, "--version", "1.0.0", token="hf_stranger_secret").error()
    assert "has no write access to owner" in error
    assert len(hub.repo(repo_id).commits) == 1


@pytest.mark.slow
def test_a_private_repository_of_another_user(hub, command, repo_id, v1):
    hub.store.create(repo_id, private=True)
    for arguments in (["versions", repo_id], ["diff", f"{repo_id}@main", str(v1.folder)]):
        assert "404" in command(*arguments, token="hf_stranger_secret").error()
    create = command("publish", v1.folder, repo_id, "--version", "1.0.0", "--create-pr", token="hf_stranger_secret")
    assert "403" in create.error()
    assert len(hub.repo(repo_id).commits) == 1


def test_a_missing_repository(hub, hf_relabel, repo_id, v1):
    assert "404" in hf_relabel("versions", repo_id).error()
    assert "404" in hf_relabel("diff", f"{repo_id}@v1.0.0", v1.folder).error()


def test_offline_is_refused_at_once(hub, command, repo_id):
    assert "HF_HUB_OFFLINE" in command("versions", repo_id, env={"HF_HUB_OFFLINE": "1"}).error()


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_shard_damaged_after_the_build(hub, hf_relabel, repo_id, v1, tmp_path, damage):
    folder = tmp_path / "release"
    shutil.copytree(v1.folder, folder)
    shard = folder / v1.files_of("regions")[1].path
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content if damage == "changed" else content[:-10])
    for extra in ([], ["--dry-run"]):
        error = hf_relabel("publish", folder, repo_id, "--version", "1.0.0", *extra).error()
        assert shard.name in error
        assert "build the release again" in error
    assert not hub.requests, "nothing was asked of the Hub"


@pytest.mark.slow
def test_the_disk_is_full_while_the_version_before_is_fetched(hub, hf_relabel, command, repo_id, v1, v2):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000));"
        "from hf_relabel.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "publish", str(v2.folder), repo_id, "--version", "1.1.0"],
        env=environment(hub, v2.folder.parent / "full-home"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert_published(hub, repo_id, v1)
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    assert_published(hub, repo_id, v2, commits=2)
