"""Backgrounds of the demo's scenes: color gradients with textures and grain."""

import colorsys

import numpy as np
from PIL import Image


def draw_background(rng: np.random.Generator, size: int, textured: bool = True) -> Image.Image:
    """Draw an RGB background of `size` x `size` pixels: a gradient between two colors with a texture.

    Args:
        rng: Random number generator.
        size: Side in pixels.
        textured: Whether to add two colored textures to the gray one.
    """
    first, second = _color(rng), _color(rng)
    blend = _gradient(rng, size)[..., None]
    pixels = first * (1 - blend) + second * blend  # [size, size, 3], 0 to 1
    texture = _TEXTURES[rng.integers(len(_TEXTURES))](rng, size)
    pixels += rng.uniform(0.03, 0.10) * texture[..., None]
    if textured:
        for _ in range(2):
            texture = _TEXTURES[rng.integers(len(_TEXTURES))](rng, size)
            pixels += rng.uniform(0.02, 0.08) * texture[..., None] * rng.uniform(0.5, 1.0, 3)
    pixels += rng.uniform(0.0, 0.03) * rng.standard_normal((size, size, 1))
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def _color(rng: np.random.Generator) -> np.ndarray:
    """Draw a color, RGB in [0, 1]: any hue, low saturation, medium to high brightness."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.55), rng.uniform(0.55, 0.95)))


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a gradient, [size, size] in [0, 1]: linear in a random direction, or radial around a random point."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1)
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        field = x * np.cos(angle) + y * np.sin(angle)
    else:
        field = np.hypot(x - rng.random(), y - rng.random())
    return (field - field.min()) / (field.max() - field.min())


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of several scales; like every texture, [size, size] in [-1, 1]."""
    field = np.zeros((size, size))
    for octave in range(2, 7):
        coarse = Image.fromarray(rng.uniform(-1, 1, (2**octave, 2**octave)).astype(np.float32))
        field += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 2 ** (octave - 2)
    return field / np.abs(field).max()


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft parallel stripes, 8 to 40 per image."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, np.pi)
    return np.sin(2 * np.pi * rng.uniform(8, 40) * (x * np.cos(angle) + y * np.sin(angle)))


def _weave(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two crossing sets of stripes."""
    return (_stripes(rng, size) + _stripes(rng, size)) / 2


def _speckles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Fine noise of one scale."""
    side = int(rng.integers(size // 6, size // 2))
    coarse = Image.fromarray(rng.uniform(-1, 1, (side, side)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).clip(-1, 1)


_TEXTURES = (_clouds, _stripes, _weave, _speckles)
