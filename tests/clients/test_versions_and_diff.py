"""`versions` and `diff`, of folders and of revisions on the Hub."""

import json

import pytest
from hub_server import Fault
from releases import make_release

from hf_relabel.release.diff import compare


@pytest.fixture
def published(hub, hf_relabel, v1, v2):
    """A repository with v1.0.0 and v1.1.0, made once. Not to be changed."""
    if "owner/published" not in hub.store.repos:
        for release in (v1, v2):
            hf_relabel("publish", release.folder, "owner/published", "--version", release.version).ok()
    return "owner/published"


def test_versions_are_listed_oldest_first(hub, hf_relabel, repo_id, v1, v2, tmp_path):
    releases = [v1, v2, make_release(tmp_path / "third", "1.10.0", threshold=0.6)]
    for release in releases:
        hf_relabel("publish", release.folder, repo_id, "--version", release.version).ok()
    repo = hub.repo(repo_id)
    repo.tags["not-a-version"] = repo.tags["v1.0.0"]
    lines = hf_relabel("versions", repo_id).ok().splitlines()
    assert lines[0].split() == ["version", "commit", "images", "labels", "regions", "head", "of"]
    expected = []
    for release in releases:
        counts = [str(release.statistics[key]) for key in ("images", "labels", "regions")]
        expected.append([release.version, repo.tags[f"v{release.version}"][:12], *counts])
    expected[-1].append("main")
    assert [line.split() for line in lines[2:]] == expected


def test_a_repository_without_versions(hub, hf_relabel, repo_id):
    hub.store.create(repo_id)
    assert hf_relabel("versions", repo_id).ok() == "no versions\n"
    repo = hub.repo(repo_id)
    repo.tags["v0.1.0"] = repo.branches["main"]  # someone's own tag, without a manifest
    listed = hf_relabel("versions", repo_id).ok().splitlines()[-1].split()
    assert listed == ["0.1.0", repo.branches["main"][:12], "main"]


@pytest.mark.parametrize("route", ["refs", "tree", "info"])
def test_reading_waits_out_a_busy_endpoint(hub, hf_relabel, published, route):
    hub.faults.append(Fault(route, status=503, headers={"Retry-After": "0"}))
    assert "1.1.0" in hf_relabel("versions", published).ok()
    assert "images in both" in hf_relabel("diff", f"{published}@v1.0.0", f"{published}@v1.1.0").ok()
    assert hub.faults[0].times == 0


def test_folders_and_revisions_compare_alike(hf_relabel, published, v1, v2, tmp_path):
    outputs = set()
    for old in (v1.folder, f"{published}@v1.0.0"):
        for new in (v2.folder, f"{published}@v1.1.0", published):  # the last is the branch main
            outputs.add(hf_relabel("diff", old, new).ok())
    (output,) = outputs
    result = compare(v1, v2)
    rows = {line.rsplit(None, 1)[0]: line.rsplit(None, 1)[1] for line in output.splitlines() if line[-1:].isdigit()}
    assert output.startswith("Tiny 1.0.0 -> Tiny 1.1.0\n")
    assert rows["images in both"] == "60"
    assert rows["images with other labels"] == str(result.images_relabeled)
    assert rows["labels removed"] == str(result.labels_removed.sum())
    assert rows["regions before"] == rows["regions now"] == str(v1.statistics["regions"])
    for label, name in enumerate(v1.class_names):
        assert f"{name} 0 {result.labels_removed[label]} 0" in [" ".join(line.split()) for line in output.splitlines()]
    assert "setting build.threshold: 0.5 -> 0.7" in output


def test_json_and_changelog(hub, hf_relabel, published, v1, v2, tmp_path):
    result_json = json.loads(hf_relabel("diff", v1.folder, v2.folder, "--json", "-").ok())
    hf_relabel("diff", v1.folder, v2.folder, "--json", tmp_path / "diff.json").ok()
    assert json.loads((tmp_path / "diff.json").read_text()) == result_json
    result = compare(v1, v2)
    assert result_json["labels_removed"] == result.labels_removed.sum() > 0
    assert sum(row["removed"] for row in result_json["classes"].values()) == result_json["labels_removed"]
    assert result_json["settings"] == result.settings
    text = hf_relabel("diff", v1.folder, v2.folder, "--changelog").ok()
    assert text.strip() in hub.repo(published).read("v1.1.0", "CHANGELOG.md").decode()


def test_the_number_of_listed_classes(hf_relabel, v1, v2):
    output = hf_relabel("diff", v1.folder, v2.folder, "--top", "1").ok()
    assert "and 3 more classes (--top, --json)" in output


def test_added_and_removed_images(hf_relabel, v1, tmp_path):
    fewer = make_release(tmp_path / "fewer", images=50)
    output = hf_relabel("diff", v1.folder, fewer.folder).ok()
    assert "images removed, the first: 00/img_0000050.jpg, 01/img_0000051.jpg" in output
    assert "images added, the first" not in output


def test_what_cannot_be_compared(hub, hf_relabel, published, repo_id, v1, tmp_path):
    assert "neither an existing folder" in hf_relabel("diff", v1.folder, "a/b/c").error()
    assert "not a release" in hf_relabel("diff", v1.folder, tmp_path).error()
    assert "404" in hf_relabel("diff", f"{published}@v9.0.0", v1.folder).error()
    hub.store.create(repo_id)
    assert "contains no manifest.json" in hf_relabel("diff", repo_id, v1.folder).error()
    (tmp_path / "shut").touch()
    error = hf_relabel("diff", v1.folder, v1.folder, "--json", tmp_path / "shut" / "x.json")
    assert "x.json" in error.error()
