"""The folder for YOLO: names, lines and scores that belong together."""

import csv

import pyarrow as pa
import pytest
import yaml
from releases import CLASSES, make_release, make_rows

from hf_relabel.cli import main
from hf_relabel.errors import FormatError
from hf_relabel.formats.yolo_folder import export_yolo
from hf_relabel.release.writer import write_release
from hf_relabel.schema import release_schema
from hf_relabel.vision import masks


def test_files_lines_and_scores_belong_together(tmp_path):
    release = make_release(tmp_path / "release", images=12)
    exported = export_yolo(release, tmp_path / "yolo")
    data = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())
    assert data["names"] == release.class_names
    rows = {row["image_id"]: row for row in release.rows("regions")}
    folder = tmp_path / "yolo/labels/train"
    files = {f"labels/train/{path.name}": path.read_text().splitlines() for path in folder.iterdir()}
    assert len(files) == len(rows) == exported.images
    with open(tmp_path / "yolo/regions.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == exported.regions == sum(map(len, files.values())) > 5
    for entry in listed:
        row = rows[entry["image_id"]]
        region = row["regions"][int(entry["line"]) - 1]
        label, *numbers = files[entry["file"]][int(entry["line"]) - 1].split()
        assert data["names"][int(label)] == entry["class"] == release.class_names[region["label"]]
        assert float(entry["score"]) == pytest.approx(region["score"], rel=1e-5)
        expected = dict(zip(row["labels"], row["scores"], strict=True)).get(region["label"])
        assert (float(entry["label_probability"]) if entry["label_probability"] else None) == pytest.approx(expected)
        x, y = [float(n) for n in numbers[0::2]], [float(n) for n in numbers[1::2]]
        left, top, _, height = masks.bbox(masks.decode(region["segmentation"]))
        assert min(x) * row["width"] == pytest.approx(left, abs=1e-3)
        assert max(y) * row["height"] == pytest.approx(top + height, abs=1e-3)
    with open(tmp_path / "yolo/labels.csv", newline="") as file:
        labels = list(csv.DictReader(file))
    assert len(labels) == exported.labels
    assert sum(int(entry["is_original"]) for entry in labels) == len(rows)


def test_every_split_has_its_folders(tmp_path):
    names = release_schema("regions", CLASSES)
    rows = {"train": list(make_rows(6)), "validation": [row | {"label": None} for row in make_rows(4, seed=1)]}
    tables = {
        split: [pa.Table.from_pylist(sorted(part, key=lambda row: row["image_id"]), schema=names)]
        for split, part in rows.items()
    }
    settings = {"class_names": CLASSES, "version": "1.0.0", "name": "Two", "provenance": {}}
    write_release(tmp_path / "release", tables, **settings)
    command = ["export", "yolo", str(tmp_path / "release"), str(tmp_path / "yolo")]
    assert main(command) == 0
    data = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())
    assert (data["train"], data["val"]) == ("images/train", "images/validation")
    counts = {split: len(list((tmp_path / "yolo/labels" / split).iterdir())) for split in rows}
    assert counts == {"train": 6, "validation": 4}
    assert main([*command, "--overwrite", "--split", "validation"]) == 0
    assert [path.name for path in (tmp_path / "yolo/labels").iterdir()] == ["validation"]
    tasks = ["export", "label-studio", str(tmp_path / "release"), str(tmp_path / "tasks"), "--split", "validation"]
    assert main(tasks) == 0
    assert '"original_label": null' in (tmp_path / "tasks/tasks.json").read_text()


def test_images_with_one_name_are_refused(tmp_path):
    rows = list(make_rows(2))
    rows[0]["image_id"], rows[1]["image_id"] = "a/x.png", "a__x.jpg"
    release = make_release(tmp_path / "release", rows=rows)
    with pytest.raises(FormatError, match=r"'a/x\.png' and 'a__x\.jpg' would both have the labels a__x\.txt"):
        export_yolo(release, tmp_path / "yolo")
    assert not (tmp_path / "yolo").exists()
