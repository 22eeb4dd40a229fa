from pathlib import Path

import numpy as np
import pytest

from hf_relabel.evaluation import rolled_up as module
from hf_relabel.evaluation.metrics import PRF
from hf_relabel.evaluation.rolled_up import RolledUp, rolled_up
from hf_relabel.sources.hierarchy import read_hierarchy

NAMES = ["poodle", "beagle", "dog", "cat"]


def compared(tmp_path: Path, predicted: list[list[int]], true: list[list[int]]) -> RolledUp:
    path = tmp_path / "parents.tsv"
    path.write_text("poodle\tdog\nbeagle\tdog\ndog\tanimal\ncat\tanimal\n")
    truth = np.zeros((len(true), len(NAMES)), bool)
    for image, labels in enumerate(true):
        truth[image, labels] = True
    rows = np.repeat(np.arange(len(predicted)), [len(labels) for labels in predicted])
    classes = np.array([label for labels in predicted for label in labels], np.int64)
    return rolled_up(rows, classes, truth, read_hierarchy(str(path), NAMES))


def test_a_parent_counts_at_its_level(tmp_path: Path):
    found = compared(tmp_path, [[2]], [[0]])  # dog for a poodle
    assert found.by_depth == {0: PRF(1, 1, 1), 1: PRF(1, 1, 1), 2: PRF(0, 0, 0)}
    assert found.all == PRF(1, 2 / 3, 0.8)


def test_a_sibling_is_right_above_the_classes_only(tmp_path: Path):
    found = compared(tmp_path, [[1], [3]], [[0], [3]])
    assert found.by_depth[2] == PRF(0, 0, 0)
    assert found.by_depth[1] == found.by_depth[0] == PRF(1, 1, 1)


def test_images_with_a_class_and_its_ancestor_are_counted(tmp_path: Path):
    assert compared(tmp_path, [[0, 2], [0, 1], [2, 3]], [[0], [0], [2]]).conflicts == 1


def test_the_result_does_not_depend_on_the_size_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    predicted, true = ([sorted({int(k) for k in rng.integers(0, 4, 2)}) for _ in range(30)] for _ in range(2))
    whole = compared(tmp_path, predicted, true)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert compared(tmp_path, predicted, true) == whole
