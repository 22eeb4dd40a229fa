"""A published release is exported by its name and revision, with everything in its folder."""


def test_export_of_a_published_revision(hf_relabel, repo_id, v1, tmp_path):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    for kind in ("coco", "tsv"):
        hf_relabel("export", kind, f"{repo_id}@v1.0.0", tmp_path / f"hub.{kind}").ok()
        hf_relabel("export", kind, v1.folder, tmp_path / f"folder.{kind}").ok()
        assert (tmp_path / f"hub.{kind}").read_bytes() == (tmp_path / f"folder.{kind}").read_bytes()
    assert '"image_id":"00/broken.jpg"' in (tmp_path / "hub.coco").read_text()
    assert "the Hub answered 404" in hf_relabel("export", "tsv", f"{repo_id}@v9.0.0", tmp_path / "none").error()
