"""The releases of a run folder, one per version. A version is immutable.

    runs/demo/release/           the latest version
    runs/demo/releases/1.0.0/    earlier versions

The latest version is always at `release/`, so that a path to it can be kept; when a later one is added, it moves to
`releases/`.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from hf_relabel.errors import ReleaseError
from hf_relabel.release.diff import changed_settings
from hf_relabel.release.layout import EXCLUDED, MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.run.store import read_json, write_json

LATEST, EARLIER = "release", "releases"


def run_of(release: Release) -> Path:
    """The folder of the run that a release lies in, if it lies in one."""
    parent = release.folder.absolute().parent if release.folder.name else release.folder.resolve().parent
    return parent.parent if parent.name == EARLIER else parent


def version_key(version: str) -> tuple[int, ...]:
    """A version such as 1.10.0 as numbers, for sorting."""
    return tuple(int(part) for part in version.split("."))


def next_version(versions: Iterable[str]) -> str:
    """The version to use for new content: the highest one with its second number raised."""
    major, minor, _ = max(version_key(version) for version in versions)
    return f"{major}.{minor + 1}.0"


def stored_releases(run_folder: Path) -> dict[str, Release]:
    """The releases of a run folder by version.

    Raises:
        ReleaseError: A manifest is damaged.
    """
    folders = [run_folder / LATEST, *sorted((run_folder / EARLIER).glob("*"))]
    releases = [Release.open(folder) for folder in folders if (folder / MANIFEST).exists()]
    return {release.version: release for release in reversed(releases)}


def find_version(run_folder: Path, version: str, fingerprint: str) -> Release | None:
    """The release of a version if it has the content that belongs to a fingerprint, else None.

    Args:
        run_folder: The run folder.
        version: The version, such as 1.0.0.
        fingerprint: Digest of everything the content depends on.
    """
    release = stored_releases(run_folder).get(version)
    if release is None:
        return None
    known = {release.provenance.get("fingerprint"), *_equivalent(run_folder).get(version, [])}
    return release if fingerprint in known else None


def add_version(run_folder: Path, version: str, fingerprint: str, write: Callable[[Path], Release]) -> Release:
    """Add a version to a run folder.

    If the version exists with the same content, the existing release is kept and returned.

    Args:
        run_folder: The run folder.
        version: The version, such as 1.0.0.
        fingerprint: Digest of everything the content depends on.
        write: Writes the release of this version to the given folder.

    Raises:
        ReleaseError: The version exists with other content, the release cannot be written, or something that is not a
            release is in the way.
    """
    latest, staging = run_folder / LATEST, run_folder / ".release.new"
    if latest.exists() and not (latest / MANIFEST).exists() and (not latest.is_dir() or any(latest.iterdir())):
        raise ReleaseError(f"{latest}: exists and is not a release; move it or choose another --run.dir")
    stored = stored_releases(run_folder)
    try:
        shutil.rmtree(staging, ignore_errors=True)
        new = write(staging)
        existing = stored.get(version)
        if existing is None:
            _move_into_place(staging, run_folder, version, stored)
        elif not has_same_content(existing, new):
            raise _refusal(existing, new, next_version(stored))
        else:
            _record_equivalent(run_folder, version, fingerprint)
    except OSError as error:
        raise ReleaseError(f"{latest}: cannot be written ({error.strerror or error}); run the command again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _restore_latest(run_folder)
    return stored_releases(run_folder)[version]


def has_same_content(a: Release, b: Release) -> bool:
    """Whether two releases have the same rows, classes, excluded images, name and version."""

    def content(release: Release) -> tuple[object, ...]:
        files = [(file.path, file.sha256) for file in release.files if file.config_name or file.path == EXCLUDED]
        return release.name, release.version, release.splits, release.class_names, sorted(files)

    return content(a) == content(b)


def _equivalent(run_folder: Path) -> dict[str, list[str]]:
    """By version, further fingerprints that gave the same content, so that it is not built again to compare it."""
    return read_json(run_folder / EARLIER / "equivalent.json") or {}


def _record_equivalent(run_folder: Path, version: str, fingerprint: str) -> None:
    (run_folder / EARLIER).mkdir(exist_ok=True)
    known = _equivalent(run_folder)
    known[version] = [*known.get(version, []), fingerprint]
    write_json(run_folder / EARLIER / "equivalent.json", known)


def _refusal(existing: Release, new: Release, proposed: str) -> ReleaseError:
    changed = changed_settings(existing, new)
    hashes = [(release.provenance.get("corrections") or {}).get("sha256") for release in (existing, new)]
    if hashes[0] != hashes[1]:
        changed = ["corrections by hand", *changed]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    what = f" ({'; '.join(changed[:3])}{more})" if changed else ""
    return ReleaseError(
        f"{existing.folder}: version {existing.version} already exists with other content{what}, and a version is "
        f"never replaced; build this one with --build.version {proposed}"
    )


def _move_into_place(staging: Path, run_folder: Path, version: str, stored: dict[str, Release]) -> None:
    """Move a new release to its folder; if it is the latest, the previous latest moves to `releases/` first."""
    latest = run_folder / LATEST
    if any(version_key(other) > version_key(version) for other in stored):
        (run_folder / EARLIER).mkdir(exist_ok=True)
        staging.rename(run_folder / EARLIER / version)
        return
    previous = next((release for release in stored.values() if release.folder == latest), None)
    if previous is not None:
        (run_folder / EARLIER).mkdir(exist_ok=True)
        latest.rename(run_folder / EARLIER / previous.version)
    try:
        staging.rename(latest)
    except OSError:
        _restore_latest(run_folder)
        raise


def _restore_latest(run_folder: Path) -> None:
    """Move the highest version to `release/` if an interrupted `add_version` left nothing there."""
    latest = run_folder / LATEST
    stored = stored_releases(run_folder)
    if stored and not (latest / MANIFEST).exists():
        highest = max(stored, key=version_key)
        stored[highest].folder.rename(latest)
