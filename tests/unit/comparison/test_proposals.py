"""Generators compared on images whose objects are known."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_sam2 import save_tiny_sam2

from hf_relabel.cli import main
from hf_relabel.comparison.generators import Generated
from hf_relabel.comparison.objects import TrueObject, read_objects
from hf_relabel.comparison.proposals import Tally, compare_proposals
from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.sources.source import open_source
from hf_relabel.vision import masks

SIDE = 100


def rectangle(left: int, top: int, right: int, bottom: int) -> masks.RLE:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return masks.encode(mask)


def an_object(label: str, left: int, top: int, right: int, bottom: int) -> TrueObject:
    width, height = right - left, bottom - top
    mask = rectangle(left, top, right, bottom)
    return TrueObject(label, [left, top, width, height], mask, width * height)


def row_of(found: Sequence[masks.RLE], objects: Sequence[TrueObject]) -> dict[str, float]:
    tally = Tally()
    tally.add(Generated(list(found), 0.5), objects, SIDE * SIDE)
    return tally.row()


def test_recall_by_size_and_iou():
    objects = [an_object("cat", 0, 0, 40, 40), an_object("dog", 60, 60, 75, 75), an_object("dog", 90, 0, 96, 6)]
    row = row_of([rectangle(0, 0, 40, 24), rectangle(60, 60, 75, 75)], objects)  # IoU 0.6 and 1
    assert row["recall_0.5"] == pytest.approx(2 / 3)
    assert row["recall_0.75"] == pytest.approx(1 / 3)
    assert (row["recall_0.5_small"], row["recall_0.5_medium"], row["recall_0.5_large"]) == (0, 1, 1)
    assert row["average_best_overlap"] == pytest.approx((0.6 + 1 + 0) / 3)
    assert (row["masks_per_image"], row["seconds_per_image"]) == (2, 0.5)


def test_a_label_is_reached_by_the_union_of_its_objects_or_by_one_of_them():
    two = [an_object("cat", 0, 0, 20, 20), an_object("cat", 20, 0, 40, 20), an_object("dog", 60, 60, 80, 80)]
    union = row_of([rectangle(0, 0, 40, 20)], two)  # an IoU of 0.5 with each
    assert union["label_ceiling"] == 0.5
    assert row_of([rectangle(0, 0, 60, 20)], two)["recall_0.5"] == 0
    assert row_of([rectangle(0, 0, 60, 20)], two)["label_ceiling"] == 0.5
    assert row_of([rectangle(20, 0, 40, 20), rectangle(60, 60, 80, 80)], two)["label_ceiling"] == 1


def test_without_proposals_nothing_is_found_and_without_objects_nothing_is_measured():
    assert row_of([], [an_object("cat", 0, 0, 9, 9)])["recall_0.5"] == 0
    assert np.isnan(row_of([rectangle(0, 0, 9, 9)], [])["recall_0.5"])


def test_objects_without_a_mask_are_compared_by_their_boxes():
    diagonal = np.eye(SIDE, dtype=bool)
    diagonal[30:] = False
    box = TrueObject("cat", [0, 0, 30, 30], None, 900)
    assert row_of([masks.encode(diagonal)], [box])["recall_0.75"] == 1


def test_images_without_known_objects_are_refused(image_folder: Path, tmp_path: Path):
    (tmp_path / "truth.jsonl").write_text('{"image_id": "other.png", "objects": []}\n')
    source = open_source(SourceConfig(path=str(image_folder), labeled=False))
    with pytest.raises(SourceError, match="has no objects of these images"):
        compare_proposals(source, read_objects(str(tmp_path / "truth.jsonl")), {})


@pytest.fixture(scope="module")
def truth(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shapes of `image_folder` are, by brightness."""
    path = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    lines = []
    for file in sorted(image_folder.rglob("*.png")):
        mask = np.asarray(Image.open(file)).max(axis=2) > 150
        item = {"class": file.parent.name, "segmentation": masks.encode(mask)}
        lines.append(json.dumps({"image_id": str(file.relative_to(image_folder)), "objects": [item]}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_the_command_compares_all_generators_and_a_file(
    image_folder: Path, truth: Path, tiny_dinov3: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    perfect = [
        {"file_name": row["image_id"], "segmentation": row["objects"][0]["segmentation"]}
        for row in map(json.loads, truth.read_text().splitlines())
    ]
    (tmp_path / "masks.json").write_text(json.dumps(perfect))
    arguments = ["--images", str(image_folder), "--truth", str(truth), "--sheet", str(tmp_path / "sheet.png")]
    arguments += ["--backbone.model", str(tiny_dinov3), "--backbone.image_size", "64", "--limit", "2"]
    arguments += ["--propose.masks", str(tmp_path / "masks.json"), "--json", str(tmp_path / "found.json")]
    assert main(["compare", "proposals", *arguments, "--sam2", str(save_tiny_sam2(tmp_path / "sam2"))]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert list(rows) == ["maskcut", "merge", "maskcut+merge", "tokencut", "sam2-many", "sam2-few", "file"]
    assert rows["file"]["recall_0.75"] == rows["file"]["label_ceiling"] == 1
    assert rows["file"]["seconds_per_image"] is None
    assert rows["tokencut"]["masks_per_image"] <= 1
    assert rows["maskcut+merge"]["recall_0.5"] >= rows["maskcut"]["recall_0.5"]
    assert rows["maskcut"]["seconds_per_image"] > 0
    assert Image.open(tmp_path / "sheet.png").width > 7 * 240
    printed = capsys.readouterr().out
    assert printed.startswith("2 images, 2 objects (0 small, 0 medium, 2 large), compared by their masks")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "x"], "give the images with --images and their objects with --truth"),
        (["--images", "x", "--truth", "y", "--generators", "maskcutt"], "no generator 'maskcutt'"),
        (["--images", "x", "--truth", "y", "--generators", "none"], "nothing to compare"),
    ],
)
def test_misuse_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert main(["compare", "proposals", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_real_photos_with_yolo_polygons(shared_data: Path, tiny_dinov3: Path, tmp_path: Path):
    """Of the photos, 100 have polygons; the others are not compared."""
    photos = shared_data / "coco_val"
    arguments = ["--images", str(photos / "images"), "--truth", str(photos / "instances"), "--generators", "merge"]
    arguments += [
        "--backbone.model",
        str(tiny_dinov3),
        "--backbone.image_size",
        "64",
        "--json",
        str(tmp_path / "f.json"),
    ]
    assert main(["compare", "proposals", *arguments, "--sheet", str(tmp_path / "sheet.png")]) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["images"] == 100
    assert sum(found["objects"].values()) == 712
    assert not found["by_boxes"]
    row = found["rows"]["merge"]
    assert row["recall_0.5_small"] < row["recall_0.5_large"]
    assert row["recall_0.75"] <= row["recall_0.5"] <= row["label_ceiling"]
