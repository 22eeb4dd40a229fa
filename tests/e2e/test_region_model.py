"""`backbone.region_model` through the whole pipeline, and its labeler on other images."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from commands import config_of

from hf_relabel.cli import main
from hf_relabel.hub.card_metadata import License
from hf_relabel.hub.labeler_card import labeler_card


def proposals_of(folder):
    tables = [pq.read_table(path) for path in sorted((folder / "proposals").glob("*.parquet"))]
    return [[p["grid_mask"] for p in row["proposals"]] for table in tables for row in table.to_pylist()]


@pytest.mark.slow
def test_proposals_from_one_model_and_labels_from_another(image_folder, tiny_dinov2, tiny_dinov3, tmp_path, capsys):
    config = config_of(tmp_path, image_folder, tiny_dinov2)
    second = ["--backbone.region_model", str(tiny_dinov3), "--backbone.region_image_size", "64"]
    build = ["--build.calibrated", "false", "--build.threshold", "0.2"]
    assert main(["run", "--config", config, "--run.dir", str(tmp_path / "one")]) == 0
    assert main(["run", "--config", config, "--run.dir", str(tmp_path / "two"), *second, *build]) == 0
    one, two = proposals_of(tmp_path / "one"), proposals_of(tmp_path / "two")
    assert one == two
    assert any(one)
    record = json.loads((tmp_path / "two/labeler/config.json").read_text())
    assert record["backbone"]["region_backbone"]["architecture"] == "DINOv3ViTModel"
    manifest = json.loads((tmp_path / "two/release/manifest.json").read_text())
    made = manifest["provenance"]["config"]["backbone"]
    assert made["region_model"] == tiny_dinov3.name
    command = ["publish", str(tmp_path / "two/release"), "user/name", "--version", "1.0.0"]
    assert main([*command, "--card-only", str(tmp_path / "card.md")]) == 0
    card = (tmp_path / "card.md").read_text()
    assert "with the regions' features from a local DINOv3ViTModel" in card

    shutil.copytree(image_folder / "triangle", tmp_path / "images/triangle")
    out = tmp_path / "three"
    capsys.readouterr()
    arguments = ["--source.path", str(tmp_path / "images"), "--run.dir", str(out), *build]
    assert main(["run", "--labeler", str(tmp_path / "two"), *arguments]) == 0
    stored = json.loads((out / "release/manifest.json").read_text())["provenance"]["backbone"]
    assert stored == record["backbone"]
    assert main(["run", "--config", config, "--run.dir", str(tmp_path / "two"), *build]) == 1
    assert "backbone.region_backbone" in capsys.readouterr().err

    # The labeler alone, as it is published: both local models must be named.
    shutil.copytree(tmp_path / "two/labeler", tmp_path / "alone")
    photo = str(image_folder / "triangle" / "triangle_0.png")
    annotate = ["annotate", photo, "--labeler", str(tmp_path / "alone"), "--json", "--calibrated", "false"]
    named = ["--backbone", str(tiny_dinov2)]
    assert main([*annotate, *named]) == 1
    assert "--region-backbone" in capsys.readouterr().err
    assert main([*annotate, *named, "--region-backbone", str(tiny_dinov3), "--threshold", "0.2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    release = pq.read_table(out / "release/data/labels").to_pylist()
    (row,) = (row for row in release if row["image_id"] == "triangle/triangle_0.png")
    names = record["class_names"]
    # There the triangle is given, here it is found.
    found = {item["label"]: item["score"] for item in shown["labels"]}
    listed = {names[label]: score for label, score in zip(row["labels"], row["scores"], strict=True)}
    assert {name: score for name, score in found.items() if name != "triangle"} == {
        name: score for name, score in listed.items() if name != "triangle"
    }
    card = labeler_card(record, "user/name", License(), None)
    assert 'backbone="folder/of/the/backbone", region_backbone="folder/of/the/region_backbone"' in card
    assert "a local DINOv3ViTModel" in card
