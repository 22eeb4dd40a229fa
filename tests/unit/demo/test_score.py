import numpy as np
import pytest

from hf_relabel.demo.score import read_scenes, score_against_truth
from hf_relabel.errors import RelabelError
from hf_relabel.vision import masks

NAMES = ["cat", "dog", "hat"]


def box(left: int, right: int) -> dict:
    mask = np.zeros((10, 20), dtype=bool)
    mask[:, left:right] = True
    return masks.encode(mask)


def scene(image_id: str, label: str, **objects: dict) -> dict:
    items = [{"class": name, "segmentation": mask} for name, mask in objects.items()]
    return {"image_id": image_id, "width": 20, "height": 10, "label": label, "objects": items}


def row(image_id: str, labels: list[int], *regions: dict, score: float = 0.75) -> dict:
    """A row whose first label is the given one, and whose others have a score."""
    scores = [1.0] + [score] * (len(labels) - 1)
    listed = [{"segmentation": mask} for mask in regions]
    return {"image_id": image_id, "label": labels[0], "labels": labels, "scores": scores, "regions": listed}


SCENES = [
    scene("cat/a.jpg", "cat", cat=box(0, 6), dog=box(10, 20)),
    scene("hat/b.jpg", "hat", hat=box(0, 10)),
]


def test_counts_by_hand():
    rows = [
        # The cat's mask is off by 2 of 6 columns: IoU 4/8. The dog's overlaps by 4 of 10: not found, but named.
        row("cat/a.jpg", [0, 1], box(2, 8), box(16, 20), score=0.9),
        row("hat/b.jpg", [2, 1], box(0, 10), score=0.6),  # the second label is false
    ]
    score = score_against_truth(SCENES, rows, NAMES)
    assert (score.images, score.objects, score.found) == (2, 3, 2)
    assert (score.given.precision, score.given.recall) == (1.0, pytest.approx(2 / 3))
    assert score.given.f1 == pytest.approx(0.8)
    assert (score.final.precision, score.final.recall) == (pytest.approx(3 / 4), 1.0)
    assert (score.added, score.added_true, score.estimated) == (2, 1, pytest.approx(0.75))
    assert "2 labels added, 50.0% of them true, estimated 75.0%" in "\n".join(score.lines())


def test_a_missing_row_counts_as_nothing_found():
    score = score_against_truth(SCENES, [row("hat/b.jpg", [2])], NAMES)
    assert score.found == 0
    assert (score.final.precision, score.final.recall) == (1.0, pytest.approx(1 / 3))
    assert score.given.recall == pytest.approx(2 / 3)


def test_a_class_that_is_not_in_the_release_counts_as_missed():
    score = score_against_truth(SCENES, [row("cat/a.jpg", [0])], ["cat"])
    assert score.final.recall == pytest.approx(1 / 3)


def test_one_region_over_two_objects_finds_neither():
    """A region over two objects finds neither if it is more than twice as large as each."""
    scenes = [scene("cat/a.jpg", "cat", cat=box(0, 8), dog=box(10, 18))]
    score = score_against_truth(scenes, [row("cat/a.jpg", [0], box(0, 18))], NAMES)
    assert score.found == 0


def test_unknown_image_and_wrong_mask_size():
    with pytest.raises(RelabelError, match=r"dog/x\.jpg: in the release but not in the truth"):
        score_against_truth(SCENES, [row("dog/x.jpg", [0])], NAMES)
    small = masks.encode(np.ones((5, 5), dtype=bool))
    with pytest.raises(RelabelError, match="another size"):
        score_against_truth(SCENES, [row("cat/a.jpg", [0], small)], NAMES)


def test_lines_report_what_was_found_and_added():
    text = "\n".join(score_against_truth(SCENES, [], NAMES).lines())
    assert "0 of 3 objects in 2 scenes found" in text
    assert "1.000     0.667     0.800" in text
    assert "0 labels added" in text


def test_missing_and_empty_truth(tmp_path):
    with pytest.raises(RelabelError, match="no such file"):
        read_scenes(tmp_path / "truth.jsonl")
    (tmp_path / "truth.jsonl").touch()
    with pytest.raises(RelabelError, match="no scenes"):
        read_scenes(tmp_path / "truth.jsonl")
