"""A run folder keeps every version, and no version ever changes."""

from pathlib import Path

import pytest
from releases import make_release, provenance

from hf_relabel.errors import ReleaseError
from hf_relabel.release import versions
from hf_relabel.release.verify import verify
from hf_relabel.release.versions import add_version, find_version, next_version, stored_releases


def add(run_folder, version="1.0.0", threshold=0.5, fingerprint=None, **options):
    """Build a version as the command `build` does."""
    fingerprint = fingerprint or f"{version} at {threshold}"
    made_by = {**provenance(threshold, version), "fingerprint": fingerprint}

    def write(folder):
        return make_release(folder, version, threshold=threshold, provenance=made_by, **options)

    return add_version(run_folder, version, fingerprint, write)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_latest_is_in_release_and_earlier_versions_stay(tmp_path):
    first = contents(add(tmp_path).folder)
    add(tmp_path, "1.1.0", 0.7)
    third = add(tmp_path, "1.10.0", 0.8)
    assert third.folder == tmp_path / "release"
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == ["1.0.0", "1.1.0"]
    assert contents(tmp_path / "releases" / "1.0.0") == first
    for release in stored_releases(tmp_path).values():
        verify(release)


def test_an_older_number_does_not_become_the_latest(tmp_path):
    add(tmp_path, "1.1.0")
    assert add(tmp_path, "1.0.1", 0.7).folder == tmp_path / "releases" / "1.0.1"
    assert stored_releases(tmp_path)["1.1.0"].folder == tmp_path / "release"


def test_other_content_under_the_same_version_is_refused(tmp_path):
    add(tmp_path)
    add(tmp_path, "1.1.0", 0.7)
    before = contents(tmp_path)
    for version, proposed in (("1.0.0", "1.2.0"), ("1.1.0", "1.2.0")):
        with pytest.raises(ReleaseError) as error:
            add(tmp_path, version, 0.9)
        message = str(error.value)
        assert f"version {version} already exists with other content (build.threshold: 0." in message
        assert message.endswith(f"--build.version {proposed}")
        assert contents(tmp_path) == before


def test_the_same_content_again_changes_nothing(tmp_path):
    add(tmp_path)
    before = contents(tmp_path)
    assert add(tmp_path, fingerprint="other settings, same rows").folder == tmp_path / "release"
    assert contents(tmp_path / "release") == {
        name.removeprefix("release/"): content for name, content in before.items()
    }


def test_a_built_version_is_found_by_its_fingerprint(tmp_path):
    assert find_version(tmp_path, "1.0.0", "a") is None
    add(tmp_path, fingerprint="a")
    add(tmp_path, fingerprint="b")
    for fingerprint in ("a", "b"):
        assert find_version(tmp_path, "1.0.0", fingerprint).version == "1.0.0"
    assert find_version(tmp_path, "1.0.0", "c") is None
    assert find_version(tmp_path, "1.1.0", "a") is None


def test_what_is_not_a_release_stays(tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "photo.jpg").touch()
    with pytest.raises(ReleaseError, match="exists and is not a release"):
        add(tmp_path)
    assert contents(tmp_path) == {"release/photo.jpg": b""}


def fail_to_publish(patch):
    """The new release cannot be moved to its place."""
    rename = Path.rename

    def fail(path, target):
        if path.name == ".release.new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    patch.setattr(Path, "rename", fail)


def test_a_kill_between_the_two_renames(tmp_path, monkeypatch):
    add(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(versions, "_restore_latest", lambda folder: None)
        fail_to_publish(patch)
        with pytest.raises(ReleaseError, match="No space left on device"):
            add(tmp_path, "1.1.0", 0.7)
    assert not (tmp_path / "release").exists()
    assert add(tmp_path).folder == tmp_path / "release", "the same version again restores it"
    add(tmp_path, "1.1.0", 0.7)
    assert sorted(stored_releases(tmp_path)) == ["1.0.0", "1.1.0"]


def test_a_failed_move_restores_the_latest(tmp_path, monkeypatch):
    add(tmp_path)
    fail_to_publish(monkeypatch)
    with pytest.raises(ReleaseError, match="No space left on device"):
        add(tmp_path, "1.1.0", 0.7)
    assert sorted(stored_releases(tmp_path)) == ["1.0.0"]
    assert (tmp_path / "release" / "manifest.json").exists()


def test_the_next_version():
    assert next_version(["1.0.0", "1.10.3", "1.9.0"]) == "1.11.0"
