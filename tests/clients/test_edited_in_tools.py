"""Exports that were edited in FiftyOne, with its database, and on a Label Studio server come back as corrections.

Both run apart from the project: HF_RELABEL_READERS names the environment of scripts/readers.txt (with a `mongod`, see
there) and HF_RELABEL_LABEL_STUDIO one with the package label-studio. Without them, these tests are skipped.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import hf_relabel
from PIL import Image
from release_folder import write_release

from hf_relabel.release.reader import Release
from hf_relabel.review.corrections import CORRECTIONS, read_corrections

pytestmark = pytest.mark.slow

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
READERS, SERVER = (
    Path(os.environ.get(name, Path(__file__).resolve().parents[2] / ".cache" / folder)) / "bin/python"
    for name, folder in (("HF_RELABEL_READERS", "readers"), ("HF_RELABEL_LABEL_STUDIO", "label-studio"))
)
has_database = any(READERS.parents[1].glob("lib/*/site-packages/fiftyone/db/bin/mongod"))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Five images, beside the release, with a region of the given label cat and one of the added label dog."""
    folder, rows = tmp_path_factory.mktemp("edited"), []
    for number in range(5):
        left, right = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
        left[5:30, 5:30], right[10:35, 25 + number : 55] = True, True
        regions = [{"label": 0, "score": 0.9, "mask": left}, {"label": 1, "score": 0.8, "mask": right}]
        image_id = f"cats/{number}.jpg"
        row = {"image_id": image_id, "label": 0, "labels": [0, 1], "scores": [1.0, 0.8], "width": 60, "height": 40}
        rows.append(row | {"regions": regions})
        (folder / "images/cats").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (40 * number, 90, 120)).save(folder / "images" / image_id)
    return Release.open(write_release(folder / "release", ["cat", "dog", "tree", "cow"], rows))


def run(*arguments: str, home: Path) -> None:
    """Run a tool's script in its own environment."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "FIFTYONE_DO_NOT_TRACK": "1"}
    environment |= {"FIFTYONE_DATABASE_DIR": str(home / "database"), "FIFTYONE_SHOW_PROGRESS_BARS": "false"}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def corrections(release: Release, edited: Path, folder: Path) -> set:
    """The corrections that `review --edited` makes of an edited export."""
    done = hf_relabel("review", str(release.folder), "--edited", str(edited), "--corrections", str(folder))
    assert done.returncode == 0, done.stderr
    return {
        (each.image, each.label or each.region, each.old, each.new) for each in read_corrections(folder / CORRECTIONS)
    }


RENAMED = {("cats/0.jpg", "cats/0.jpg#1", "dog", "cow"), ("cats/0.jpg", "dog", True, False)}
REMOVED = {("cats/1.jpg", "cats/1.jpg#1", "dog", None), ("cats/1.jpg", "dog", True, False)}
ADDED = {("cats/2.jpg", "tree", False, True)}


@pytest.mark.skipif(not has_database, reason="FiftyOne is not installed with a database (scripts/readers.txt)")
def test_edited_in_fiftyone(release: Release, tmp_path: Path):
    images = str(release.folder.parent / "images")
    exported = hf_relabel("export", "fiftyone", str(release.folder), str(tmp_path / "export"), "--images", images)
    assert exported.returncode == 0, exported.stderr
    (tmp_path / "printed.txt").write_text(exported.stdout)
    script = HELPERS / "edit_in_fiftyone.py"
    run(str(READERS), str(script), str(tmp_path / "printed.txt"), str(tmp_path / "edited"), home=tmp_path)
    relabeled = {("cats/3.jpg", "dog", True, False), ("cats/3.jpg", "cow", False, True)}
    assert corrections(release, tmp_path / "edited", tmp_path) == RENAMED | REMOVED | ADDED | relabeled


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("masks", ["brush", "polygons"])
@pytest.mark.skipif(not SERVER.exists(), reason="label-studio is not installed")
def test_edited_in_label_studio(release: Release, tmp_path: Path, masks: str):
    exported = hf_relabel("export", "label-studio", str(release.folder), str(tmp_path / "export"), "--masks", masks)
    assert exported.returncode == 0, exported.stderr
    script = HELPERS / "edit_in_label_studio.py"
    run(str(SERVER), str(script), str(tmp_path / "export"), str(tmp_path / "edited.json"), home=tmp_path)
    assert corrections(release, tmp_path / "edited.json", tmp_path) == RENAMED | REMOVED | ADDED
    assert {each.who for each in read_corrections(tmp_path / CORRECTIONS)} == {"user 1"}
