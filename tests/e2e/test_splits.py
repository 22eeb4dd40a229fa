"""Several splits in one release: by one run, by adding one to a release, on the Hub; loaded by a fresh process."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import ENVIRONMENT, config_of

from hf_relabel.cli import main
from hf_relabel.hub.card import CardOptions, render_card
from hf_relabel.release.reader import Release
from hf_relabel.release.writer import write_release

LOAD = """
import json, sys
from datasets import load_dataset
folder = sys.argv[1]
found = {}
for name in ("labels", "regions"):
    every = load_dataset(folder, name)
    found[name] = {split: list(data["image_id"]) for split, data in every.items()}
    for split in every:
        assert load_dataset(folder, name, split=split).to_list() == every[split].to_list()
print(json.dumps(found))
"""


def loaded(folder: Path, cache: Path) -> dict:
    """The image ids of a release by configuration and split, as a fresh process loads them."""
    environment = ENVIRONMENT | {"HF_HOME": str(cache)}
    command = [sys.executable, "-c", LOAD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def images(tmp_path_factory, image_folder) -> Path:
    """`train/` and `val/`, which share one file name."""
    root = tmp_path_factory.mktemp("splits")
    for path in sorted(image_folder.rglob("*.png")):
        split = "val" if path.stem.endswith("_3") else "train"
        target = root / split / path.relative_to(image_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(root / "train/square/square_1.png", root / "val/square/square_1.png")
    return root


@pytest.fixture(scope="module")
def both(tmp_path_factory, images, tiny_dinov3) -> Path:
    """One run on both splits."""
    folder = tmp_path_factory.mktemp("both")
    config = config_of(folder, images, tiny_dinov3, run={"shard_size": 4})
    assert main(["run", "--config", config, "--source.split", "[train, validation]", "--run.dir", f"{folder}/r"]) == 0
    return folder / "r"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, images, tiny_dinov3) -> Path:
    """A run on the first split."""
    folder = tmp_path_factory.mktemp("alone")
    config = config_of(folder, images / "train", tiny_dinov3, run={"shard_size": 4})
    assert main(["run", "--config", config, "--run.dir", f"{folder}/r", "--build.name", "r"]) == 0
    return folder / "r"


TRAIN = [f"{name}/{name}_{k}.png" for name in ("circle", "square", "triangle") for k in range(3)]
VALIDATION = [
    "validation/circle/circle_3.png",
    "validation/square/square_1.png",
    "validation/square/square_3.png",
    "validation/triangle/triangle_3.png",
]


def rows_of(release: Release, split: str) -> list[dict]:
    return [{**row, "version": None} for row in release.only(split).rows("regions")]


def test_a_fresh_process_loads_every_split(both, tmp_path):
    found = loaded(both / "release", tmp_path)
    assert found["labels"] == found["regions"] == {"train": TRAIN, "validation": VALIDATION}
    assert (both / "overlays" / "sheet.png").exists()


def test_the_first_split_is_as_if_it_were_alone(both, alone):
    """The labeler is trained and calibrated on it only, so its table has the same bytes."""
    one, other = Release.open(alone / "release"), Release.open(both / "release").only("train")
    assert [file.sha256 for file in one.files_of("regions")] == [file.sha256 for file in other.files_of("regions")]
    weights = [(run / "labeler" / "model.safetensors").read_bytes() for run in (alone, both)]
    assert weights[0] == weights[1]
    assert len(list((both / "scores").glob("*.parquet"))) == 3
    assert len(list((both / "proposals").glob("*.parquet"))) == 4  # a shard has images of one split


def test_a_split_is_added_to_a_release(both, alone, images, tmp_path, capsys):
    """A second run labels it with the first one's labeler; the result is what one run makes of both."""
    run = tmp_path / "run"
    arguments = ["--labeler", str(alone), "--source.path", f"{images}/val", "--source.split", "validation"]
    build = ["--build.calibrated", "false", "--build.threshold", "0.2", "--build.base", f"{alone}/release"]
    assert main(["run", *arguments, "--run.dir", str(run), *build]) == 2
    assert "--build.version 1.1.0" in capsys.readouterr().err
    assert main(["build", "--config", f"{run}/config.yaml", *build, "--build.version", "1.1.0"]) == 0
    release, expected = Release.open(run / "release"), Release.open(both / "release")
    assert release.splits == ["train", "validation"]
    assert (release.name, release.version) == ("r", "1.1.0")
    for split in release.splits:
        assert rows_of(release, split) == rows_of(expected, split)
    assert set(release.provenance["carried"]) == {"train"}
    card = render_card(release, "user/name", CardOptions())
    assert "`train` from 1.0.0 (`carried` in `provenance.json`" in card
    assert "The labeler was trained on `train`" in card
    assert str(tmp_path) not in (run / "release" / "manifest.json").read_text()
    assert pq.read_table(run / "release" / "data" / "labels")["version"].unique().to_pylist() == ["1.1.0"]
    capsys.readouterr()
    assert main(["run", "--config", f"{run}/config.yaml", *build, "--build.version", "1.1.0"]) == 0
    assert f"pictures: {run}/overlays/sheet.png" in capsys.readouterr().out  # of the run's own images
    # The run's own split again, with another threshold: the split from the first run stays.
    assert main(["build", "--config", f"{run}/config.yaml", "--build.base", f"{run}/release", "--build.version",
                 "1.2.0", "--build.threshold", "0.9"]) == 0  # fmt: skip
    again = Release.open(run / "release")
    assert again.splits == ["train", "validation"]
    assert rows_of(again, "train") == rows_of(expected, "train")


def test_images_left_out_are_listed_with_their_split(images, alone, tmp_path):
    """By one run on two splits, and where one is added to a release; ids are those that the images would have."""
    photos = tmp_path / "photos"
    shutil.copytree(images, photos)
    for split in ("train", "val"):
        (photos / split / "circle" / "broken.png").write_text("no image")
    start = ["--run.max_error_rate", "0.5", "--labeler", str(alone)]
    split = ["--source.split", "[train, validation]"]
    assert main(["run", *start, "--source.path", str(photos), *split, "--run.dir", f"{tmp_path}/both"]) == 0
    for part, name in (("train", "train"), ("val", "validation")):
        place = ["--source.path", str(photos / part), "--source.split", name, "--run.dir", f"{tmp_path}/{part}"]
        base = ["--build.base", f"{tmp_path}/train/release", "--build.version", "1.1.0"] if part == "val" else []
        assert main(["run", *start, *place, *base]) == 0

    def left_out(run: str) -> list[tuple[str, str | None]]:
        rows = map(json.loads, (tmp_path / run / "release" / "excluded.jsonl").read_text().splitlines())
        return [(row["image_id"], row.get("split")) for row in rows]

    expected = [("circle/broken.png", "train"), ("validation/circle/broken.png", "validation")]
    assert left_out("train") == [("circle/broken.png", None)]
    assert left_out("both") == left_out("val") == expected
    assert main(["export", "coco", f"{tmp_path}/both/release", f"{tmp_path}/x.json", "--split", "validation"]) == 0
    exported = json.loads((tmp_path / "x.json").read_text())["excluded"]
    assert [row["image_id"] for row in exported] == ["validation/circle/broken.png"]


def test_diff_export_and_audit_know_splits(both, alone, tmp_path, capsys):
    assert main(["diff", f"{alone}/release", f"{both}/release"]) == 0
    output = capsys.readouterr().out
    assert "splits added: validation" in output
    assert "images added" in output
    assert "validation/circle/circle_3.png" in output
    assert main(["export", "coco", f"{both}/release", f"{tmp_path}/all.json"]) == 1
    assert "train, validation" in capsys.readouterr().err
    assert main(["export", "coco", f"{both}/release", f"{tmp_path}/val.json", "--split", "validation"]) == 0
    written = json.loads((tmp_path / "val.json").read_text())
    assert [image["file_name"] for image in written["images"]] == VALIDATION


def test_a_run_resumes_and_refuses_changes(both, images, tmp_path, capsys):
    """The same command finds everything done; a changed validation image is noticed."""
    assert main(["run", "--config", f"{both}/config.yaml"]) == 0
    changed = tmp_path / "images"
    shutil.copytree(images, changed)
    (changed / "val/circle/circle_3.png").write_bytes((changed / "train/circle/circle_0.png").read_bytes())
    assert main(["propose", "--config", f"{both}/config.yaml", "--source.path", str(changed)]) == 1
    assert "source has changed" in capsys.readouterr().err


@pytest.mark.slow
def test_two_halves_of_real_photos(shared_data, tiny_dinov3, tmp_path):
    source = shared_data / "voc" / "images"
    halves: dict[str, list[str]] = {"train": [], "val": []}
    for number, path in enumerate(sorted(source.rglob("*.jpg"))):
        half = "val" if number % 2 else "train"
        halves[half].append(path.relative_to(source).as_posix())
        target = tmp_path / "photos" / half / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    config = config_of(tmp_path, tmp_path / "photos", tiny_dinov3, run={"shard_size": 64})
    arguments = ["--source.split", "[train, validation]", "--source.limit", "100", "--run.dir", f"{tmp_path}/r"]
    assert main(["run", "--config", config, *arguments]) == 0
    found = loaded(tmp_path / "r" / "release", tmp_path / "cache")
    expected = {"train": sorted(halves["train"])[:100], "validation": sorted(halves["val"])[:100]}
    assert found["labels"] == found["regions"] == expected


def test_an_empty_split_is_refused(tmp_path):
    from hf_relabel.errors import ReleaseError

    with pytest.raises(ReleaseError, match="no image to release"):
        write_release(
            tmp_path / "r", {"train": [], "test": []}, class_names=["a"], version="1.0.0", name="x", provenance={}
        )
