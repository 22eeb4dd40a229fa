"""Configurations that users start from: no settings at all, and the paper's method."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import hf_relabel

from hf_relabel.release.reader import Release
from hf_relabel.run.store import read_record

CONFIGS = Path(__file__).resolve().parents[2] / "scripts" / "configs"
pytestmark = pytest.mark.slow

SMALL = ["--backbone.image_size", "64", "--run.shard_size", "4"]


def test_an_unknown_vit_needs_no_settings(image_folder, tiny_dino, tmp_path):
    """Where MaskCut finds nothing with the family's tau, merging still gives proposals."""
    run = tmp_path / "run"
    where = ["--source.path", str(image_folder), "--backbone.model", str(tiny_dino), "--run.dir", str(run)]
    done = hf_relabel("run", *where, *SMALL)
    assert done.returncode == 0, done.stderr
    manifest = read_record(run / "proposals" / "manifest.json")
    assert manifest["counters"]["proposals by merge"] > 0
    assert manifest["inputs"]["propose"]["tau"] == 0.15
    assert manifest["inputs"]["backbone"]["proposal_feature"] == {"kind": "key", "block": -1, "norm": True}
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["propose"]["tau"] == 0.15
    assert saved["backbone"]["region_feature"] == {"kind": "token", "block": -1, "norm": True}
    again = hf_relabel("run", "--config", str(run / "config.yaml"))
    assert again.returncode == 0, again.stderr


def test_the_papers_method(image_folder, tiny_dinov3, tmp_path):
    """With a teacher that sees the original label everywhere, every image trains with the union of its proposals."""
    images = sorted(image_folder.rglob("*.png"))
    names = sorted(folder.name for folder in image_folder.iterdir())
    for image in images:
        label_map = torch.zeros(2, 2, 15, 15)
        label_map[0, 0] = 9.0
        label_map[1] = torch.tensor([names.index(image.parent.name), 0])[:, None, None]
        path = tmp_path / "maps" / image.relative_to(image_folder).with_suffix(".pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(label_map, path)
    run = tmp_path / "run"
    where = ["--source.path", str(image_folder), "--score.label_maps", str(tmp_path / "maps"), "--run.dir", str(run)]
    model = ["--backbone.model", str(tiny_dinov3), "--backbone.dtype", "float32", "--propose.tau", "0.3"]
    light = ["--train.mixed_precision", "no", "--train.epochs", "2"]
    done = hf_relabel("run", "--config", str(CONFIGS / "paper.yaml"), *where, *model, *light, *SMALL)
    assert done.returncode == 0, done.stderr

    counters = read_record(run / "proposals" / "manifest.json")["counters"]
    assert counters["proposals by maskcut"] == counters["proposals"] > 0
    labeler = json.loads((run / "labeler" / "config.json").read_text())
    assert (labeler["head"]["head"], labeler["head"]["outputs"], labeler["heads"]) == ("mlp", len(names), 1)
    with_proposals = len(images) - counters["images without proposals"]
    assert labeler["training"]["regions"] + labeler["training"]["held_out_regions"] == with_proposals

    release = Release.open(run / "release")
    for row in release.rows("regions"):
        assert row["label_score"] is None
        highest = np.zeros(len(names))
        for region in row["regions"]:
            assert region["generator"] == "maskcut"
            assert region["score"] == region["top_scores"][0]
            assert sum(region["top_scores"]) > 0.999  # softmax over the classes alone
            np.maximum.at(highest, region["top_labels"], region["top_scores"])
        assert set(row["labels"]) == {row["label"], *np.flatnonzero(highest >= 0.5)}
