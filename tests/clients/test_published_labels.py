"""A published release is audited by its name and revision."""

import json

import pytest
from releases import make_rows

pytestmark = pytest.mark.slow


def test_audit_of_a_published_revision(hf_relabel, command, repo_id, v1, v2, tmp_path):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    truth = {row["image_id"]: row["labels"] for row in make_rows(60)}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    found = {}
    for revision in ("v1.0.0", "v1.1.0"):
        results = tmp_path / f"{revision}.json"
        command("audit", f"{repo_id}@{revision}", "--truth", tmp_path / "truth.json", "--json", results).ok()
        found[revision] = json.loads(results.read_text())
    # the truth is the first version's own labels; the second lists fewer
    assert found["v1.0.0"]["best"]["f1"] == 1
    assert found["v1.1.0"]["best"]["recall"] < 1
    assert found["v1.1.0"]["best"]["precision"] == 1
    done = command("audit", f"{repo_id}@v9.0.0", "--truth", tmp_path / "truth.json")
    assert "the Hub answered 404" in done.error()


def test_offline_only_the_cached_version_is_read(hf_relabel, command, repo_id, v1, v2, tmp_path):
    for release in (v1, v2):
        hf_relabel("publish", release.folder, repo_id, "--version", release.version).ok()
    (tmp_path / "truth.json").write_text(json.dumps({row["image_id"]: row["labels"] for row in make_rows(60)}))
    online = command("audit", f"{repo_id}@v1.0.0", "--truth", tmp_path / "truth.json").ok()
    offline = {"HF_HUB_OFFLINE": "1"}
    assert command("audit", f"{repo_id}@v1.0.0", "--truth", tmp_path / "truth.json", env=offline).ok() == online
    done = command("audit", f"{repo_id}@v1.1.0", "--truth", tmp_path / "truth.json", env=offline)
    assert f"{repo_id}@v1.1.0: not in the cache, and HF_HUB_OFFLINE is set" in done.error()
