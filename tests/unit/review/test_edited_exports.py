"""Exports that people edited in other tools come back as corrections; an export that nobody touched, as none."""

import json

import numpy as np
import pytest
from release_folder import write_release

from hf_relabel.cli import main
from hf_relabel.formats.coco_export import export_coco
from hf_relabel.formats.fiftyone_folder import export_fiftyone
from hf_relabel.formats.label_studio import export_label_studio
from hf_relabel.release.reader import Release
from hf_relabel.review.corrections import read_corrections

NAMES = ["cat", "dog", "tree", "cow"]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    """Three images with the given label cat, a region of it, and a region of the added label dog that overlaps it."""
    rows = []
    for number in range(3):
        left, right = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
        left[5:30, 5:30], right[10:35, 25 + number : 55] = True, True
        right[:3, :4] = True  # a second part
        rows.append(
            {
                "image_id": f"cats/{number}.jpg",
                "label": 0,
                "labels": [0, 1],
                "scores": [1.0, 0.8],
                "width": 60,
                "height": 40,
                "regions": [{"label": 0, "score": 0.9, "mask": left}, {"label": 1, "score": 0.8, "mask": right}],
            }
        )
    return Release.open(write_release(tmp_path_factory.mktemp("edited") / "release", NAMES, rows))


def taken(release, path, folder) -> set:
    """The corrections that the command makes of an edited file."""
    assert main(["review", str(release.folder), "--edited", str(path), "--corrections", str(folder)]) == 0
    found = read_corrections(folder / "corrections.jsonl") if (folder / "corrections.jsonl").exists() else []
    return {(item.image, item.label or item.region, item.old, item.new) for item in found}


def as_a_tool_writes(value: dict) -> dict:
    """COCO as many tools write it: only COCO's own fields, other ids, file names without folders."""
    images = [
        {"id": f"x{image['id']}", "file_name": image["file_name"].rpartition("/")[2], "width": image["width"],
         "height": image["height"]}
        for image in value["images"]
    ]  # fmt: skip
    categories = [{"id": 70 - item["id"], "name": item["name"]} for item in value["categories"]]
    annotations = [
        {"id": 100 + item["id"], "image_id": f"x{item['image_id']}", "category_id": 70 - item["category_id"],
         "segmentation": item["segmentation"], "bbox": item["bbox"], "iscrowd": 0}
        for item in value["annotations"]
    ]  # fmt: skip
    return {"images": images, "categories": categories, "annotations": annotations}


EXPECTED = {
    ("cats/0.jpg", "cats/0.jpg#1", "dog", "cow"),  # renamed: the dog is gone
    ("cats/0.jpg", "dog", True, False),
    ("cats/1.jpg", "cats/1.jpg#1", "dog", None),  # removed
    ("cats/1.jpg", "dog", True, False),
    ("cats/2.jpg", "tree", False, True),  # a new region
}


def edit(value: dict) -> dict:
    """The first image's dog becomes a cow, the second's dog is removed, the third gets a tree."""
    category = {item["name"]: item["id"] for item in value["categories"]}
    image = {item["file_name"][-5:]: item["id"] for item in value["images"]}
    kept = []
    for item in value["annotations"]:
        is_dog = item["category_id"] == category["dog"]
        if is_dog and item["image_id"] == image["1.jpg"]:
            continue
        if is_dog and item["image_id"] == image["0.jpg"]:
            item = item | {"category_id": category["cow"]}
        kept.append(item)
    box = [[40.0, 0.0, 58.0, 0.0, 58.0, 8.0, 40.0, 8.0]]
    kept.append({"id": 999, "image_id": image["2.jpg"], "category_id": category["tree"], "segmentation": box,
                 "bbox": [40, 0, 18, 8], "iscrowd": 0})  # fmt: skip
    return value | {"annotations": kept}


@pytest.mark.parametrize("tool", [dict, as_a_tool_writes], ids=["as exported", "other fields dropped"])
@pytest.mark.parametrize("masks", ["rle", "polygons"])
def test_coco_round_trip(release, tmp_path, tool, masks):
    export_coco(release, tmp_path / "export.json", masks=masks)
    value = tool(json.loads((tmp_path / "export.json").read_text()))
    (tmp_path / "same.json").write_text(json.dumps(value))
    assert taken(release, tmp_path / "same.json", tmp_path / "same") == set()
    (tmp_path / "edited.json").write_text(json.dumps(edit(value)))
    assert taken(release, tmp_path / "edited.json", tmp_path / "edited") == EXPECTED


def test_fiftyone_round_trip(release, tmp_path, capsys):
    export_fiftyone(release, tmp_path / "folder")
    labels = tmp_path / "folder" / "labels.json"
    assert taken(release, tmp_path / "folder", tmp_path / "same") == set()
    labels.write_text(json.dumps(edit(json.loads(labels.read_text()))))
    assert taken(release, tmp_path / "folder", tmp_path / "edited") == EXPECTED
    assert "1 new regions: only their class is taken, as a label" in capsys.readouterr().out


def test_image_labels_that_were_edited_in_fiftyone(release, tmp_path, capsys):
    """FiftyOne drops the labels that COCO has no field for, and writes names, as here, or objects, as we do."""
    export_fiftyone(release, tmp_path / "folder")
    regions, labels = tmp_path / "folder" / "labels.json", tmp_path / "folder" / "image_labels.json"
    value = json.loads(regions.read_text())
    for image in value["images"]:
        del image["category_ids"]
    regions.write_text(json.dumps(value))
    assert taken(release, tmp_path / "folder", tmp_path / "same") == set()
    new = {"cats/0": ["cat", "tree"], "cats/1": None, "cats/2": ["dog", "cat", "zebra"]}
    labels.write_text(json.dumps({"classes": None, "labels": new}))
    expected = {("cats/0.jpg", "dog", True, False), ("cats/0.jpg", "tree", False, True)}
    assert taken(release, tmp_path / "folder", tmp_path / "edited") == expected
    assert "1 labels of classes that the release does not have are left out" in capsys.readouterr().out
    labels.write_text(json.dumps({"classes": NAMES, "labels": {"cats/0": [9]}}))
    assert main(["review", str(release.folder), "--edited", str(tmp_path / "folder")]) == 1
    assert "image_labels.json: damaged" in capsys.readouterr().err


def test_image_labels_that_were_edited_in_coco(release, tmp_path):
    export_coco(release, tmp_path / "export.json")
    value = json.loads((tmp_path / "export.json").read_text())
    value["images"][0]["category_ids"] = [1, 3]  # cat and tree instead of cat and dog
    (tmp_path / "edited.json").write_text(json.dumps(value))
    assert taken(release, tmp_path / "edited.json", tmp_path) == {
        ("cats/0.jpg", "dog", True, False),
        ("cats/0.jpg", "tree", False, True),
    }


@pytest.mark.parametrize("masks", ["brush", "polygons"])
def test_label_studio_round_trip(release, tmp_path, masks):
    export_label_studio(release, tmp_path / "folder", image_root="/", masks=masks)
    tasks = json.loads((tmp_path / "folder" / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        results = [item | {"id": f"new{place}"} for place, item in enumerate(task["predictions"][0]["result"])]
        task["annotations"] = [{"result": results, "completed_by": {"email": "ada@example.org"},
                                "updated_at": f"2026-01-0{number + 1}T00:00:00Z"}]  # fmt: skip
    path = tmp_path / "project.json"
    path.write_text(json.dumps(tasks))
    assert taken(release, path, tmp_path / "same") == set()
    tasks[2]["annotations"] = []  # not done yet
    for item in tasks[0]["annotations"][0]["result"]:
        value = item["value"]
        key = {"brushlabels": "brushlabels", "polygonlabels": "polygonlabels"}.get(item["type"])
        if key and value[key] == ["dog"]:
            value[key] = ["cow"]
        elif item["type"] == "choices":
            value["choices"] = ["cat", "cow"]
    choices = tasks[1]["annotations"][0]["result"][0]
    choices["value"]["choices"] = ["cat", "dog", "tree"]
    path.write_text(json.dumps(tasks))
    assert taken(release, path, tmp_path / "edited") == {
        ("cats/0.jpg", "cats/0.jpg#1", "dog", "cow"),
        ("cats/0.jpg", "dog", True, False),
        ("cats/1.jpg", "tree", False, True),
    }
    (first, *_) = read_corrections(tmp_path / "edited" / "corrections.jsonl")
    assert (first.who, first.when) == ("ada@example.org", "2026-01-01T00:00:00Z")


def test_files_that_are_no_edited_exports(release, tmp_path, capsys):
    def error_of(text: str) -> str:
        (tmp_path / "file.json").write_text(text)
        assert main(["review", str(release.folder), "--edited", str(tmp_path / "file.json")]) == 1
        return capsys.readouterr().err

    assert "lists no images" in error_of("{}")
    assert "task 1 is damaged" in error_of('[{"annotations": [{"result": [{}]}]}]')
    image = {"id": 1, "file_name": "other.jpg", "width": 1, "height": 1}
    coco = json.dumps({"images": [image], "annotations": [], "categories": []})
    assert "has no image of" in error_of(coco)
    brush = {"type": "brushlabels", "original_width": 60, "original_height": 40,
             "value": {"rle": [0, 0], "brushlabels": ["cat"]}}  # fmt: skip
    task = {"data": {"image_id": "cats/0.jpg"}, "annotations": [{"result": [brush]}]}
    assert "a brush mask ends too early" in error_of(json.dumps([task]))
