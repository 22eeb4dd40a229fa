"""Real photos with the real commands and the demo's ViT: proposals overlap with objects, and tables are equal.

The photos are in ../shared/data, next to the checkout; without them these tests are skipped.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import ENVIRONMENT, ON_CPU, assert_equal_runs, hf_relabel, launch, launcher, write_config

from hf_relabel.demo.checkpoint import ensure_checkpoint
from hf_relabel.vision import masks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def checkpoint(request) -> Path:
    """The demo's backbone, in the folder that `scripts/demo.sh` uses."""
    return ensure_checkpoint(request.config.rootpath / ".cache" / "demo-backbone").resolve()


def config_of(folder: Path, images: Path, checkpoint: Path, **sections) -> str:
    """Write a configuration with settings that work for the demo's backbone on photos."""
    settings = {
        "source": {"path": str(images)},
        "backbone": {
            "model": str(checkpoint),
            "image_size": 448,
            "proposal_feature": {"kind": "token", "block": -3, "norm": False},
            "region_feature": {"kind": "token", "block": -3},
        },
        "propose": {"tau": 0.4, "max_masks": 3},
        "train": {"standardize": True, "epochs": 5},
        "run": {"shard_size": 16},
    }
    for section, values in sections.items():
        settings[section] = settings[section] | values
    return write_config(folder / "config.yaml", **settings)


def object_boxes(path: Path, width: int, height: int) -> np.ndarray:
    """Read the boxes of a YOLO label file: x, y, width, height in pixels, float [N, 4]."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    boxes = np.array(lines, float).reshape(-1, 5)[:, 1:] * [width, height, width, height]
    boxes[:, :2] -= boxes[:, 2:] / 2
    return boxes


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the IoU, [N, M], of boxes [N, 4] and [M, 4], each x, y, width, height."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    common = np.clip(high - low, 0, None).prod(axis=2)
    return common / (a[:, 2:].prod(axis=1)[:, None] + b[:, 2:].prod(axis=1)[None] - common)


def test_proposals_overlap_with_objects_in_real_photos(shared_data, checkpoint, tmp_path):
    """In at least 52% of COCO photos, a MaskCut proposal's box has IoU >= 0.5 with an object's box."""
    photos = sorted((shared_data / "coco_val" / "images").glob("*.jpg"))
    (tmp_path / "images").mkdir()
    os.symlink(photos[0].parent, tmp_path / "images" / "photos")
    config = config_of(tmp_path, tmp_path / "images", checkpoint)
    done = hf_relabel("propose", "--config", config, "--run.dir", str(tmp_path / "run"), timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [row for path in sorted((tmp_path / "run/proposals").glob("*.parquet")) for row in rows_of(path)]
    assert len(rows) == len(photos)
    matched = []
    for row in rows:
        label = shared_data / "coco_val" / "labels" / f"{Path(row['image_id']).stem}.txt"
        objects = object_boxes(label, row["width"], row["height"]) if label.is_file() else np.zeros((0, 4))
        cut = [item["grid_mask"] for item in row["proposals"] if item["generator"] == "maskcut"]
        grid, size = masks.unpack(cut, tuple(row["grid"])), (row["width"], row["height"])
        proposals = np.array([masks.bbox(masks.to_image(mask, size)) for mask in grid]).reshape(-1, 4)
        matched.append(bool((box_iou(proposals, objects) >= 0.5).any()))
    print(f"a proposal overlaps with an object in {np.mean(matched):.1%} of {len(matched)} photos")
    assert np.mean(matched) >= 0.52


def rows_of(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_process_counts_and_kills_do_not_change_the_tables(shared_data, checkpoint, tmp_path):
    """200 ImageNet photos with one process, with two, and with two that are killed twice."""
    config = config_of(tmp_path, shared_data / "imagenet_samples", checkpoint, backbone={"image_size": 224})
    one, two, killed = tmp_path / "one", tmp_path / "two", tmp_path / "killed"
    done = hf_relabel("run", "--config", config, "--run.dir", str(one), timeout=600)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((one / "release" / "manifest.json").read_text())
    assert manifest["statistics"]["images"] == 200
    assert manifest["class_names"][0] == "tench"
    assert len(manifest["class_names"]) == 1000
    done = launch(2, "run", "--config", config, "--run.dir", str(two), timeout=600)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(one, two)
    kept: dict[Path, int] = {}
    for shards in (3, 8):  # finished shards at each kill
        kill_when(lambda count=shards: len(finished(killed)) >= count, config, killed)
        assert all(path.stat().st_mtime_ns == written for path, written in kept.items()), "a finished shard was redone"
        kept = {path: path.stat().st_mtime_ns for path in finished(killed)}
        assert len(kept) < 13
    done = launch(2, "run", "--config", config, "--run.dir", str(killed), timeout=600)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items()), "a finished shard was redone"
    assert_equal_runs(one, killed)


def finished(run: Path) -> list[Path]:
    return sorted((run / "proposals").glob("shard-*.parquet"))


def kill_when(ready, config: str, run: Path) -> None:
    """Start two processes in a new process group and kill the group as soon as `ready()`."""
    command = [*launcher(2), "run", "--config", config, "--run.dir", str(run)]
    with open(run.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT | ON_CPU, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def relabeled(folder: Path, images: Path, checkpoint: Path, **settings: str) -> list[dict]:
    """Relabel photos with the default settings; the rows of the release's table of labels, with class names."""
    options = [word for key, value in settings.items() for word in (f"--{key.replace('__', '.')}", value)]
    arguments = ["--source.path", str(images), "--backbone.model", str(checkpoint), "--run.dir", str(folder)]
    done = hf_relabel("run", *arguments, *options, timeout=600)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "release" / "data" / "labels").glob("*.parquet")
    names = json.loads((folder / "release" / "manifest.json").read_text())["class_names"]
    rows = pq.read_table(path).to_pylist()
    return [row | {"label": names[row["label"]], "labels": {names[label] for label in row["labels"]}} for row in rows]


def micro_f1(found: list[set[str]], truth: list[set[str]]) -> float:
    right = sum(len(a & b) for a, b in zip(found, truth, strict=True))
    return 2 * right / (sum(map(len, found)) + sum(map(len, truth)))


@pytest.mark.parametrize("few", [False, True])
def test_labels_of_real_scenes_are_never_worse_than_the_given_ones(shared_data, checkpoint, tmp_path, few):
    """200 photos, or five per class: so few that the labeler is often wrong where it is surest."""
    images = shared_data / "voc" / "images"
    if few:
        for photo in (photo for folder in sorted(images.iterdir()) for photo in sorted(folder.iterdir())[5:10]):
            (tmp_path / "images" / photo.parent.name).mkdir(parents=True, exist_ok=True)
            os.symlink(photo, tmp_path / "images" / photo.parent.name / photo.name)
        images = tmp_path / "images"
    lines = (shared_data / "voc" / "truth.jsonl").read_text().splitlines()
    truth = {row["image_id"]: set(row["labels"]) for row in map(json.loads, lines)}
    rows = relabeled(tmp_path / "run", images, checkpoint, source__limit="200")
    true = [truth[row["image_id"]] for row in rows]
    final = micro_f1([row["labels"] for row in rows], true)
    assert final >= micro_f1([{row["label"]} for row in rows], true)


def test_photos_of_one_object_get_hardly_any_label(shared_data, checkpoint, tmp_path):
    images = shared_data / "imagenette"
    rows = relabeled(tmp_path / "run", images, checkpoint, backbone__image_size="224", run__shard_size="100")
    assert sum(len(row["labels"]) > 1 for row in rows) <= 0.01 * len(rows)
