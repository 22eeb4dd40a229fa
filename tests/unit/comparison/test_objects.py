"""Reading true objects from the three accepted forms."""

import json
from pathlib import Path

import numpy as np
import pytest

from hf_relabel.comparison.objects import CROWD, EMPTY, read_objects
from hf_relabel.errors import FormatError
from hf_relabel.vision import masks

SQUARE = [10.0, 20.0, 40.0, 20.0, 40.0, 60.0, 10.0, 60.0]


def test_jsonl_with_masks_as_the_demo_writes_it(tmp_path: Path):
    mask = np.zeros((80, 100), bool)
    mask[20:60, 10:40] = True
    row = {"image_id": "cat/a.jpg", "objects": [{"class": "cat", "segmentation": masks.encode(mask)}]}
    (tmp_path / "truth.jsonl").write_text(json.dumps(row) + "\n")
    objects = read_objects(str(tmp_path / "truth.jsonl"))
    assert objects.has("cat/a.jpg")
    assert not objects.has("a.jpg")
    (one,) = objects.of("cat/a.jpg", 100, 80)
    assert (one.label, one.box, one.area) == ("cat", [10, 20, 30, 40], 1200)
    with pytest.raises(FormatError, match=r"an object of cat/a.jpg has size \[80, 100\]"):
        objects.of("cat/a.jpg", 50, 40)


def test_coco_leaves_out_crowds_and_polygons_without_area(tmp_path: Path):
    annotation = {"image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 40]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "categories": [{"id": 7, "name": "dog"}],
        "annotations": [
            {**annotation, "id": 1, "segmentation": [SQUARE]},
            {**annotation, "id": 2, "segmentation": {"size": [80, 100], "counts": [8000]}, "iscrowd": 1},
            {**annotation, "id": 3, "segmentation": [], "bbox": [0, 0, 0, 0]},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    objects = read_objects(str(tmp_path / "instances.json"))
    (one,) = objects.of("a.jpg", 100, 80)
    assert (one.label, one.box) == ("dog", [10, 20, 30, 40])
    assert one.mask is not None
    assert objects.left_out == {CROWD: 1, EMPTY: 1}


def test_yolo_boxes_and_polygons_are_relative_and_found_by_name(tmp_path: Path):
    relative = (np.array(SQUARE).reshape(-1, 2) / (100, 80)).ravel()
    (tmp_path / "a.txt").write_text(f"3 {' '.join(map(str, relative))}\n5 0.25 0.5 0.3 0.5\n")
    objects = read_objects(str(tmp_path))
    polygon, box = objects.of("folder/a.jpg", 100, 80)
    assert (polygon.label, polygon.area) == ("3", 1200)
    assert box.mask is None
    assert box.box == pytest.approx([10, 20, 30, 40])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "3 0.1 0.2 x 0.4\n", "a.txt, line 1: needs a class and a box or a polygon"),
        ("truth.jsonl", '{"image_id": "a"}\n', "each line needs image_id and objects"),
        ("truth.csv", "a,b\n", "must be a .jsonl file"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=message):
        read_objects(str(tmp_path if name.endswith(".txt") else tmp_path / name))


def test_a_folder_without_files_is_refused(tmp_path: Path):
    with pytest.raises(FormatError, match=r"no .txt file"):
        read_objects(str(tmp_path))
