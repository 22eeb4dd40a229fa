import numpy as np
import pytest
from PIL import Image

from hf_relabel.errors import ReleaseError
from hf_relabel.pictures.figure import WITHOUT_REGION, draw_figure
from hf_relabel.pictures.overlays import PALETTE
from hf_relabel.vision import masks

NAMES = ["cat", "dog", "a class with a name far too long for the space next to its score", "tree"]


def row_of(labels: list[int], scores: list[float], size: tuple[int, int] = (300, 200)) -> dict:
    mask = np.zeros(size[::-1], bool)
    mask[50:150, 100:200] = True
    region = {"label": labels[0], "score": scores[0], "segmentation": masks.encode(mask)}
    return {"label": labels[0], "labels": labels, "scores": scores, "regions": [region]}


def has_color(picture: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(picture) == color).all(axis=2).any())


def test_the_photo_is_untouched_and_the_regions_are_drawn_beside_it():
    photo = Image.new("RGB", (300, 200), (10, 120, 200))
    picture = draw_figure(photo, row_of([0, 1], [1.0, 0.7]), NAMES, side=300)
    pixels = np.asarray(picture)
    gap = 300 // 24
    at = pixels.shape[0] // 2
    assert tuple(pixels[at, gap + 150]) == (10, 120, 200)
    inside = pixels[at, 300 + 2 * gap + 110]
    assert inside[0] > 50, "filled with the first color, a red"
    assert tuple(pixels[1, 1]) == (255, 255, 255)


def test_a_bar_has_its_region_s_color_or_gray_without_a_region():
    photo = Image.new("RGB", (300, 200))
    both = draw_figure(photo, row_of([0, 1], [1.0, 0.7]), NAMES)
    assert has_color(both, PALETTE[0])
    assert has_color(both, WITHOUT_REGION)
    assert not has_color(draw_figure(photo, row_of([0], [1.0]), NAMES), WITHOUT_REGION)


def test_many_labels_and_long_names_fit():
    names = [*NAMES, *(f"class {number}" for number in range(40))]
    labels = list(range(40))
    picture = draw_figure(Image.new("RGB", (300, 200)), row_of(labels, [1.0] + [0.5] * 39), names, side=240)
    assert picture.height < 800


def test_a_photo_of_another_size_is_refused():
    with pytest.raises(ReleaseError, match="the mask size"):
        draw_figure(Image.new("RGB", (30, 20)), row_of([0], [1.0]), NAMES)
