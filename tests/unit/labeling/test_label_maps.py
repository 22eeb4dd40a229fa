import pickle

import numpy as np
import pytest
import torch

from hf_relabel.errors import StageError
from hf_relabel.labeling.label_maps import (
    LabelMapError,
    check_label_maps,
    label_map_path,
    read_label_map,
    score_under_mask,
)


def label_map(left: int, right: int, logit: float = 8.0) -> torch.Tensor:
    """A label map: class `left` in the left 7 columns, `right` in the other 8, and four weaker classes everywhere."""
    tensor = torch.zeros(2, 5, 15, 15)
    tensor[0, 0] = logit
    tensor[1, 0, :, :7] = left
    tensor[1, 0, :, 7:] = right
    for k in range(1, 5):
        tensor[1, k] = 10 + k
    return tensor


def test_mask_gets_the_class_under_it():
    mask = np.zeros((150, 300), bool)
    mask[:, :140] = True  # the left 7 columns of the map
    probabilities = score_under_mask(label_map(3, 4), mask, 20)
    assert probabilities.sum() == pytest.approx(1)
    # The mean logit under the mask is 8 for class 3 and 0 for the 19 others.
    assert probabilities[3] == pytest.approx(np.exp(8) / (np.exp(8) + 19), rel=1e-4)


def test_mean_is_weighted_by_the_mask_and_missing_classes_count_as_zero():
    mask = np.ones((30, 30), bool)
    probabilities = score_under_mask(label_map(3, 4), mask, 20)
    logits = np.zeros(20)
    logits[3], logits[4] = 8 * 7 / 15, 8 * 8 / 15
    assert np.allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), atol=1e-6)


def test_tiny_mask_has_probabilities():
    mask = np.zeros((500, 500), bool)
    mask[3, 3] = True
    probabilities = score_under_mask(label_map(3, 4), mask, 20)
    assert int(probabilities.argmax()) == 3


def test_path_of_a_label_map_follows_the_image_id(tmp_path):
    path = label_map_path(tmp_path, "n01440764/n01440764_10042.JPEG")
    assert path == tmp_path / "n01440764" / "n01440764_10042.pt"
    path.parent.mkdir()
    torch.save(label_map(3, 4).half(), path)
    assert read_label_map(path, 20).dtype == torch.float32


@pytest.mark.parametrize("image_id", ["../secret.JPEG", "/etc/passwd", "a/../../b.JPEG"])
def test_image_id_outside_the_folder(tmp_path, image_id):
    with pytest.raises(LabelMapError, match="not a path below a folder"):
        label_map_path(tmp_path, image_id)


class Malicious:
    def __reduce__(self):
        return (open, ("harmed", "w"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.zeros(3, 4), r"label map is \(3, 4\)"),
        ({"map": 1}, "label map is dict"),
        (label_map(3, 99), "class index 99, but there are only 20 classes"),
        (label_map(3, 4, float("nan")), "NaN or infinite values"),
    ],
)
def test_invalid_label_maps(tmp_path, content, reason):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(LabelMapError, match=reason):
        read_label_map(tmp_path / "a.pt", 20)


def test_missing_damaged_and_malicious_label_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabelMapError, match="no label map"):
        read_label_map(tmp_path / "a.pt", 20)
    (tmp_path / "b.pt").write_bytes(b"junk")
    with pytest.raises(LabelMapError, match="unreadable label map"):
        read_label_map(tmp_path / "b.pt", 20)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(LabelMapError, match="unreadable label map"):
        read_label_map(tmp_path / "c.pt", 20)
    torch.save(Malicious(), tmp_path / "d.pt")
    with pytest.raises(LabelMapError, match="unreadable label map"):
        read_label_map(tmp_path / "d.pt", 20)
    assert not (tmp_path / "harmed").exists()


def test_missing_folder_of_label_maps(tmp_path):
    with pytest.raises(StageError, match=r"score\.label_maps: no folder"):
        check_label_maps(str(tmp_path / "nowhere"))
