"""The whole pipeline by its commands, on generated images and tiny random models."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import ENVIRONMENT, assert_equal_runs, config_of, error_line, hf_relabel, launch
from PIL import Image
from pycocotools import mask as coco

READ_RELEASE = """
import json, sys
from datasets import load_dataset
folder = sys.argv[1]
labels = load_dataset(folder, split="train")
regions = load_dataset(folder, "regions", split="train")
print(json.dumps({
    "columns": [labels.column_names, regions.column_names],
    "names": labels.features["label"].names,
    "labels": labels.to_list(),
    "regions": regions.to_list(),
}))
"""


def read_release(folder: Path, cache: Path) -> dict:
    """A release as a fresh process loads it with `load_dataset`."""
    environment = ENVIRONMENT | {"HF_HOME": str(cache)}
    command = [sys.executable, "-c", READ_RELEASE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_release_loads_and_its_masks_decode(finished_run, image_folder, tmp_path):
    run, output = finished_run
    assert "propose: " in output
    assert "build: " in output
    read = read_release(run / "release", tmp_path)
    assert read["columns"][0] == ["image_id", "label", "labels", "scores", "label_score", "version"]
    images = sorted(str(path.relative_to(image_folder)) for path in image_folder.rglob("*.*") if path.is_file())
    assert [row["image_id"] for row in read["labels"]] == images
    assert read["names"] == sorted(path.name for path in image_folder.iterdir())
    regions = [region for row in read["regions"] for region in row["regions"]]
    assert regions
    for row in read["regions"]:
        assert row["label"] in row["labels"]
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert read["names"][row["label"]] == row["image_id"].split("/")[0]
        for region in row["regions"]:
            rle = region["segmentation"]
            assert rle["size"] == [row["height"], row["width"]]
            assert int(coco.area(rle)) == region["area"] > 0
            assert coco.toBbox(rle).tolist() == region["bbox"]
            assert region["label"] in region["top_labels"]
            assert region["generator"] in ("maskcut", "merge")
        assert set(row["labels"]) - {row["label"]} <= {region["label"] for region in row["regions"]}
    assert {region["generator"] for region in regions} == {"maskcut", "merge"}
    assert any(len(row["labels"]) > 1 for row in read["labels"])


def test_the_manifest_says_what_was_done(finished_run):
    run, _ = finished_run
    manifest = json.loads((run / "release" / "manifest.json").read_text())
    assert manifest["statistics"]["images"] == len(pq.read_table(run / "release" / "data" / "labels"))
    provenance = manifest["provenance"]
    assert provenance["config"]["propose"]["tau"] == 0.3
    assert provenance["backbone"]["weights_sha256"]
    assert provenance["packages"]["torch"]
    assert provenance["counters"]["score"]["images with a region that trains as a class"] > 0
    assert provenance["labeler"]["training"]["head"] == "mlp"
    text = (run / "release" / "manifest.json").read_text()
    assert str(run.parent) not in text  # no folder of this machine is published


@pytest.mark.slow
def test_a_second_run_does_nothing_and_says_the_same(finished_run):
    run, _ = finished_run
    touched = ("config.yaml", "source.json")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name not in touched}
    assert hf_relabel("run", "--config", str(run / "config.yaml")).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_changes_nothing(finished_run, image_folder, tiny_dinov3, tmp_path, processes):
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    done = launch(processes, "run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert_equal_runs(finished_run[0], tmp_path / "run")


@pytest.mark.slow
def test_batch_size_threads_and_workers_change_nothing(finished_run, image_folder, tiny_dinov3, tmp_path):
    config = config_of(tmp_path, image_folder, tiny_dinov3, run={"batch_size": 3, "threads": 3, "workers": 2})
    done = hf_relabel("run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert_equal_runs(finished_run[0], tmp_path / "run")


@pytest.mark.slow
def test_stage_by_stage_is_the_same_as_run(finished_run, image_folder, tiny_dinov3, tmp_path):
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    for stage in ("propose", "score", "train", "label", "build"):
        done = hf_relabel(stage, "--config", config, "--run.dir", str(tmp_path / "run"))
        assert done.returncode == 0, done.stderr
    assert_equal_runs(finished_run[0], tmp_path / "run")


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(finished_run, image_folder, tiny_dinov3, tmp_path):
    """SIGKILL at the first sign of each step, then the same command: equal tables, finished shards never redone."""
    run = tmp_path / "run"
    config = config_of(tmp_path, image_folder, tiny_dinov3, train={"epochs": 3})
    command = [sys.executable, "-m", "hf_relabel", "run", "--config", config, "--run.dir", str(run)]
    steps = ["proposals/*.claim", "proposals/shard-00001.*", "scores/*", "labeler/*", "regions/*", ".release*/*"]
    kept: dict[Path, int] = {}
    for step in steps:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 120
        while process.poll() is None and not list(run.glob(step)) and time.monotonic() < give_up:
            time.sleep(0.001)
        process.kill()
        process.wait(60)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept, f"a finished shard was made again ({step})"
        kept = {path: path.stat().st_mtime_ns for path in run.rglob("shard-*.parquet")}
        assert step.startswith(".release") or not (run / "release").exists(), f"not killed in time ({step})"
    assert len(kept) == 9  # 3 shards of proposals, scores and regions
    done = hf_relabel("run", "--config", config, "--run.dir", str(run))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_equal_runs(finished_run[0], run)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_alone(finished_run, image_folder, tiny_dinov3, tmp_path):
    """Two ranks started by hand, as on two machines; one is killed and never comes back, then both work is there."""
    run = tmp_path / "run"
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    command = [sys.executable, "-m", "hf_relabel", "run", "--config", config, "--run.dir", str(run)]

    def start(rank: int) -> subprocess.Popen:
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        log = open(tmp_path / f"rank-{rank}.log", "w")  # noqa: SIM115 - the process's, closed with the test
        started.append(subprocess.Popen(command, env=ENVIRONMENT | place, stdout=log, stderr=log))
        return started[-1]

    started: list[subprocess.Popen] = []
    try:
        main, other = start(0), start(1)
        give_up = time.monotonic() + 120
        while not list(run.glob("proposals/shard-*.claim")) and main.poll() is None and time.monotonic() < give_up:
            time.sleep(0.01)
        other.kill()
        other.wait(60)
        again = start(1)
        assert main.wait(timeout=120) == 0, (tmp_path / "rank-0.log").read_text()
        assert again.wait(timeout=120) == 0, (tmp_path / "rank-1.log").read_text()
    finally:
        for process in started:
            process.kill()
    assert_equal_runs(finished_run[0], run)


@pytest.mark.slow
def test_dinov2_key_features_and_another_precision(image_folder, tiny_dinov2, tmp_path):
    config = config_of(
        tmp_path,
        image_folder,
        tiny_dinov2,
        backbone={"proposal_feature": {"kind": "query", "block": -2}, "dtype": "bfloat16"},
        train={"head": "linear"},
        build={"include_original": False, "include_global": True, "threshold": 0.0},
        propose={"views": 0},
    )
    done = hf_relabel("run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "run" / "release" / "data" / "labels").to_pylist()
    assert all(row["labels"] for row in rows)


@pytest.mark.slow
def test_a_datasets_dataset_is_a_source_too(image_folder, tiny_dinov3, tmp_path):
    code = (  # save_to_disk takes the files' bytes along; to_parquet would leave their paths, which are refused
        "import sys; from datasets import load_dataset; "
        "load_dataset('imagefolder', data_dir=sys.argv[1], split='train').save_to_disk(sys.argv[2])"
    )
    environment = ENVIRONMENT | {"HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(image_folder), str(tmp_path / "data")]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    source = {"kind": "dataset", "path": str(tmp_path / "data")}
    config = config_of(tmp_path, image_folder, tiny_dinov3, source=source)
    done = hf_relabel("run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "run" / "release" / "data" / "labels").to_pylist()
    assert len(rows) == sum(path.is_file() for path in image_folder.rglob("*.*"))


@pytest.mark.slow
def test_an_unreadable_image_is_left_out_with_its_reason(image_folder, tiny_dinov3, tmp_path):
    images = shutil.copytree(image_folder, tmp_path / "images")
    first = sorted(path for path in images.rglob("*.*") if path.is_file())[0]
    first.write_bytes(b"not an image")
    config = config_of(tmp_path, images, tiny_dinov3, run={"max_error_rate": 0.2})
    done = hf_relabel("run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    excluded = [json.loads(line) for line in (tmp_path / "run/release/excluded.jsonl").read_text().splitlines()]
    assert [item["image_id"] for item in excluded] == [str(first.relative_to(images))]
    assert excluded[0]["reason"]
    assert "unreadable" in done.stdout
    strict = config_of(tmp_path, images, tiny_dinov3, "strict.yaml", run={"max_error_rate": 0.0})
    line = error_line(hf_relabel("run", "--config", strict, "--run.dir", str(tmp_path / "strict")), 1)
    assert "run.max_error_rate" in line


@pytest.mark.slow
def test_label_maps_score_real_proposals(finished_run, image_folder, tiny_dinov3, tmp_path):
    """ReLabel files for the images of the finished run: every region shows its label, and all of MaskCut's are kept."""
    import torch

    run = shutil.copytree(finished_run[0], tmp_path / "run")
    names = sorted(path.name for path in image_folder.iterdir())
    for path in image_folder.rglob("*.*"):
        if path.is_file():
            label_map = torch.zeros(2, 5, 15, 15)
            label_map[0, 0] = 9.0
            label_map[1] = (torch.arange(5) % len(names))[:, None, None]
            label_map[1, 0] = names.index(path.parent.name)
            target = (tmp_path / "maps" / path.relative_to(image_folder)).with_suffix(".pt")
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(label_map, target)
    config = config_of(
        tmp_path, image_folder, tiny_dinov3,
        score={"method": "label_map", "label_maps": str(tmp_path / "maps"), "keep": "original"},
        run={"overwrite": True, "dir": str(run)},
    )  # fmt: skip
    done = hf_relabel("score", "--config", config)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((run / "scores" / "manifest.json").read_text())
    proposals = json.loads((run / "proposals" / "manifest.json").read_text())
    kept = manifest["counters"]["proposals that train as class: kept by its label map"]
    assert kept == proposals["counters"]["proposals by maskcut"] > 0


def test_a_run_ends_with_pictures_and_the_next_commands(finished_run):
    run, output = finished_run
    with Image.open(run / "overlays" / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 1000  # 12 images in 3 rows
    assert len(list((run / "overlays").glob("*.jpg"))) == 12
    for text in (str(run / "release"), str(run / "overlays" / "sheet.png"), f"--config {run / 'config.yaml'}"):
        assert text in output


@pytest.mark.slow
def test_a_run_whose_images_cannot_be_read_says_why_there_are_no_pictures(finished_run, image_folder, tmp_path):
    run, images = shutil.copytree(finished_run[0], tmp_path / "run"), shutil.copytree(image_folder, tmp_path / "images")
    shutil.rmtree(run / "overlays")
    for path in images.rglob("*.png"):  # damaged without a trace in size and time: the stages have no reason to run
        found = path.stat()
        path.write_bytes(b"0" * found.st_size)
        os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
    config = str(run / "config.yaml")
    done = hf_relabel("run", "--config", config, "--source.path", str(images), "--run.dir", str(run))
    assert done.returncode == 0, done.stderr
    assert "pictures: not drawn (" in done.stdout
    assert not (run / "overlays" / "sheet.png").exists()


@pytest.mark.slow
def test_two_runs_in_one_process(image_folder, tiny_dinov3, finished_run, tmp_path):
    """As in a notebook: each call is the main process of its own run, whatever the one before left behind."""
    code = "import sys; from hf_relabel.cli import main; sys.exit(max(main(line.split()) for line in sys.argv[1:]))"
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    commands = [f"run --config {config} --run.dir {tmp_path / name}" for name in ("one", "two")]
    done = subprocess.run(
        [sys.executable, "-c", code, *commands],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pictures: ") == 2
    for name in ("one", "two"):
        assert_equal_runs(finished_run[0], tmp_path / name)


def test_relabeling_needs_no_write_access_outside_its_folder(finished_run):
    run, _ = finished_run
    assert {path.name for path in run.iterdir() if not path.name.startswith("source-")} == {
        "config.yaml", "labeler", "overlays", "proposals", "regions", "release", "scores", "source.json",
    }  # fmt: skip
    assert not [path for path in run.rglob("*") if path.name.startswith(".") or path.suffix == ".claim"]
    assert os.access(run, os.W_OK)
