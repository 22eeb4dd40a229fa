"""Publish with the official client, load with the official library: what users do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_environment import TIMEOUT, environment
from hub_values import metadata_errors
from releases import make_release, make_rows

from hf_relabel.hub.card_metadata import card_metadata

WRITES = ("create", "preupload", "commit", "tag", "branch", "lfs_batch", "lfs_put")


def load(hub, home: Path, repo_id: str, *revisions: str) -> list[dict]:
    """Everything `load_rows.py` loads of each revision, in a process of its own with this cache."""
    output = home / "rows.json"
    home.mkdir(exist_ok=True)
    script = Path(__file__).resolve().parents[1] / "helpers" / "load_rows.py"
    subprocess.run(
        [sys.executable, str(script), repo_id, str(output), *revisions],
        env=environment(hub, home, HF_DATASETS_DISABLE_PROGRESS_BARS="1"),
        check=True,
        timeout=TIMEOUT,
    )
    return json.loads(output.read_text())


def assert_rows(found: dict, release) -> None:
    """What was loaded are the release's rows, however it was loaded."""
    regions = [row for batch in release.batches("regions") for row in batch.to_pylist()]
    labels = [row for batch in release.batches("labels") for row in batch.to_pylist()]
    assert {row["version"] for row in labels} == {release.version}
    assert found["default"] == labels
    assert found["projected in Parquet"] == [{"scores": row["scores"]} for row in labels]
    for streaming in (False, True):
        assert found[f"labels {streaming}"] == labels
        assert found[f"regions {streaming}"] == regions
        assert found[f"labels {streaming} names"] == release.class_names
        assert found[f"labels {streaming} columns"] == [
            {"labels": row["labels"], "version": row["version"]} for row in labels
        ]
        assert found[f"regions {streaming} columns"] == [
            {"image_id": row["image_id"], "regions": row["regions"]} for row in regions
        ]


@pytest.mark.slow
def test_two_versions_in_fresh_and_warm_caches(hub, hf_relabel, repo_id, v1, v2, tmp_path):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert_rows(*load(hub, tmp_path / "kept", repo_id, "v1.0.0"), v1)
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    for home in ("kept", "fresh"):  # the first has the old version in its cache
        found = load(hub, tmp_path / home, repo_id, "v1.1.0", "v1.0.0", "main")
        for rows, release in zip(found, (v2, v1, v2), strict=True):
            assert_rows(rows, release)


def test_the_loaders_first_request_may_fail(hub, hf_relabel, repo_id, v1):
    """The client does not repeat a download's first request; `versions` and `diff` do."""
    from hub_server import Fault

    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    hub.faults.append(Fault("resolve", headers={"Retry-After": "0"}))
    assert "1.0.0" in hf_relabel("versions", repo_id).ok()
    assert hub.faults[0].times == 0


def test_what_is_in_the_repository(hub, hf_relabel, repo_id, v1, v2):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0", "--license", "cc-by-4.0", "--message", "Hi").ok()
    repo = hub.repo(repo_id)
    assert repo.commits[repo.branches["main"]]["summary"] == "Hi"
    repo.commit(
        "main",
        [
            {"key": "header", "value": {"summary": "a note"}},
            {"key": "file", "value": {"path": "docs/note.md", "content": "aGVsbG8="}},
        ],
        False,
    )
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    files = repo.files("v1.1.0")
    shards = sorted(path for path in files if path.startswith("data/regions/"))
    assert shards == [v2.files_of("regions")[0].path], "the old shards are removed"
    assert repo.read("v1.1.0", "docs/note.md") == b"hello", "what is not ours stays"
    changelog = repo.read("v1.1.0", "CHANGELOG.md").decode()
    assert changelog.index("## 1.1.0") < changelog.index("## 1.0.0")
    assert "- setting build.threshold\\: 0.5 -&gt; 0.7" in changelog
    card = repo.read("v1.1.0", "README.md").decode()
    assert "license: cc-by-4.0" in card, "the license is kept"
    assert json.loads(repo.read("v1.1.0", "provenance.json"))["config"]["build"]["threshold"] == 0.7
    assert {path for path in files if path.endswith(".py")} == {"scripts/load_relabel.py"}
    for name in re.findall(r"\((card/[^)]+)\)", card):
        assert name in files


def test_a_dry_run_sends_nothing(hub, hf_relabel, repo_id, v1, v2):
    out = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0", "--dry-run", "--private").ok()
    assert "would be created, private" in out
    assert repo_id not in hub.store.repos
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    commits = len(hub.repo(repo_id).commits)
    hub.requests.clear()
    out = hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0", "--dry-run").ok()
    assert not [route for route, _, _ in hub.requests if route in WRITES]
    assert len(hub.repo(repo_id).commits) == commits
    for text in ("files would be uploaded", "files there already", "4 files would be removed", "# Tiny", "Since 1.0.0"):
        assert text in out
    for file in v2.files:
        assert file.path in out
    assert "scripts/load_relabel.py" in out.split("there already")[1]


def test_a_dry_run_lists_exactly_what_is_then_done(hub, hf_relabel, repo_id, v1, v2):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    repo = hub.repo(repo_id)
    before = repo.files("main")
    lines = hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0", "--dry-run").ok().splitlines()
    listed_files = {}
    for line in lines[: next(place for place, line in enumerate(lines) if line.startswith("tag "))]:
        if heading := re.match(r"\d+ files (would be uploaded|there already|would be removed)", line):
            listed = listed_files.setdefault(heading[1], [])
        elif line.startswith("  "):
            listed.append(line.split()[-1])
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    after = repo.files("main")
    assert sorted(listed_files["would be uploaded"]) == sorted(
        path for path in after if after[path] != before.get(path)
    )
    assert sorted(listed_files["would be removed"]) == sorted(before.keys() - after.keys())
    unchanged = {path for path in after if after[path] == before.get(path)} - {".gitattributes"}
    assert sorted(listed_files["there already"]) == sorted(unchanged)
    shown = "\n".join(lines).split("--- README.md ---\n")[1].rstrip()
    assert shown == repo.read("main", "README.md").decode().rstrip()


def test_files_go_one_by_one_and_then_there_is_one_commit(hub, hf_relabel, repo_id, v1):
    done = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0")
    assert "uploading: 100%" in done.err
    routes = [route for route, _, _ in hub.requests if route in WRITES]
    large = len(v1.files) - 1 + 5  # the Parquet files and the card's pictures; excluded.jsonl is small
    assert routes.count("lfs_put") == routes.count("lfs_batch") == large
    together = [route for route in routes if route.startswith("lfs")]
    assert together == ["lfs_batch", "lfs_put"] * large
    assert [route for route in routes if route in ("create", "commit", "tag")] == ["create", "commit", "tag"]
    assert routes[-2:] == ["commit", "tag"]


@pytest.mark.slow
def test_a_dry_run_needs_no_token(command, repo_id, v1):
    assert (
        "files would be uploaded"
        in command("publish", v1.folder, repo_id, "--version", "1.0.0", "--dry-run", token=None).ok()
    )


@pytest.mark.slow
def test_a_dry_run_does_not_download_the_previous_rows(hub, command, repo_id, v1, v2):
    command("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    hub.requests.clear()
    out = command("publish", v2.folder, repo_id, "--version", "1.1.0", "--dry-run").ok()
    assert not [path for route, _, path in hub.requests if route == "resolve" and "/data/" in path]
    assert "Since 1.0.0 (the full comparison needs the rows of 1.0.0" in out
    assert f"- before: 60 images, {v1.statistics['labels']} labels" in out
    assert f"- now: 60 images, {v2.statistics['labels']} labels" in out


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow)],
)
def test_a_dry_run_works_without_a_network(hub, command, repo_id, v1, environment):
    out = command("publish", v1.folder, repo_id, "--version", "1.0.0", "--dry-run", env=environment).ok()
    assert "The Hub was not asked" in out
    assert "# Tiny" in out.split("--- README.md ---")[1]
    for file in v1.files:
        assert file.path in out
    assert not hub.requests


def test_only_the_card(hub, command, repo_id, v1, tmp_path):
    out = command(
        *["publish", v1.folder, repo_id, "--version", "1.0.0", "--license", "mit", "--card-only", tmp_path / "card.md"],
        env={"HF_HUB_OFFLINE": "1"},
        token=None,
    ).ok()
    assert "nothing was published" in out
    assert "license: mit" in (tmp_path / "card.md").read_text()
    assert not hub.requests


def test_publishing_again_changes_nothing(hub, hf_relabel, repo_id, v1):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    commits = len(hub.repo(repo_id).commits)
    hub.requests.clear()
    assert "nothing was sent" in hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    assert len(hub.repo(repo_id).commits) == commits
    assert not any(hub.count(route) for route in ("commit", "lfs_put", "preupload"))


@pytest.mark.slow
def test_anybodys_pull_request_and_its_tag_after_the_merge(hub, hf_relabel, command, repo_id, v1):
    repo = hub.store.create(repo_id)
    head = repo.branches["main"]
    asked = ["publish", v1.folder, repo_id, "--version", "1.0.0"]
    out = command(*asked, "--create-pr", token="hf_stranger_secret").ok()
    assert "/discussions/1" in out
    assert repo.branches["main"] == head
    assert not repo.tags
    repo.branches["main"] = repo.pulls["refs/pr/1"]
    hf_relabel(*asked).ok()
    assert repo.tags == {"v1.0.0": repo.pulls["refs/pr/1"]}
    assert len(repo.commits) == 2


def test_a_private_repository(hub, hf_relabel, repo_id, v1):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0", "--private").ok()
    assert hub.repo(repo_id).private


def test_private_is_refused_for_a_public_repository(hub, hf_relabel, repo_id, v1):
    hub.store.create(repo_id)
    assert "is public" in hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0", "--private").error()


def test_an_older_line_goes_to_its_own_branch(hub, hf_relabel, repo_id, v1, v2, tmp_path):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    patch = make_release(tmp_path / "patch", "1.0.1", threshold=0.6)
    error = hf_relabel("publish", patch.folder, repo_id, "--version", "1.0.1").error()
    assert "--branch" in error
    main = hub.repo(repo_id).branches["main"]
    hub.repo(repo_id).branches["1.0"] = hub.repo(repo_id).tags["v1.0.0"]
    hf_relabel("publish", patch.folder, repo_id, "--version", "1.0.1", "--branch", "1.0").ok()
    repo = hub.repo(repo_id)
    assert repo.branches["main"] == main
    assert repo.tags["v1.0.1"] == repo.branches["1.0"]
    assert "Since 1.0.0" in repo.read("v1.0.1", "CHANGELOG.md").decode()
    listed = hf_relabel("versions", repo_id).ok().splitlines()[2:]
    assert [line.split()[0] for line in listed] == ["1.0.0", "1.0.1", "1.1.0"]


def test_the_version_before_from_a_folder(hub, hf_relabel, repo_id, v1, v2):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    wrong = hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0", "--previous", v2.folder).error()
    assert "omit --previous" in wrong
    hub.requests.clear()
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0", "--previous", v1.folder).ok()
    assert not [path for route, _, path in hub.requests if route == "resolve" and "/data/" in path]
    assert "Since 1.0.0" in hub.repo(repo_id).read("main", "CHANGELOG.md").decode()


@pytest.mark.parametrize("script", ["{name}.py", "{NAME}.py"])
def test_a_root_script_named_like_the_repository(hub, hf_relabel, repo_id, v1, script):
    name = repo_id.split("/")[1]
    path = script.format(name=name, NAME=name.upper())
    repo = hub.store.create(repo_id)
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": {"path": path, "content": ""}}]
    repo.commit("main", lines, False)
    error = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").error()
    assert path in error
    assert "delete that file first" in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--version", "1.0.1"], "--build.version 1.0.1"),
        (["--version", "1.0.0", "--license", "my-own"], "license 'my-own'"),
        (["--version", "1.0.0", "--license", "other"], "--license-name"),
        (["--version", "1.0.0", "--show-images", "nowhere"], "no such folder"),
    ],
)
def test_refused_before_a_byte_is_sent(hub, hf_relabel, repo_id, v1, arguments, expected):
    assert expected in hf_relabel("publish", v1.folder, repo_id, *arguments).error()
    assert not [route for route, _, _ in hub.requests if route in WRITES]


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/na me", "owner/..", "/x"])
def test_invalid_repository_names(hf_relabel, v1, name):
    assert repr(name) in hf_relabel("publish", v1.folder, name, "--version", "1.0.0").error()


def test_a_license_that_the_hub_lists_needs_no_new_version_of_ours(hub, command, repo_id, v1, monkeypatch):
    monkeypatch.setattr(hub, "licenses", ["cc-by-5.0"])
    done = command("publish", v1.folder, repo_id, "--version", "1.0.0", "--license", "cc-by-5.0", "--dry-run")
    assert "license: cc-by-5.0" in done.ok()
    error = command("publish", v1.folder, repo_id, "--version", "1.0.0", "--license", "cc-by-6.0").error()
    assert "license 'cc-by-6.0': not an identifier that the Hub knows" in error


def test_the_server_refuses_bad_metadata_and_ours_passes(hub, v1):
    from hf_relabel.hub.card_metadata import License

    metadata = card_metadata(v1, License("cc-by-4.0"), "user/photos", [])
    assert metadata_errors(metadata) == []
    assert metadata_errors({**metadata, "annotations_creators": ["bogus"]})
    assert metadata["source_datasets"] == ["user/photos"]


def test_the_gallery_with_pictures(hub, hf_relabel, repo_id, v1, tmp_path):
    from PIL import Image

    for row in make_rows(60):
        path = tmp_path / "images" / row["image_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (row["width"], row["height"]), "navy").save(path)
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0", "--show-images", tmp_path / "images").ok()
    shown = hub.repo(repo_id).read("main", "card/gallery.png")
    card = hub.repo(repo_id).read("main", "README.md").decode()
    assert "Images of the source with their regions." in card
    plain = hf_relabel("publish", v1.folder, f"{repo_id}-plain", "--version", "1.0.0")
    plain.ok()
    outlines = hub.repo(f"{repo_id}-plain").read("main", "card/gallery.png")
    assert outlines != shown
    assert "without the source's pixels" in hub.repo(f"{repo_id}-plain").read("main", "README.md").decode()
    path.unlink()
    for file in (tmp_path / "images").rglob("*.jpg"):
        file.unlink()
    error = hf_relabel(
        "publish", v1.folder, f"{repo_id}-none", "--version", "1.0.0", "--show-images", tmp_path / "images"
    ).error()
    assert "gallery: cannot read" in error


@pytest.mark.slow
def test_the_stored_login_works_too(hub, command, repo_id, v1, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("hf_owner_secret")
    command("publish", v1.folder, repo_id, "--version", "1.0.0", token=None).ok()
    assert hub.repo(repo_id).tags
