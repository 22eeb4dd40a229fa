import numpy as np
import torch
from shard_regions import make_regions

from hf_relabel.labeling.calibration import LIMIT
from hf_relabel.labeling.evidence import agreement_evidence, margins, object_evidence


def test_margins_are_log_odds_against_all_the_rest():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]])
    probability = torch.softmax(logits, dim=1)[0, :3].double()
    expected = torch.log(probability / (1 - probability))
    assert torch.allclose(margins(logits, 3)[0], expected, atol=1e-5)


def test_margins_of_certain_predictions_are_exact():
    found = margins(torch.tensor([[1000.0, 0.0, 0.0], [-1000.0, 0.0, 0.0]]), 2)
    expected = [[1000 - np.log(2), -1000.0], [-1000 - np.log(2), 0.0]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


def test_the_margin_of_a_single_class_is_finite():
    assert torch.isfinite(margins(torch.zeros(2, 1), 1)).all()


IMAGES = [
    [("maskcut", [0]), ("merge", [1]), ("merge", [2]), ("merge", [3]), ("window", [4])],
    [("merge", [0]), ("window", [1])],
    [],
]
MARGIN = np.array([[1.0, -9], [4, -2], [3, -3], [2, -8], [9, 9], [5, -5], [9, 9]])


def test_evidence_of_objects_is_their_best_region():
    found = object_evidence(MARGIN, make_regions(IMAGES, [0, 0, 0]))
    assert found.tolist() == [[1, -9], [-LIMIT, -LIMIT], [-LIMIT, -LIMIT]]


def test_agreement_weighs_the_best_proposals_twice_and_the_best_windows_once():
    found = agreement_evidence(MARGIN, make_regions(IMAGES, [0, 0, 0]))
    proposals = np.array([[3, (-2 - 3 - 8) / 3], [5, -5], [-LIMIT, -LIMIT]])
    windows = np.array([[9, 9], [9, 9], [-LIMIT, -LIMIT]])
    assert np.allclose(found, (2 * proposals + windows) / 3)


def test_agreement_without_windows_is_that_of_the_proposals():
    images = [[region for region in regions if region[0] != "window"] for regions in IMAGES]
    found = agreement_evidence(MARGIN[[0, 1, 2, 3, 5]], make_regions(images, [0, 0, 0]))
    assert np.allclose(found, [[3, (-2 - 3 - 8) / 3], [5, -5], [-LIMIT, -LIMIT]])
