"""The sample: every added label has its chance, ranges and classes have their share, partial answers stay random."""

from collections import Counter

import numpy as np
import pytest
from release_folder import write_release

from hf_relabel.errors import ReleaseError
from hf_relabel.release.reader import Release
from hf_relabel.review.sample import added_labels, allocate, draw_sample

NAMES = [f"class {number}" for number in range(5)]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    """1,000 images with the given label 0 and one added label: three in four with a score above 0.9."""
    rows = [
        {
            "image_id": f"{number:04d}.jpg",
            "label": 0,
            "labels": [0, 1 + number % 4],
            "scores": [1.0, 0.55 if number % 4 == 0 else 0.95],
        }
        for number in range(1000)
    ]
    return Release.open(write_release(tmp_path_factory.mktemp("sample") / "release", NAMES, rows))


def test_each_range_gets_its_share_and_given_labels_are_not_asked_about(release):
    sample = draw_sample(release, 100)
    assert [(stratum.low, stratum.high, stratum.labels) for stratum in sample.strata] == [
        (0.5, 0.6, 250),
        (0.9, 1.0, 750),
    ]
    assert [stratum.sampled for stratum in sample.strata] == [37, 63]  # in proportion to the square roots of the sizes
    assert len({(item.image_id, item.label) for item in sample.items}) == 100
    assert 0 not in {item.label for item in sample.items}
    for number, stratum in enumerate(sample.strata):
        assert sum(item.stratum == number for item in sample.items) == stratum.sampled


def test_classes_have_their_share_of_a_range(release):
    counts = Counter(item.label for item in draw_sample(release, 100).items if item.score > 0.9)
    assert set(counts) == {2, 3, 4}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_every_label_of_a_range_is_as_likely_as_the_others(release):
    drawn = Counter(item.image_id for seed in range(300) for item in draw_sample(release, 100, seed).items)
    of_low = [drawn[f"{number:04d}.jpg"] for number in range(0, 1000, 4)]
    assert np.mean(of_low) == pytest.approx(300 * 37 / 250)
    assert max(of_low) < 300 * 37 / 250 + 5 * np.sqrt(300 * 37 / 250)
    assert min(of_low) > 300 * 37 / 250 - 5 * np.sqrt(300 * 37 / 250)


def test_the_seed_decides(release):
    assert draw_sample(release, 50, 1).items == draw_sample(release, 50, 1).items
    assert draw_sample(release, 50, 1).items != draw_sample(release, 50, 2).items
    assert draw_sample(release, 50, 1).id != draw_sample(release, 50, 2).id


def test_a_sample_larger_than_the_release_is_all_of_it(release):
    assert len(draw_sample(release, 5000).items) == len(added_labels(release)) == 1000


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [([100], 10, [10]), ([4, 100], 54, [4, 50]), ([1, 1, 1], 2, [1, 1, 1]), ([900, 100], 40, [30, 10])],
)
def test_allocation(counts, size, expected):
    assert allocate(np.array(counts), size).tolist() == expected


def test_a_release_without_added_labels_is_refused(tmp_path):
    rows = [{"image_id": "a.jpg", "label": 0, "labels": [0], "scores": [1.0]}]
    release = Release.open(write_release(tmp_path / "release", NAMES, rows))
    with pytest.raises(ReleaseError, match="no added label to check"):
        draw_sample(release, 10)
