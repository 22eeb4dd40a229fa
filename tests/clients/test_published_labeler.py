"""A labeler on the Hub: published once, loaded by others, pinned by its tag."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import config_of
from hub_environment import TIMEOUT, environment

import hf_relabel as package
from hf_relabel.cli import main

LABEL = """
import json, sys
from hf_relabel import Relabeler
name, revision, backbone, photo = sys.argv[1:]
relabeler = Relabeler.from_pretrained(name, revision=revision, backbone=backbone, calibrated=False, threshold=0.1)
result = relabeler(photo)
print(json.dumps([result.labels, result.scores]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory, image_folder, tiny_dinov3) -> Path:
    folder = tmp_path_factory.mktemp("labeler")
    config = config_of(folder, image_folder, tiny_dinov3)
    assert main(["run", "--config", config, "--run.dir", str(folder / "run")]) == 0
    return folder / "run"


def label(hub, home: Path, repo_id: str, revision: str, backbone: Path, photo: Path, **more: str) -> list:
    """Labels and scores of a photo by a process of its own, with its own cache."""
    done = subprocess.run(
        [sys.executable, "-c", LABEL, repo_id, revision, str(backbone), str(photo)],
        env=environment(hub, home, **more), capture_output=True, text=True, timeout=TIMEOUT, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_a_published_labeler_labels_as_the_local_one(
    hub, hf_relabel, repo_id, run, image_folder, tiny_dinov3, tmp_path
):
    command = ("publish-labeler", run, repo_id, "--tag", "v1.0.0", "--license", "cc-by-4.0")
    said = hf_relabel(*command).ok().rstrip()
    assert said.endswith(f"hf-relabel annotate photo.jpg --labeler {repo_id}@v1.0.0 --backbone FOLDER")
    repo = hub.repo(repo_id)
    assert set(repo.files("v1.0.0")) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    record = json.loads(repo.read("v1.0.0", "config.json"))
    assert record["class_names"] == ["circle", "square", "triangle"]
    assert str(run.parent) not in json.dumps(record)
    photo = image_folder / "circle" / "circle_0.png"
    found = label(hub, tmp_path / "home", repo_id, "v1.0.0", tiny_dinov3, photo)
    result = package.Relabeler.from_pretrained(run, calibrated=False, threshold=0.1)(photo)
    assert found == [result.labels, result.scores]
    offline = label(hub, tmp_path / "home", repo_id, "v1.0.0", tiny_dinov3, photo, HF_HUB_OFFLINE="1")
    assert offline == found

    commits = len(repo.commits)
    assert "already has this labeler" in hf_relabel(*command).ok()
    assert len(repo.commits) == commits


def test_the_card(hf_relabel, repo_id, run):
    out = hf_relabel("publish-labeler", run, repo_id, "--license", "mit", "--dry-run").ok()
    assert "license: mit" in out
    assert f'Relabeler.from_pretrained("{repo_id}", backbone="folder/of/the/backbone")' in out
    assert "circle, square, triangle" in out
    assert "calibrated=False" in out  # twelve images are too few to calibrate on


def test_what_is_refused(hub, hf_relabel, command, repo_id, run, tmp_path, v1):
    (tmp_path / "labeler").mkdir()
    assert "no labeler" in hf_relabel("publish-labeler", tmp_path, repo_id).error()
    assert "no token" in command("publish-labeler", run, repo_id, token=None).error()
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    line = hf_relabel("annotate", v1.folder / "README.md", "--labeler", repo_id).error()
    assert "so it is not a labeler" in line
    assert (
        "cannot be loaded from the Hub"
        in hf_relabel("annotate", v1.folder / "README.md", "--labeler", "owner/no").error()
    )
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((run / "labeler" / "config.json").read_bytes())
    (damaged / "model.safetensors").write_bytes(b"x")
    assert "damaged" in hf_relabel("publish-labeler", damaged, repo_id).error()
