"""A version of more files than a commit takes: readers of main see all of it or nothing, whatever interrupts."""

from collections import Counter

import pytest
from hub_server import Fault
from releases import make_release

from hf_relabel.hub.publish_parts import MAX_CHANGES

IMAGES = 105


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A release of more than 100 files."""
    release = make_release(tmp_path_factory.mktemp("large") / "release", "1.0.0", images=IMAGES, rows_per_file=1)
    assert len(release.files) > 100
    return release


def asked_for(release, repo_id):
    return ["publish", release.folder, repo_id, "--version", release.version, "--license", "mit"]


def assert_published(hub, repo_id, release):
    """Main has changed once, to the whole release, and the tag is there; no part was larger than it may be."""
    repo = hub.repo(repo_id)
    stored = repo.files("main")
    assert repo.tags[f"v{release.version}"] == repo.branches["main"]
    assert {path for path in stored if path.startswith("data/")} == {
        file.path for file in release.files if file.config_name
    }
    assert all(stored[file.path].sha256 == file.sha256 for file in release.files)
    on_main, commit = [], repo.branches["main"]
    while commit:
        on_main.append(commit)
        commit = repo.commits[commit]["parent"]
    for oid, commit in repo.commits.items():
        if oid in on_main or commit["parent"] is None:
            continue
        before, after = repo.commits[commit["parent"]]["files"], commit["files"]
        changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        assert 0 < len(changed) <= MAX_CHANGES
    return len(on_main)


def sent(hub):
    """How often each content was sent."""
    return Counter(path.rsplit("/", 1)[1] for route, _, path in hub.requests if route == "lfs_put")


@pytest.mark.slow
def test_two_versions(hub, hf_relabel, repo_id, large, tmp_path):
    assert "one merge" in hf_relabel(*asked_for(large, repo_id), "--dry-run").ok()
    hf_relabel(*asked_for(large, repo_id)).ok()
    assert assert_published(hub, repo_id, large) == 2
    assert max(sent(hub).values()) == 1
    second = make_release(tmp_path / "second", "1.1.0", images=IMAGES - 5, rows_per_file=1, threshold=0.9)
    hf_relabel(*asked_for(second, repo_id)).ok()
    assert assert_published(hub, repo_id, second) == 3, "files of the earlier version are gone in the same step"
    assert hf_relabel(*asked_for(second, repo_id)).status == 0
    assert hub.count("merge") == 2


@pytest.mark.parametrize(
    ("route", "skip"),
    [
        pytest.param("discuss", 0, marks=pytest.mark.slow),
        ("lfs_put", 70),
        pytest.param("commit", 0, marks=pytest.mark.slow),
        ("commit", 2),
        pytest.param("status", 0, marks=pytest.mark.slow),
        ("merge", 0),
        pytest.param("tag", 0, marks=pytest.mark.slow),
    ],
)
def test_interrupted_anywhere(hub, hf_relabel, repo_id, large, route, skip):
    repo = hub.store.create(repo_id)
    first = repo.branches["main"]
    hub.faults.append(Fault(route, status=403, skip=skip, times=1000))
    assert "403" in hf_relabel(*asked_for(large, repo_id)).error()
    if route != "tag":
        assert repo.branches["main"] == first, "readers see nothing of it"
    assert not repo.tags
    hub.faults.clear()
    hf_relabel(*asked_for(large, repo_id)).ok()
    assert assert_published(hub, repo_id, large) == 2
    assert len(repo.pulls) == 1
    assert {count for oid, count in sent(hub).items()} <= ({1, 2} if route == "lfs_put" else {1})


@pytest.mark.parametrize("route", ["discuss", "commit", "merge"])
def test_an_answer_that_is_lost(hub, hf_relabel, repo_id, large, route):
    hub.faults.append(Fault(route, action="lose"))
    hf_relabel(*asked_for(large, repo_id)).ok()
    assert assert_published(hub, repo_id, large) == 2
    assert len(hub.repo(repo_id).pulls) == 1
    assert hub.count("merge") == 1


def test_someone_else_commits_in_the_meantime(hub, hf_relabel, repo_id, large):
    repo = hub.store.create(repo_id)
    note = {"key": "file", "value": {"path": "NOTE.md", "content": "aGVsbG8="}}
    hub.before["status"] = lambda: repo.commit("main", [{"key": "header", "value": {"summary": "a note"}}, note], False)
    assert "someone else has committed" in hf_relabel(*asked_for(large, repo_id)).error()
    assert sorted(repo.files("main")) == [".gitattributes", "NOTE.md"]
    hf_relabel(*asked_for(large, repo_id)).ok()
    assert assert_published(hub, repo_id, large) == 3
    assert repo.read("main", "NOTE.md") == b"hello"


@pytest.mark.slow
def test_anybodys_pull_request_and_its_merge_by_the_owner(hub, hf_relabel, command, repo_id, large):
    repo = hub.store.create(repo_id)
    first = repo.branches["main"]
    out = command(*asked_for(large, repo_id), "--create-pr", token="hf_stranger_secret").ok()
    assert "/discussions/1" in out
    assert repo.branches["main"] == first
    repo.merge("1")
    hf_relabel(*asked_for(large, repo_id)).ok()
    assert assert_published(hub, repo_id, large) == 2
    assert len(repo.pulls) == 1
