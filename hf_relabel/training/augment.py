"""Augmentation with Pillow and torch: random crops that return their box, RandAugment, mixup and cutmix."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from hf_relabel.training.config import TrainingConfig
from hf_relabel.training.targets import WHOLE_IMAGE, Box
from hf_relabel.training.transform import ClassifierTransform

ASPECT = (3 / 4, 4 / 3)
"""Minimum and maximum ratio of a crop's width to its height (Szegedy et al. 2015)."""


@dataclass(frozen=True)
class Augmentation:
    """Augments one image: random crop, flip, RandAugment, then the model's transform.

    Args:
        transform: Converts the augmented image to the model's input.
        crop_scale: Minimum share of the image's area in a crop, in (0, 1]; 1 uses the whole image.
        flip: Mirror half of the images.
        operations: Number of RandAugment operations.
        magnitude: Strength of these operations, from 0 to 10.
    """

    transform: ClassifierTransform
    crop_scale: float
    flip: bool
    operations: int
    magnitude: float

    @classmethod
    def of(cls, config: TrainingConfig, transform: ClassifierTransform) -> "Augmentation":
        """Make the augmentation for these settings."""
        return cls(transform, config.crop_scale, config.flip, config.randaugment, config.magnitude)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> tuple[torch.Tensor, Box]:
        """Augment an RGB image; returns pixels, float32 [3, S, S], and the box of the crop."""
        box = random_box(image.size, rng, self.crop_scale) if self.crop_scale < 1 else WHOLE_IMAGE
        left, top, right, bottom = box
        width, height = image.size
        pixels = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        side = self.transform.side
        image = image.resize((side, side), Image.Resampling.BILINEAR, box=pixels)
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.transform(rand_augment(image, rng, self.operations, self.magnitude)), box


def random_box(size: tuple[int, int], rng: np.random.Generator, min_area: float) -> Box:
    """Draw a random crop with whole pixels as corners (Szegedy et al. 2015).

    Args:
        size: Width and height of the image in pixels.
        rng: Random generator.
        min_area: Minimum share of the image's area; the maximum is 1.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(*np.log(ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left / width, top / height, (left + w) / width, (top + h) / height
    return WHOLE_IMAGE


def rand_augment(image: Image.Image, rng: np.random.Generator, operations: int, magnitude: float) -> Image.Image:
    """Apply `operations` random operations with strength `magnitude`, 0 to 10 (RandAugment, Cubuk et al. 2019)."""
    for _ in range(operations):
        operation = _OPERATIONS[rng.integers(len(_OPERATIONS))]
        image = operation(image, magnitude / 10, 1 if rng.random() < 0.5 else -1)
    return image


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )


def _rotate(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return image.rotate(sign * 30 * strength, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))


def _shear_x(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, (1, sign * 0.3 * strength, 0, 0, 1, 0))


def _shear_y(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, (1, 0, 0, sign * 0.3 * strength, 1, 0))


def _shift_x(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, (1, 0, sign * 0.3 * strength * image.width, 0, 1, 0))


def _shift_y(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, sign * 0.3 * strength * image.height))


def _color(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageEnhance.Color(image).enhance(1 + sign * 0.9 * strength)


def _contrast(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(1 + sign * 0.9 * strength)


def _brightness(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + sign * 0.9 * strength)


def _sharpness(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * strength)


def _posterize(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * strength))


def _solarize(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageOps.solarize(image, 256 - round(256 * strength))


def _auto_contrast(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return ImageOps.equalize(image)


def _identity(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return image


_OPERATIONS = (
    _identity,
    _auto_contrast,
    _equalize,
    _rotate,
    _posterize,
    _solarize,
    _color,
    _contrast,
    _brightness,
    _sharpness,
    _shear_x,
    _shear_y,
    _shift_x,
    _shift_y,
)


def mix_batch(
    pixels: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator, mixup: float, cutmix: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image in a batch with another one; their targets are mixed in the same proportion.

    Image i is mixed with image B - 1 - i. If both alphas are positive, mixup or cutmix is chosen at random.

    Args:
        pixels: float [B, 3, S, S].
        targets: float [B, C], multi-hot or soft.
        rng: Random generator.
        mixup: Alpha of mixup (Zhang et al. 2018), which blends the images; 0 turns it off.
        cutmix: Alpha of cutmix (Yun et al. 2019), which pastes a rectangle; 0 turns it off.
    """
    if mixup == 0 and cutmix == 0:
        return pixels, targets
    paste = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    share = float(rng.beta(cutmix, cutmix) if paste else rng.beta(mixup, mixup))
    other = pixels.flip(0)
    if paste:
        height, width = pixels.shape[2:]
        h, w = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        mixed = pixels.clone()
        mixed[:, :, top : top + h, left : left + w] = other[:, :, top : top + h, left : left + w]
        share = 1 - h * w / (height * width)
    else:
        mixed = share * pixels + (1 - share) * other
    return mixed, share * targets + (1 - share) * targets.flip(0)
