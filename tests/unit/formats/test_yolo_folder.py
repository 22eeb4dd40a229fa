"""The folder for YOLO: names, lines and scores that belong together."""

import csv

import pytest
import yaml
from releases import make_release, make_rows

from hf_relabel.errors import FormatError
from hf_relabel.formats.yolo_folder import export_yolo
from hf_relabel.vision import masks


def test_files_lines_and_scores_belong_together(tmp_path):
    release = make_release(tmp_path / "release", images=12)
    exported = export_yolo(release, tmp_path / "yolo")
    data = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())
    assert data["names"] == release.class_names
    rows = {row["image_id"]: row for row in release.rows("regions")}
    files = {path.name: path.read_text().splitlines() for path in (tmp_path / "yolo/labels/train").iterdir()}
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


def test_images_with_one_name_are_refused(tmp_path):
    rows = list(make_rows(2))
    rows[0]["image_id"], rows[1]["image_id"] = "a/x.png", "a__x.jpg"
    release = make_release(tmp_path / "release", rows=rows)
    with pytest.raises(FormatError, match=r"'a/x\.png' and 'a__x\.jpg' would both have the labels a__x\.txt"):
        export_yolo(release, tmp_path / "yolo")
    assert not (tmp_path / "yolo").exists()
