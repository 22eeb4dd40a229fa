"""A finished labeler on other images, by the commands."""

import json
import shutil
from pathlib import Path

import pytest
from commands import config_of, error_line, hf_relabel
from datasets import load_dataset

from hf_relabel.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory, image_folder, tiny_dinov3) -> Path:
    """A run whose labeler is used on other images."""
    folder = tmp_path_factory.mktemp("first")
    config = config_of(folder, image_folder, tiny_dinov3)
    assert main(["run", "--config", config, "--run.dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def photos(tmp_path_factory, image_folder) -> Path:
    """The same pictures without class folders."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number, path in enumerate(sorted(image_folder.rglob("*.png"))):
        shutil.copy(path, (folder / "more" if number % 2 else folder) / path.name)
    return folder


BUILD = ["--build.calibrated", "false", "--build.threshold", "0.2"]


def test_photos_without_labels(run, photos, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    out = tmp_path / "out"
    done = hf_relabel(
        "run", "--labeler", str(run), "--source.path", str(photos), "--source.labeled", "false", "--run.dir", str(out),
        *BUILD,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train: done" not in done.stdout
    rows = load_dataset(str(out / "release"), "regions", split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.features["label"].names == ["circle", "square", "triangle"]
    assert sorted(rows["image_id"]) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    assert set(rows["label"]) == {None}
    assert all(rows["labels"])
    assert (out / "overlays" / "sheet.png").exists()
    manifest = json.loads((out / "release" / "manifest.json").read_text())
    assert manifest["statistics"]["images_without_original"] == 12
    record = json.loads((run / "labeler" / "config.json").read_text())
    assert manifest["provenance"]["labeler"]["weights_sha256"] == record["weights_sha256"]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    again = hf_relabel("run", "--config", str(out / "config.yaml"))
    assert again.returncode == 0, again.stderr


def test_labels_of_other_images_are_matched_by_name(run, image_folder, tmp_path):
    shutil.copytree(image_folder / "triangle", tmp_path / "images" / "triangle")
    out = tmp_path / "out"
    assert main(["run", "--labeler", f"{run}/labeler", "--source.path", str(tmp_path / "images"), "--run.dir", str(out),
                 *BUILD]) == 0  # fmt: skip
    rows = load_dataset(str(out / "release"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rows["label"]) == {2}
    assert rows.features["label"].int2str(2) == "triangle"


def test_refusals(run, image_folder, photos, tmp_path):
    shutil.copytree(image_folder / "circle", tmp_path / "images" / "hexagon")
    line = error_line(
        hf_relabel("run", "--labeler", str(run), "--source.path", str(tmp_path / "images"), "--run.dir", str(tmp_path)),
        1,
    )
    assert "'hexagon'" in line
    assert "--source.labeled false" in line
    line = error_line(hf_relabel("run", "--config", f"{run}/config.yaml", "--source.path", str(tmp_path / "images")), 1)
    assert f"--labeler {run}" in line
