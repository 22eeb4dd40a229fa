"""`hf-relabel audit` on a small release."""

import json

import numpy as np
import pytest
from PIL import Image
from release_folder import write_release

from hf_relabel.cli import main

NAMES = [f"class {i}" for i in range(6)]


@pytest.fixture
def release(tmp_path):
    """A release with 60 images and scores equal to the probability that a label is true, and its truth file."""
    rng = np.random.default_rng(0)
    rows, truth = [], []
    for i in range(60):
        label = int(rng.integers(6))
        chances = rng.random(6)
        listed = [label, *(c for c in np.argsort(-chances) if c != label and chances[c] > 0.5)]
        scores = [1.0, *(float(chances[c]) for c in listed[1:])]
        rows.append({"image_id": f"{i:03d}.jpg", "label": label, "labels": listed, "scores": scores})
        true = [int(c) for c in listed if c == label or rng.random() < chances[c]]
        truth.append({"image_id": f"{i:03d}.jpg", "objects": [{"class": NAMES[c]} for c in true]})
    file = tmp_path / "truth.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in truth))
    return write_release(tmp_path / "release", NAMES, rows), file


def test_audit_prints_a_report_and_writes_json_and_a_plot(release, tmp_path, capsys):
    folder, truth = release
    results, plot = tmp_path / "audit.json", tmp_path / "reliability.png"
    assert main(["audit", str(folder), "--truth", str(truth), "--json", str(results), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "60 images with a true label" in printed
    assert "Best F1" in printed
    found = json.loads(results.read_text())
    assert found["images"] == 60
    assert found["calibration"]["ece"] < 0.15
    assert found["agreement"]["true"] == 1
    assert 0.8 < found["best"]["f1"] < 1
    assert f"{found['best']['f1']:.4f}" in printed
    assert all(row["count"] or row["hit_rate"] is None for row in found["calibration"]["table"])
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(100_000)) > 5


def test_ids_without_truth_are_counted(release, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text('{"image_id": "000.jpg", "labels": [0]}\n')
    assert main(["audit", str(release[0]), "--truth", str(other)]) == 1
    message = capsys.readouterr().err
    assert "59 of 60 image ids have no entry" in message
    assert "'001.jpg', '002.jpg', '003.jpg'" in message
    assert message.count("\n") == 1


def test_truth_without_labels_is_refused(release, tmp_path, capsys):
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps([[]] * 60))
    assert main(["audit", str(release[0]), "--truth", str(empty)]) == 1
    assert "no image has a true label" in capsys.readouterr().err
