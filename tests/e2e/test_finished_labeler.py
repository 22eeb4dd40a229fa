"""A finished labeler on other images: by the commands, from Python, and in memory."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ENVIRONMENT, config_of
from datasets import load_dataset
from PIL import Image

import hf_relabel
from hf_relabel.cli import main
from hf_relabel.errors import ImageReadError, LabelerError, UsageError
from hf_relabel.labeling.calibration import Calibration
from hf_relabel.labeling.labeler import ImageScores, Labeler, read_config


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


def test_photos_without_labels(run, photos, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    out = tmp_path / "out"
    arguments = ["--source.path", str(photos), "--source.labeled", "false", "--run.dir", str(out), *BUILD]
    assert main(["run", "--labeler", str(run), *arguments]) == 0
    assert "train: done" not in capsys.readouterr().out
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

    assert main(["run", "--config", str(out / "config.yaml")]) == 0


def test_label_says_that_it_does_not_read_other_images(run, photos, capsys):
    assert main(["label", "--config", f"{run}/config.yaml"]) == 0
    assert "note:" not in capsys.readouterr().err
    assert main(["label", "--config", f"{run}/config.yaml", "--source.path", str(photos)]) == 0
    assert f"not on '{photos}'; for other images: hf-relabel run --labeler {run}" in capsys.readouterr().err


def test_labels_of_other_images_are_matched_by_name(run, image_folder, tmp_path):
    shutil.copytree(image_folder / "triangle", tmp_path / "images" / "triangle")
    out = tmp_path / "out"
    assert main(["run", "--labeler", f"{run}/labeler", "--source.path", str(tmp_path / "images"), "--run.dir", str(out),
                 *BUILD]) == 0  # fmt: skip
    rows = load_dataset(str(out / "release"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rows["label"]) == {2}
    assert rows.features["label"].int2str(2) == "triangle"


def test_refusals(run, image_folder, tmp_path, capsys):
    shutil.copytree(image_folder / "circle", tmp_path / "images" / "hexagon")
    path = ["--source.path", str(tmp_path / "images")]
    assert main(["run", "--labeler", str(run), *path, "--run.dir", str(tmp_path)]) == 1
    line = capsys.readouterr().err
    assert "'hexagon'" in line
    assert "--source.labeled false" in line
    assert main(["run", "--config", f"{run}/config.yaml", *path]) == 1
    assert f"--labeler {run}" in capsys.readouterr().err
    assert main(["run", "--labeler", str(run), *path, "--run.dir", str(run)]) == 2
    assert "labeler of this run itself" in capsys.readouterr().err


@pytest.fixture(scope="module")
def calibrated(run, tmp_path_factory) -> Path:
    """The run's labeler with a calibration; twelve images are too few to measure one."""
    labeler = Labeler.load(run / "labeler", read_config(run / "labeler")["backbone"])
    calibration = Calibration([-2.0, -0.7, 0.5], [-2.0, -0.4, 0.3], 0.6, 20.0, 100, 20)
    scores = ImageScores("object", calibration, True, {"object": {"reliability": []}})
    folder = tmp_path_factory.mktemp("calibrated") / "runs" / "demo"
    (folder / "labeler").mkdir(parents=True)
    training = labeler.training | {"scores": scores.to_json()}
    dataclasses.replace(labeler, scores=scores, training=training).save(folder / "labeler")
    shutil.copy(run / "config.yaml", folder)
    return folder


@pytest.mark.parametrize(
    "settings", [{}, {"threshold": 0.3, "exclude_classes": ["square"]}, {"calibrated": False, "threshold": 0.1}]
)
def test_photos_in_memory_get_what_a_run_gives_them(calibrated, photos, tmp_path, settings):
    release = hf_relabel.run(
        {
            "source": {"path": str(photos), "labeled": False},
            "labeler": str(calibrated),
            "build": settings,
            "run": {"dir": str(tmp_path), "shard_size": 5},
        }
    )
    rows = list(release.rows("regions"))
    relabeler = hf_relabel.Relabeler.from_pretrained(calibrated, **settings)
    results = relabeler([photos / row["image_id"] for row in rows])
    assert any(row["labels"] for row in rows)
    for row, result in zip(rows, results, strict=True):
        assert result.labels == [release.class_names[label] for label in row["labels"]]
        assert result.scores == row["scores"]
        found = [(region.class_id, region.score, region.segmentation) for region in result.regions]
        assert found == [(region["label"], region["score"], region["segmentation"]) for region in row["regions"]]
    # One at a time, and as a picture instead of a file: the photos are PNG, which has the same pixels.
    first = photos / rows[0]["image_id"]
    for image in (str(first), Image.open(first), np.asarray(Image.open(first))):
        again = relabeler(image)
        assert (again.labels, again.scores) == (results[0].labels, results[0].scores)


def test_a_photo_that_cannot_be_read(calibrated, photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    relabeler = hf_relabel.Relabeler.from_pretrained(calibrated)
    with pytest.raises(ImageReadError, match=r"broken\.jpg: not an image"):
        relabeler([broken])
    with pytest.raises(UsageError, match="a list of these, got int"):
        relabeler(5)
    good, bad = relabeler([next(photos.glob("*.png")), tmp_path / "missing.jpg"], on_error="return")
    assert good.error is None
    assert "cannot be opened" in bad.error


def test_labelers_and_settings_that_do_not_fit(run, calibrated):
    with pytest.raises(LabelerError, match="could not be calibrated"):
        hf_relabel.Relabeler.from_pretrained(run)
    with pytest.raises(UsageError, match="treshold"):
        hf_relabel.Relabeler.from_pretrained(calibrated, treshold=0.3)
    with pytest.raises(UsageError, match=r"source\.pth"):
        hf_relabel.run({"source": {"pth": "x"}})


def test_annotate(calibrated, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    assert main(["annotate", str(photos), "broken.jpg", "--labeler", str(calibrated), "--threshold", "0.1"]) == 1
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert len(lines) == 12 + 1 + 1
    assert "broken.jpg: not read: not an image, or an unsupported format" in lines
    assert "1 of 13 photos could not be read" in output.err
    pictures = sorted((tmp_path / "annotated").iterdir())
    assert len(pictures) == 12
    assert Image.open(pictures[0]).width >= 384


def test_annotate_as_json(calibrated, photos, tmp_path, capsys):
    photo = str(next(photos.glob("*.png")))
    assert main(["annotate", photo, "--labeler", str(calibrated), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    result = hf_relabel.Relabeler.from_pretrained(calibrated)(photo)
    assert [item["label"] for item in value["labels"]] == result.labels
    assert [item["segmentation"] for item in value["regions"]] == [region.segmentation for region in result.regions]
    assert main(["annotate", str(tmp_path / "nothing.jpg"), "--labeler", str(calibrated)]) == 2


README = Path(hf_relabel.__file__).parents[1] / "README.md"

TWICE = """
import sys
from PIL import ImageShow
ImageShow._viewers.clear()  # no windows
for _ in range(2):
    space = {"__name__": "__main__"}
    exec(open(sys.argv[1]).read(), space)
    print(len(space["results"]), space["coco"]["images"][0]["file_name"], space["picture"].size)
"""


@pytest.mark.slow
def test_the_example_in_the_readme_runs_twice_in_one_process(calibrated, photos, tmp_path):
    """As in a notebook, in a folder with the run and the photos that the example names."""
    text = README.read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Relabeler" in block)
    (tmp_path / "example.py").write_text(example)
    shutil.copytree(calibrated, tmp_path / "runs" / "demo")
    for name, photo in zip(("photo.jpg", "another.png"), sorted(photos.glob("*.png")), strict=False):
        Image.open(photo).convert("RGB").save(tmp_path / name)
    environment = ENVIRONMENT | {"PYTHONPATH": str(README.parent)}
    done = subprocess.run(
        [sys.executable, "-c", TWICE, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("2 photo.jpg")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
