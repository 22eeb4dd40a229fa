"""SAM 2's automatic masks, with the real model classes and random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sam2 import save_tiny_sam2

from hf_relabel.errors import BackboneError
from hf_relabel.vision import masks
from hf_relabel.vision.sam2 import Sam2, Sam2Settings, without_overlaps

CPU = torch.device("cpu")

ANY = Sam2Settings(points_per_side=4, min_iou=-9.0, min_stability=-1.0, max_overlap=1.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8))


def test_masks_have_the_image_s_size_and_are_the_model_s_own(checkpoint: Path, image: Image.Image):
    sam2 = Sam2.load(str(checkpoint), None, CPU)
    found = sam2(image, ANY)
    assert 0 < len(found) <= 3 * 4 * 4, "three masks per point"
    assert all(mask["size"] == [60, 90] for mask in found)
    # The mask of one point, from the model's own forward pass of pixels.
    with torch.inference_mode():
        output = sam2._model(pixel_values=sam2._prepare(image), input_points=torch.tensor([[[[48.0, 16.0]]]]))
        logits = output.pred_masks[0, 0, 0][None, None]
        own = torch.nn.functional.interpolate(logits, size=(60, 90), mode="bilinear")[0, 0] > 0
    overlaps = [np.mean(masks.decode(mask) == own.numpy()) for mask in found]
    assert max(overlaps) > 0.99


def test_settings_keep_fewer_masks(checkpoint: Path, image: Image.Image):
    sam2 = Sam2.load(str(checkpoint), None, CPU)
    number = len(sam2(image, ANY))
    assert sam2(image, Sam2Settings(points_per_side=4, min_iou=9.0)) == []
    assert len(sam2(image, Sam2Settings(4, -9.0, -1.0, 0.3))) < number
    assert len(sam2(image, Sam2Settings(4, -9.0, -1.0, 1.0, min_area=0.5))) < number


def test_of_overlapping_boxes_the_first_stays():
    boxes = [[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 10, 10], [0, 0, 3, 3]]
    assert without_overlaps([list(map(float, box)) for box in boxes], 0.7) == [0, 2, 3]
    assert without_overlaps([], 0.7) == []


def test_what_is_no_complete_sam2_is_refused(checkpoint: Path, tiny_dinov2: Path, tmp_path: Path):
    with pytest.raises(BackboneError, match="'dinov2' model; give a SAM 2"):
        Sam2.load(str(tiny_dinov2), None, CPU)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        Sam2.load(str(tmp_path / "nothing"), None, CPU)
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(BackboneError, match="cannot be loaded"):
        Sam2.load(str(tmp_path), None, CPU)


def test_a_checkpoint_of_the_video_model_is_read(checkpoint: Path, tmp_path: Path, image: Image.Image):
    """The published checkpoints are those of the video model, which has further weights."""
    from safetensors.torch import load_file, save_file

    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    weights = load_file(checkpoint / "model.safetensors")
    save_file({**weights, "memory_encoder.extra": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    same = Sam2.load(str(tmp_path), None, CPU)(image, ANY)
    assert same == Sam2.load(str(checkpoint), None, CPU)(image, ANY)
