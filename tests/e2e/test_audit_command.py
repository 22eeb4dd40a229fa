"""`hf-relabel audit` on a small release."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageColor
from release_folder import write_release

from hf_relabel.cli import main
from hf_relabel.pictures.charts import BLUE
from hf_relabel.release.reader import Release

NAMES = [f"class {i}" for i in range(6)]


@pytest.fixture
def release(tmp_path):
    """A release with 60 images and scores equal to the probability that a label is true, and its truth file.

    The original labels of the first six images are false, and their label scores are low.
    """
    rng = np.random.default_rng(0)
    rows, truth = [], []
    for i in range(60):
        label = int(rng.integers(6))
        chances = rng.random(6)
        listed = [label, *(c for c in np.argsort(-chances) if c != label and chances[c] > 0.5)]
        scores = [1.0, *(float(chances[c]) for c in listed[1:])]
        row = {"image_id": f"{i:03d}.jpg", "label": label, "labels": listed, "scores": scores}
        rows.append({**row, "label_score": float(rng.uniform(0.0, 0.3) if i < 6 else rng.uniform(0.2, 1.0))})
        true = [int(c) for c in listed if (c != label and rng.random() < chances[c]) or (c == label and i >= 6)]
        true = true or [(label + 1) % 6]
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
    assert found["agreement"]["true"] == 0.9
    assert 0.8 < found["best"]["f1"] < 1
    added = found["added_labels"]
    assert abs(added["estimated_precision"] - added["true_precision"]) < 0.1
    assert added["ece"] < 0.15
    line = next(line for line in printed.splitlines() if line.startswith("Labels added to the original ones"))
    assert f"estimated by their scores: {added['estimated_precision']:.4f}, true precision: " in line
    assert f"{added['true_precision']:.4f}" in line
    assert (found["label_scores"]["images"], found["label_scores"]["false"]) == (60, 6)
    assert 0.8 < found["label_scores"]["auc"] < 1
    assert "6 of the 60 original labels with a label_score are false" in printed
    assert f"true against false ones: {found['label_scores']['auc']:.4f}\n" in printed
    assert f"{found['best']['f1']:.4f}" in printed
    assert all(row["count"] or row["hit_rate"] is None for row in added["reliability"])
    assert sum(row["count"] for row in added["reliability"]) == added["labels"]
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(100_000)) > 5


def test_the_plot_shows_only_added_labels(release, tmp_path):
    """Bars are drawn for added labels; without any, the plot has only its axes and the diagonal."""
    folder, truth = release
    bare = write_release(
        tmp_path / "bare", NAMES, [{**row, "labels": [row["label"]], "scores": [1.0]} for row in rows_of(folder)]
    )
    bars = []
    for name, path in (("added", folder), ("none", bare)):
        plot = tmp_path / f"{name}.png"
        assert main(["audit", str(path), "--truth", str(truth), "--plot", str(plot)]) == 0
        with Image.open(plot) as picture:
            bars.append(np.count_nonzero((np.asarray(picture.convert("RGB")) == ImageColor.getrgb(BLUE)).all(axis=2)))
    assert bars[0] > 1000
    assert bars[1] == 0


def rows_of(folder):
    return [{key: row[key] for key in ("image_id", "label")} for row in Release.open(folder).rows("labels")]


def test_ids_without_truth_are_counted(release, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text('{"image_id": "000.jpg", "labels": [0]}\n')
    assert main(["audit", str(release[0]), "--truth", str(other)]) == 1
    message = capsys.readouterr().err
    assert "59 of 60 image ids have no entry" in message
    assert "'001.jpg', '002.jpg', '003.jpg'" in message
    assert message.count("\n") == 1


def test_release_without_scores_is_refused(release, capsys):
    folder, truth = release
    (path,) = (folder / "data" / "labels").iterdir()
    pq.write_table(pq.read_table(path).drop_columns("scores"), path)
    assert main(["audit", str(folder), "--truth", str(truth)]) == 1
    assert "has no column 'scores'" in capsys.readouterr().err


def test_truth_without_labels_is_refused(release, tmp_path, capsys):
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps([[]] * 60))
    assert main(["audit", str(release[0]), "--truth", str(empty)]) == 1
    assert "no image has a true label" in capsys.readouterr().err


def test_a_truth_with_more_classes_is_compared_on_the_common_ones(release, tmp_path, capsys):
    folder, truth = release
    assert main(["audit", str(folder), "--truth", str(truth), "--json", str(tmp_path / "before.json")]) == 0
    assert "left out: '" not in capsys.readouterr().out
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    for row in rows[:7]:
        row["objects"] += [{"class": "sky"}, {"class": "road"}]
    rows[0]["objects"].append({"class": "car"})
    more = tmp_path / "more.jsonl"
    elsewhere = {"image_id": "not in the release.jpg", "objects": [{"class": "sky"}]}  # says nothing about it
    more.write_text("".join(json.dumps(row) + "\n" for row in [*rows, elsewhere]))
    assert main(["audit", str(folder), "--truth", str(more), "--json", str(tmp_path / "after.json")]) == 0
    line = "15 true labels of 3 other classes are left out: 'sky' (7), 'road' (7), 'car' (1)."
    assert line in capsys.readouterr().out
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("before", "after"))
    assert after.pop("classes_left_out") == {"sky": 7, "road": 7, "car": 1}
    assert before.pop("classes_left_out") == {}
    assert after == before


def test_images_of_other_classes_count_and_cannot_flatter(release, tmp_path, capsys):
    folder, truth = release
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    for row in rows:
        row["objects"] = [{"class": "sky"}] if row["image_id"] < "010" else row["objects"]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["audit", str(folder), "--truth", str(other), "--json", str(tmp_path / "found.json")]) == 0
    assert "; 10 of them only with classes that the release does not have" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["images"], found["left_out"], found["other_classes"]) == (60, 0, 10)
    assert found["agreement"]["true"] <= 50 / 60
