import numpy as np
import pytest
from PIL import Image

from hf_relabel.errors import ReleaseError
from hf_relabel.pictures.overlays import MIN_LONGER_SIDE, PALETTE, PAPER, contact_sheet, draw_overlay
from hf_relabel.vision import masks

NAMES = ["cat", "a class with a name far too long for any tag that has to fit into the picture"]
GRAY = Image.new("RGB", (600, 400), (128, 128, 128))


def region(label: int, left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (600, 400)) -> dict:
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[top:bottom, left:right] = True
    return {"label": label, "score": 0.87, "segmentation": masks.encode(mask)}


def pixel(image: Image.Image, x: int, y: int) -> np.ndarray:
    return np.asarray(image, dtype=int)[y, x]


def test_regions_are_filled_and_outlined_and_the_rest_is_dimmed():
    picture = draw_overlay(GRAY, [region(0, 200, 100, 400, 300)], NAMES)
    assert picture.size == GRAY.size
    inside, edge, outside = (pixel(picture, *place) for place in ((300, 200), (399, 200), (500, 200)))
    assert inside[0] > inside[1] + 15, "filled with the first color, a red"
    assert np.abs(edge - PALETTE[0]).max() < 25
    assert outside.max() < 110
    assert np.ptp(outside) == 0


def test_without_regions_the_image_is_unchanged():
    assert np.array_equal(draw_overlay(GRAY, [], NAMES), GRAY)


def test_a_small_image_is_enlarged_and_keeps_its_shape():
    picture = draw_overlay(Image.new("L", (64, 32), 90), [region(0, 0, 0, 32, 32, (64, 32))], NAMES)
    assert picture.size == (MIN_LONGER_SIDE, MIN_LONGER_SIDE // 2)
    assert picture.mode == "RGB"


def test_regions_of_one_class_have_the_same_color():
    regions = [region(0, 50, 100, 150, 200), region(1, 250, 100, 350, 200), region(0, 450, 100, 550, 200)]
    picture = draw_overlay(GRAY, regions, NAMES)
    first, other, second = (pixel(picture, x, 180) for x in (100, 300, 500))
    assert np.array_equal(first, second)
    assert np.abs(first - other).max() > 20


@pytest.mark.parametrize("top", [0, 100, 390])
def test_tags_stay_inside_and_do_not_cover_each_other(top):
    """Three regions at the same position have complete tags, one below the other."""
    regions = [region(label, 560, top, 600, top + 10) for label in (0, 1, 0)]
    picture = np.asarray(draw_overlay(GRAY, regions, NAMES), dtype=int)
    tag = np.abs(picture - PALETTE[0]).max(axis=2) < 3
    assert tag.sum() > 2 * 1000, "both tags with the first color are complete"
    long = np.abs(picture - PALETTE[1]).max(axis=2) < 3
    assert long.any(axis=0).sum() > 550, "the long name is truncated to the width of the image"


def test_a_mask_of_another_size():
    with pytest.raises(ReleaseError, match=r"\[400, 600\]"):
        draw_overlay(GRAY, [region(0, 0, 0, 5, 5, (30, 20))], NAMES)


def test_empty_and_full_masks():
    for regions in ([region(0, 5, 5, 5, 5)], [region(0, 0, 0, 600, 400)]):
        assert draw_overlay(GRAY, regions, NAMES).size == GRAY.size


def test_a_contact_sheet_shows_every_image_with_its_caption():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = [Image.new("RGB", size, color) for size, color in zip([(9, 9), (90, 30), (30, 90)], colors, strict=True)]
    plain = contact_sheet(pictures, columns=2, cell=100)
    captioned = contact_sheet(pictures, [["one", "more"], ["two"], ["three"]], columns=2, cell=100)
    sheet = np.asarray(plain)
    areas = [np.count_nonzero((sheet == color).all(axis=2)) for color in colors]
    assert areas[0] == 100 * 100
    assert areas[1:] == pytest.approx([100 * 33, 33 * 100], rel=0.05)
    assert tuple(sheet[0, 0]) == PAPER
    assert captioned.width == plain.width
    assert captioned.height > plain.height
    ink = (np.asarray(captioned).max(axis=2) < 120) & (np.ptp(np.asarray(captioned).astype(int), axis=2) < 30)
    assert ink.sum() > 50


def test_a_contact_sheet_needs_images_and_matching_captions():
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([])
    with pytest.raises(ValueError, match="one caption per image"):
        contact_sheet([GRAY], [["one"], ["two"]])
