"""A labeler from anyone: whatever its record says, it is read, or refused in one line that names the value."""

import json
import shutil

import pytest
import torch

from hf_relabel.errors import LabelerError
from hf_relabel.labeling.calibration import Calibration
from hf_relabel.labeling.labeler import CONFIG, Heads, HeadShape, ImageScores, Labeler, read_config
from hf_relabel.run.store import SEAL, sealed_json

BACKBONE = {"model": "tiny", "image_size": 64}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labeler")
    torch.manual_seed(0)
    heads = Heads(HeadShape("discriminant", 8, 3, 16, 2, 0.1), 2)
    calibration = Calibration([-1.0, 2.0], [-3.0, 1.0], 0.7, 5.0, 100, 50)
    scores = ImageScores("object", calibration, True, {})
    Labeler(heads, ["cat", "dog"], scores, 0, BACKBONE, {"digest": "0" * 64}).save(folder)
    return folder


def test_a_good_one(saved):
    assert Labeler.load(saved, BACKBONE).class_names == ["cat", "dog"]


KEYS = [
    "head",
    "head.features",
    "head.outputs",
    "head.hidden",
    "head.layers",
    "heads",
    "class_names",
    "scores",
    "scores.calibration.knots",
    "scores.evidence",
    "backbone",
    "training",
    "weights_sha256",
]

VALUES = [None, -1, 10**12, 10**400, True, [], {}, [[]], 0.5]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("key", KEYS)
def test_values_of_another_type(saved, tmp_path, key, value):
    """The hash in the record is made again, as a stranger would."""
    shutil.copytree(saved, tmp_path / "labeler")
    record = json.loads((saved / CONFIG).read_text())
    del record[SEAL]
    place = record
    *parents, last = key.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    (tmp_path / "labeler" / CONFIG).write_text(sealed_json(record))
    with pytest.raises(LabelerError, match="not a labeler's record") as refused:
        read_config(tmp_path / "labeler")
    assert str(tmp_path / "labeler") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sizes_that_fill_the_memory(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "labeler")
    record = json.loads((saved / CONFIG).read_text())
    del record[SEAL]
    record["heads"] = 10_000
    record["head"] |= {"head": "mlp", "hidden": 2**20, "layers": 256}
    (tmp_path / "labeler" / CONFIG).write_text(sealed_json(record))
    with pytest.raises(LabelerError, match=r"model\.safetensors: has fewer weights than the heads"):
        Labeler.load(tmp_path / "labeler", BACKBONE)
