"""The labels of an image and the regions that show them, from rows of the label stage made by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from hf_relabel.config import BuildConfig
from hf_relabel.labeling.image_labels import LabelRule, image_labels, image_regions, threshold_for
from hf_relabel.vision import masks

GRID = (4, 4)


def rule_of(threshold=0.5, of_class=None, excluded=(), **config) -> LabelRule:
    return LabelRule(threshold, of_class or {}, frozenset(excluded), BuildConfig(**config))


def calibrated(given: int, others: dict[int, float], label_score: float | None = 0.8, **row) -> dict[str, Any]:
    """A row of the label stage with calibrated scores; label k is shown best by proposal k % 3."""
    labels = [{"label": given, "score": None, "proposal": given % 3}]
    labels += [{"label": name, "score": score, "proposal": name % 3} for name, score in others.items()]
    return {
        "label_score": label_score,
        "labels": labels,
        "proposals": [],
        "global_labels": [],
        "global_scores": [],
    } | row


def raw(*regions: dict[int, float], whole: dict[int, float] | None = None) -> dict[str, Any]:
    """A row of the label stage, from the softmax scores of each region's classes."""
    proposals = [{"top_labels": list(region), "top_scores": list(region.values())} for region in regions]
    whole = whole or {}
    return {
        "label_score": None,
        "labels": [{"label": 0, "score": None, "proposal": -1}],
        "proposals": proposals,
        "global_labels": list(whole),
        "global_scores": list(whole.values()),
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (rule_of(), [(3, 1.0), (1, 0.9), (0, 0.6)]),
        (rule_of(threshold=0.6), [(3, 1.0), (1, 0.9), (0, 0.6)]),  # a score at the threshold counts
        (rule_of(threshold=0.7), [(3, 1.0), (1, 0.9)]),
        (rule_of(threshold=1.1), [(3, 1.0)]),
        (rule_of(of_class={1: 0.95, 2: 0.1}), [(3, 1.0), (0, 0.6), (2, 0.2)]),
        (rule_of(excluded=[1]), [(3, 1.0), (0, 0.6)]),
        (rule_of(excluded=[3]), [(3, 1.0), (1, 0.9), (0, 0.6)]),  # it was given, not added
        (rule_of(include_original=False), [(1, 0.9), (3, 0.8), (0, 0.6)]),
        (rule_of(threshold=0.85, include_original=False), [(1, 0.9)]),
        (rule_of(include_global=True), [(3, 1.0), (1, 0.9), (0, 0.6)]),  # has no calibrated score
    ],
)
def test_labels_by_calibrated_scores(rule, expected):
    row = calibrated(3, {1: 0.9, 0: 0.6, 2: 0.2}, global_labels=[4], global_scores=[0.99])
    assert image_labels(3, row, rule) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5, [5, 0, 3]),  # of 0 and its ancestor 1, only 0
        (1, [1, 3]),  # the given label stays, and what is below it goes
        (0, [0, 3]),
    ],
)
def test_a_class_and_its_ancestor_are_one_object(given, expected):
    rule = dataclasses.replace(rule_of(), ancestors={0: frozenset({1, 2}), 1: frozenset({2})})
    others = {name: score for name, score in {0: 0.7, 1: 0.9, 3: 0.6}.items() if name != given}
    assert [label for label, _ in image_labels(given, calibrated(given, others), rule)] == expected


def test_without_a_calibration_only_the_given_label_is_listed():
    assert image_labels(3, calibrated(3, {}, label_score=None), rule_of()) == [(3, 1.0)]
    assert image_labels(3, calibrated(3, {}, label_score=None), rule_of(include_original=False)) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # the highest over the regions, at least 0.5; the given label always, with 1
        ({}, [(3, 1.0), (1, 0.9), (0, 0.6)]),
        ({"include_original": False}, [(1, 0.9), (0, 0.6)]),
        ({"include_original": False, "include_global": True}, [(1, 0.9), (2, 0.8), (0, 0.6)]),
        ({"include_original": False, "threshold": 0.0}, [(1, 0.9), (0, 0.6), (2, 0.2), (3, 0.1)]),
        ({"include_original": False, "threshold": 0.95}, []),
        ({"include_original": False, "of_class": {1: 0.95}, "excluded": [0]}, []),
    ],
)
def test_labels_by_softmax_scores_as_in_the_paper(settings, expected):
    row = raw({0: 0.6, 1: 0.3}, {1: 0.9, 3: 0.1}, {1: 0.5, 2: 0.2}, whole={2: 0.8})
    assert image_labels(3, row, rule_of(calibrated=False, **settings)) == expected


def test_equal_scores_are_in_the_order_of_the_classes():
    rule = rule_of(calibrated=False, include_original=False)
    assert [name for name, _ in image_labels(0, raw({5: 0.7, 2: 0.7}, {9: 0.7}), rule)] == [2, 5, 9]


@pytest.mark.parametrize(
    ("precision", "threshold"), [(0.96, 1.1), (0.95, 0.95), (0.9, 0.85), (0.7, 0.5), (0.64, 0.3), (0.5, 0.2)]
)
def test_the_threshold_for_a_precision_is_the_smallest_that_reaches_it(precision, threshold):
    """The means of the highest scores are 0.95, 0.9, 0.77, 0.65 and 0.56."""
    assert threshold_for(precision, np.array([0.3, 0.95, 0.5, 0.85, 0.2])) == threshold


def test_a_threshold_takes_all_labels_of_equal_score():
    """The best two have a mean of 0.7, but with a threshold of 0.5 there are four, with a mean of 0.6."""
    scores = np.array([0.9, 0.5, 0.5, 0.5])
    assert threshold_for(0.7, scores) == 0.9
    assert threshold_for(0.6, scores) == 0.5


def test_without_any_label_no_threshold_reaches_a_precision():
    assert threshold_for(0.5, np.zeros(0)) > 1


def patches(*covered: int) -> np.ndarray:
    mask = np.zeros(GRID, bool)
    mask.flat[list(covered)] = True
    return mask


def image_of(*proposals: tuple[str, np.ndarray], label: int = 0, segmentation=None) -> dict[str, Any]:
    stored = [
        {
            "proposal_id": f"a.jpg#{number}",
            "generator": generator,
            "grid_mask": masks.pack(mask),
            "segmentation": segmentation,
        }
        for number, (generator, mask) in enumerate(proposals)
    ]
    return {"image_id": "a.jpg", "label": label, "width": 40, "height": 24, "grid": list(GRID), "proposals": stored}


def region(**scores: float) -> dict[str, Any]:
    """A labeled proposal: softmax score of each class, such as `c1=0.9`."""
    return {"top_labels": [int(name[1:]) for name in scores], "top_scores": list(scores.values())}


APART = (("maskcut", patches(0, 1, 4, 5)), ("merge", patches(2, 3, 6, 7)), ("merge", patches(8, 9, 12, 13)))


def test_every_label_has_the_region_that_shows_it_best():
    row = calibrated(0, {1: 0.9, 2: 0.6}, proposals=[region(c0=0.4), region(c1=0.4), region(c2=0.3)])
    image, rule = image_of(*APART), rule_of()
    found = image_regions(image, row, image_labels(0, row, rule), rule)
    assert [(item["label"], item["score"], item["generator"]) for item in found] == [
        (0, 0.8, "maskcut"), (1, 0.9, "merge"), (2, 0.6, "merge"),
    ]  # fmt: skip
    assert [item["region_id"] for item in found] == ["a.jpg#0", "a.jpg#1", "a.jpg#2"]
    for item, (_, mask) in zip(found, APART, strict=True):
        assert item["segmentation"]["size"] == [24, 40]
        picture = masks.decode(item["segmentation"])
        assert np.array_equal(picture, masks.to_image(mask, (40, 24)))
        assert item["area"] == picture.sum() == coco.area(item["segmentation"])
        assert item["bbox"] == coco.toBbox(item["segmentation"]).tolist()


def test_labels_below_the_threshold_and_unsure_regions_are_left_out():
    row = calibrated(0, {1: 0.4}, proposals=[region(c0=0.9), region(c1=0.4), region(c2=0.3)])
    rule = rule_of()
    found = image_regions(image_of(*APART), row, image_labels(0, row, rule), rule)
    assert [item["label"] for item in found] == [0]


def test_a_proposal_that_shows_two_labels_has_a_region_for_each():
    row = calibrated(0, {3: 0.7}, proposals=[region(c0=0.5, c3=0.4), region(c1=0.1), region(c2=0.1)])
    rule = rule_of()
    found = image_regions(image_of(*APART), row, image_labels(0, row, rule), rule)
    assert [(item["region_id"], item["label"]) for item in found] == [("a.jpg#0", 0), ("a.jpg#0:3", 3)]
    assert found[0]["segmentation"] == found[1]["segmentation"]


def test_further_sure_regions_are_released_but_not_the_same_object_twice():
    same = patches(0, 1, 4)  # IoU 0.75 with the first
    proposals = (*APART, ("merge", same), ("merge", patches(10, 11)), ("merge", patches(14, 15)))
    regions = [region(c0=0.9), region(c1=0.1), region(c2=0.1), region(c0=0.99), region(c0=0.7), region(c4=0.8)]
    row = calibrated(0, {}, proposals=regions)
    rule = rule_of(region_score=0.6)
    found = image_regions(image_of(*proposals), row, image_labels(0, row, rule), rule)
    assert [(item["region_id"], item["label"]) for item in found] == [("a.jpg#0", 0), ("a.jpg#4", 0), ("a.jpg#5", 4)]
    assert [item["score"] for item in found] == [0.8, 0.8, 0.0]  # of the class in the image; class 4 has none stored
    strict = image_regions(image_of(*proposals), row, image_labels(0, row, rule), rule_of(region_score=0.85))
    assert [item["region_id"] for item in strict] == ["a.jpg#0"]


def test_no_region_of_an_excluded_class_is_released():
    row = calibrated(0, {1: 0.9}, proposals=[region(c0=0.9), region(c1=0.9), region(c2=0.9)])
    rule = rule_of(excluded=[1])
    found = image_regions(image_of(*APART), row, image_labels(0, row, rule), rule)
    assert [item["label"] for item in found] == [0, 2]


def test_by_softmax_scores_every_label_has_a_region_too():
    row = raw({0: 0.6, 1: 0.3}, {1: 0.4, 2: 0.35}, {3: 0.2})
    rule = rule_of(threshold=0.35, calibrated=False)
    found = image_regions(image_of(*APART), row, image_labels(0, row, rule), rule)
    assert [(item["label"], item["score"]) for item in found] == [(0, 0.6), (1, 0.4), (2, 0.35)]
    assert [item["region_id"] for item in found] == ["a.jpg#0", "a.jpg#1", "a.jpg#1:2"]


def test_an_exact_outline_is_kept():
    outline = np.zeros((24, 40), bool)
    outline[3:7, 5:9] = True
    image = image_of(("file", patches(0)), segmentation=masks.encode(outline))
    row, rule = calibrated(0, {}, proposals=[region(c0=0.9)]), rule_of()
    (found,) = image_regions(image, row, image_labels(0, row, rule), rule)
    assert found["segmentation"] == masks.encode(outline)
    assert (found["area"], found["generator"]) == (16, "file")


def test_an_image_without_proposals_has_no_regions():
    row, rule = calibrated(0, {1: 0.9}), rule_of()
    for item in row["labels"]:
        item["proposal"] = -1
    assert image_regions(image_of(), row, image_labels(0, row, rule), rule) == []
