"""Every kind of target, and how a crop changes it."""

import numpy as np
import pytest
from release_folder import write_release

from hf_relabel.errors import ReleaseError
from hf_relabel.hub.releases import load_labels
from hf_relabel.training.targets import (
    WHOLE_IMAGE,
    CropAwareTargets,
    ReleaseTargets,
    SetTargets,
    crop_mask,
)
from hf_relabel.vision import masks

NAMES = ["bird", "cat", "dog"]


def _left(columns):
    """A 4 x 8 mask of the first columns."""
    mask = np.zeros((4, 8), bool)
    mask[:, :columns] = True
    return mask


ROWS = [
    {
        "image_id": "a",
        "label": 0,
        "labels": [0, 2],
        "scores": [1.0, 0.75],
        "width": 8,
        "height": 4,
        "regions": [
            {"label": 2, "score": 0.75, "mask": _left(4)},
            {"label": 2, "score": 0.5, "mask": _left(8) & ~_left(4)},
        ],
    },
    {"image_id": "b", "label": 1, "labels": [], "scores": [], "width": 8, "height": 4, "regions": []},
]
LEFT, RIGHT, NO_DOG = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.25, 0.5)


@pytest.fixture
def table(tmp_path):
    return load_labels(str(write_release(tmp_path / "release", NAMES, ROWS)), with_regions=True)


def _all(targets):
    return [targets(row, WHOLE_IMAGE).tolist() for row in range(2)]


def test_kinds(table):
    assert _all(ReleaseTargets(table, "single")) == [[1, 0, 0], [0, 1, 0]]
    assert _all(ReleaseTargets(table, "soft")) == [[1, 0, 0.75], [0, 0, 0]]
    assert _all(ReleaseTargets(table, "soft", include_original=True)) == [[1, 0, 0.75], [0, 1, 0]]
    assert _all(ReleaseTargets(table, "threshold", 0.75)) == [[1, 0, 1], [0, 0, 0]]
    assert _all(ReleaseTargets(table, "threshold", 0.8)) == [[1, 0, 0], [0, 0, 0]]
    assert SetTargets(np.array([[True, False]]))(0, LEFT).tolist() == [1, 0]


def test_a_crop_scales_a_class_by_the_share_of_its_region_inside(table):
    targets = CropAwareTargets(table, ReleaseTargets(table, "soft"))
    assert targets(0, WHOLE_IMAGE).tolist() == [1, 0, 0.75]
    assert targets(0, LEFT).tolist() == [1, 0, 0.75]  # contains all of the dog with the higher score
    assert targets(0, RIGHT).tolist() == [1, 0, 0.5]  # contains all of the dog with the lower score
    assert targets(0, NO_DOG).tolist() == pytest.approx([1, 0, 0.75 / 4])  # contains a quarter of it
    assert targets(1, LEFT).tolist() == [0, 0, 0]
    # the original label has no region, so it is in every crop
    hard = CropAwareTargets(table, ReleaseTargets(table, "threshold", 0.5))
    assert hard(0, NO_DOG).tolist() == pytest.approx([1, 0, 1 / 4])


def test_crop_aware_needs_regions(tmp_path, table):
    light = load_labels(table.origin)
    with pytest.raises(ReleaseError, match="has no regions, which crop-aware targets need"):
        CropAwareTargets(light, ReleaseTargets(light, "soft"))


@pytest.mark.parametrize("seed", range(20))
def test_the_share_inside_a_crop_is_that_of_the_pixels(seed):
    """The encoded masks are compared without decoding them."""
    rng = np.random.default_rng(seed)
    size = tuple(map(int, rng.integers(1, 40, 2)))
    mask = rng.random(size) < rng.random()
    (left, right), (top, bottom) = np.sort(rng.random((2, 2)), axis=1)
    box = WHOLE_IMAGE if seed == 0 else (left, 0.0, right, 1.0) if seed == 1 else (left, top, right, bottom)
    crop = crop_mask(size, box)
    inside = np.zeros(size, bool)
    inside[round(box[1] * size[0]) : round(box[3] * size[0]), round(box[0] * size[1]) : round(box[2] * size[1])] = True
    assert np.array_equal(masks.decode(crop), inside)
    assert masks.overlap(masks.encode(mask), crop) == np.count_nonzero(mask & inside)
    assert masks.area_of(masks.encode(mask)) == np.count_nonzero(mask)
