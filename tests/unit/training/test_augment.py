"""Crops, RandAugment, mixup, cutmix and the input transform."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_relabel.training import augment
from hf_relabel.training.augment import Augmentation, mix_batch, rand_augment, random_box
from hf_relabel.training.models import read_transform
from hf_relabel.training.targets import WHOLE_IMAGE
from hf_relabel.training.transform import ClassifierTransform


def _gradient(width=40, height=30):
    """An image with the column in its red channel and the row in its green channel."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 6, y * 8, np.full_like(x, 128)], axis=2).astype(np.uint8))


def test_boxes_keep_area_aspect_and_whole_pixels():
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        left, top, right, bottom = box = random_box((40, 30), rng, 0.25)
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        corners = np.array(box) * [40, 30, 40, 30]
        np.testing.assert_allclose(corners, corners.round(), atol=1e-9)
        width, height = corners[2] - corners[0], corners[3] - corners[1]
        assert 0.65 < width / height < 1.6
        areas.append(width * height / 1200)
    assert 0.2 < min(areas) < 0.35
    assert max(areas) > 0.85


def test_an_image_that_no_box_fits_is_used_whole():
    assert random_box((1000, 1), np.random.default_rng(0), 0.9) == WHOLE_IMAGE


def test_the_box_matches_the_pixels():
    rng = np.random.default_rng(1)
    plain = ClassifierTransform(16, mean=(0, 0, 0), std=(1 / 255,) * 3)
    for _ in range(20):
        pixels, (left, top, right, bottom) = Augmentation(plain, 0.3, False, 0, 0)(_gradient(), rng)
        assert pixels.shape == (3, 16, 16)
        assert pixels[0].min().item() == pytest.approx(left * 240, abs=9)
        assert pixels[0].max().item() == pytest.approx(right * 240 - 6, abs=9)
        assert pixels[1].min().item() == pytest.approx(top * 240, abs=12)
        assert pixels[1].max().item() == pytest.approx(bottom * 240 - 8, abs=12)


def test_flip_mirrors_half_of_the_images():
    plain = ClassifierTransform(16, mean=(0, 0, 0), std=(1, 1, 1))
    rng = np.random.default_rng(0)
    flips = [Augmentation(plain, 1, True, 0, 0)(_gradient(), rng)[0][0, 0, 0].item() > 0.5 for _ in range(200)]
    assert 70 < sum(flips) < 130


def test_every_operation_changes_the_image_but_not_its_size_and_mode():
    picture = Image.fromarray(np.random.default_rng(0).integers(40, 200, (30, 40, 3), dtype=np.uint8))
    for operation in augment._OPERATIONS:
        for sign in (1, -1):
            for strength in (0.0, 0.9, 1.0):
                changed = operation(picture, strength, sign)
                assert (changed.size, changed.mode) == (picture.size, "RGB"), operation
            if operation is not augment._identity:
                assert changed.tobytes() != picture.tobytes(), operation
    assert rand_augment(picture, np.random.default_rng(0), 0, 9).tobytes() == picture.tobytes()
    same = [rand_augment(picture, np.random.default_rng(3), 2, 9).tobytes() for _ in range(2)]
    assert same[0] == same[1]


def test_the_transform_equals_the_saved_processor(tmp_path):
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    ours = ClassifierTransform(24)
    ours.save(tmp_path)
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    expected = theirs(images=_gradient(), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(ours(_gradient()), expected, atol=1e-5, rtol=1e-5)


def test_the_statistics_are_those_of_the_initial_model(tmp_path):
    ClassifierTransform(24, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)).save(tmp_path)
    assert read_transform(str(tmp_path), 32) == ClassifierTransform(32, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_transform(str(tmp_path), 32) == ClassifierTransform(32)
    assert read_transform(str(tmp_path / "config.json"), 32) == ClassifierTransform(32)


def _batch():
    pixels = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)
    return pixels, torch.eye(4)


def test_mixup_blends_images_and_targets_equally():
    pixels, targets = _batch()
    mixed, soft = mix_batch(pixels, targets, np.random.default_rng(0), 0.8, 0)
    share = soft[0, 0].item()
    assert 0 < share < 1
    torch.testing.assert_close(mixed[0], torch.full((3, 8, 8), (1 - share) * 3))
    torch.testing.assert_close(soft[1], torch.tensor([0, share, 1 - share, 0]))


def test_cutmix_targets_are_shares_of_pixels():
    pixels, targets = _batch()
    for seed in range(10):
        mixed, soft = mix_batch(pixels, targets, np.random.default_rng(seed), 0, 1.0)
        for image in range(4):
            pasted = (mixed[image, 0] == 3 - image).float().mean().item()
            assert soft[image, 3 - image].item() == pytest.approx(pasted, abs=1e-6)
            assert set(mixed[image].unique().tolist()) <= {float(image), 3.0 - image}
        assert soft.sum(dim=1).tolist() == pytest.approx([1] * 4)


def test_no_alpha_mixes_nothing_and_two_alphas_alternate_at_random():
    pixels, targets = _batch()
    mixed, soft = mix_batch(pixels, targets, np.random.default_rng(0), 0, 0)
    assert mixed is pixels
    assert soft is targets
    kinds = set()
    for seed in range(20):
        mixed, _ = mix_batch(pixels, targets, np.random.default_rng(seed), 0.8, 1.0)
        kinds.add(bool((mixed == mixed.round()).all()))
    assert kinds == {True, False}
