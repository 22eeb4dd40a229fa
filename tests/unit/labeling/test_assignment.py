import numpy as np
import pytest
from shard_regions import make_regions

from hf_relabel.config import BootstrapConfig
from hf_relabel.labeling.assignment import (
    ABOVE_SHARE,
    BACKGROUND,
    BEST,
    CONFIDENT,
    LIKELY,
    NOTHING,
    OTHER_CLASS,
    OVERLAPS,
    SURROUNDINGS,
    UNSURE,
    assign,
    best_of_images,
)

CLASSES = 3
SETTINGS = BootstrapConfig(confident=0.8, other_class=0.9, max_background=2.0)
SURE = {0: [0.94, 0.02, 0.02, 0.02], 1: [0.02, 0.94, 0.02, 0.02], 2: [0.02, 0.02, 0.94, 0.02]}
NONE = [0.1, 0.1, 0.1, 0.7]


def assigned(images, label, posterior):
    regions = make_regions(images, label)
    result = assign(regions, np.array(posterior), CLASSES, SETTINGS)
    return list(zip(result.targets.tolist(), result.reasons.tolist(), strict=True))


def test_an_images_best_region_trains_as_the_given_label_however_unlikely():
    found = assigned([[("maskcut", [0, 1]), ("maskcut", [2, 3])]], [1], [NONE, [0.1, 0.2, 0.1, 0.6]])
    assert found == [(CLASSES, BACKGROUND), (1, BEST)]


def test_every_confident_region_trains_as_the_given_label():
    found = assigned([[("maskcut", [0, 1]), ("file", [2, 3])]], [2], [SURE[2], [0.03, 0.03, 0.9, 0.04]])
    assert found == [(2, BEST), (2, CONFIDENT)]


def test_a_region_of_another_class_trains_as_that_class():
    found = assigned([[("maskcut", [0, 1]), ("maskcut", [2, 3])]], [0], [SURE[0], SURE[1]])
    assert found == [(0, BEST), (1, OTHER_CLASS)]


def test_a_region_that_may_show_another_class_trains_as_nothing():
    found = assigned([[("maskcut", [0, 1]), ("maskcut", [2, 3])]], [0], [SURE[0], [0.04, 0.88, 0.04, 0.04]])
    assert found[1] == (NOTHING, UNSURE)


def test_merged_regions_and_windows_away_from_the_objects_train_as_background():
    image = [("maskcut", [0, 1]), ("merge", [4, 5, 6]), ("merge", [1, 2]), ("window", [8, 9])]
    found = assigned([image], [0], [SURE[0], NONE, NONE, NONE])
    assert found == [(0, BEST), (CLASSES, SURROUNDINGS), (NOTHING, OVERLAPS), (CLASSES, SURROUNDINGS)]


def test_surroundings_that_look_like_a_class_train_as_nothing():
    found = assigned([[("maskcut", [0]), ("window", [8, 9])]], [0], [SURE[0], SURE[1]])
    assert found[1] == (NOTHING, LIKELY)


def test_an_image_gives_no_more_background_than_twice_its_proposals():
    image = [("maskcut", [0])] + [("window", [k]) for k in range(4, 9)]
    found = assigned([image], [0], [SURE[0]] + [NONE] * 5)
    assert [reason for _, reason in found].count(SURROUNDINGS) == 2
    assert [reason for _, reason in found].count(ABOVE_SHARE) == 3


def test_merged_regions_stand_in_where_an_image_has_no_other_proposal():
    images = [[("merge", [0, 1]), ("merge", [5, 6])], [("maskcut", [0])]]
    found = assigned(images, [0, 1], [NONE, SURE[0], SURE[1]])
    assert found == [(CLASSES, BACKGROUND), (0, BEST), (1, BEST)]


def test_before_there_is_a_background_class():
    """The first classifier knows the classes only."""
    regions = make_regions([[("maskcut", [0, 1]), ("maskcut", [2, 3])]], [0])
    result = assign(regions, np.array([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3]]), CLASSES, SETTINGS)
    assert result.targets.tolist() == [0, CLASSES]


def test_images_without_regions_and_shards_without_any():
    assert assigned([[], [("maskcut", [0])], []], [0, 1, 2], [SURE[1]]) == [(1, BEST)]
    assert assigned([[]], [0], np.zeros((0, CLASSES + 1))) == []


@pytest.mark.parametrize(("probability", "expected"), [([0.2, 0.2, 0.1, 0.5], [0, 3]), ([0.1, 0.3, 0.5, 0.5], [1, 2])])
def test_of_equal_regions_the_first_is_the_best(probability, expected):
    assert best_of_images(np.array(probability), np.array([0, 0, 1, 1])).tolist() == expected
