"""The wheel is complete, and a card can be made from an installation in any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from releases import make_release

from hf_relabel.hub.card import CardOptions, render_card

REPOSITORY = Path(__file__).resolve().parents[2]


def _run(*arguments: object, cwd: Path, python_path: str = "") -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=kept | {"PYTHONPATH": python_path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network from a copy, as building leaves files in the source folder."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("hf_relabel", "dataset_card"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    _run("-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, folder, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_contains_every_file(wheel):
    def files(root: Path) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    source = wheel.parent
    expected = {f"hf_relabel/{name}" for name in files(source / "hf_relabel")}
    expected |= {f"hf_relabel/dataset_card/{name}" for name in files(source / "dataset_card")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected


@pytest.mark.slow
def test_a_card_from_an_installation_in_any_folder(wheel, tmp_path):
    _run("-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel, cwd=tmp_path)
    site = str(tmp_path / "site")
    where = _run("-c", "import hf_relabel; print(hf_relabel.__file__)", cwd=tmp_path, python_path=site)
    assert where.strip() == str(tmp_path / "site" / "hf_relabel" / "__init__.py")
    release = make_release(tmp_path / "release")
    publish = ["-m", "hf_relabel", "publish", release.folder, "owner/tiny", "--version", "1.0.0"]
    _run(*publish, "--card-only", "card.md", cwd=tmp_path, python_path=site)
    assert (tmp_path / "card.md").read_text() == render_card(release, "owner/tiny", CardOptions())
    shown = _run(*publish, "--dry-run", cwd=tmp_path, python_path=site)
    assert "HF_HUB_OFFLINE is set" in shown
    assert "scripts/load_relabel.py" in shown
    assert "# Tiny" in shown.split("--- README.md ---")[1]
