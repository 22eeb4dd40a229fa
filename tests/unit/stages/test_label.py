"""The label stage on generated images: calibrated scores, the proposal behind each label, error rows."""

import numpy as np
import pytest
from jobs import ImageRegions, make_job, rows_of, write_proposals
from scenes import Scenes, make_scenes

from hf_relabel.config import BootstrapConfig, LabelConfig, ScoreConfig, TrainConfig
from hf_relabel.run.job import Job
from hf_relabel.stages import label, score, train

CLASSES = 6


def labeled(folder, scenes: Scenes, shard_size: int = 100, **sections) -> Job:
    settings = {"score": ScoreConfig(bootstrap=BootstrapConfig(folds=5)), "train": TrainConfig(folds=5)} | sections
    job = make_job(folder, scenes.labels, CLASSES, shard_size=shard_size, **settings)
    write_proposals(job, scenes.regions)
    for stage in (score, train, label):
        stage.run(job)
    return job


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Half of the images show a second class, half an unknown object; one is damaged, one has no proposals."""
    made = make_scenes(400, CLASSES)
    made.regions[5] = None
    made.regions[7] = ImageRegions(made.regions[7].whole, [], np.asarray(made.regions[7].windows))
    return made


@pytest.fixture(scope="module")
def job(scenes, tmp_path_factory) -> Job:
    return labeled(tmp_path_factory.mktemp("label"), scenes)


@pytest.fixture(scope="module")
def rows(job) -> list[dict]:
    return rows_of(job, "regions", "label")


def test_labels_that_are_added_are_true_and_most_true_ones_are_added(rows, scenes):
    added = [
        (item["label"] in truth, item["score"])
        for row, truth in zip(rows, scenes.truth, strict=True)
        for item in row["labels"]
        if item["score"] is not None and item["score"] >= 0.5
    ]
    missing = sum(len(truth) - 1 for truth in scenes.truth)
    is_true = np.array([right for right, _ in added])
    assert is_true.mean() > 0.9
    assert is_true.sum() > 0.8 * missing
    assert abs(np.mean([score for _, score in added]) - is_true.mean()) < 0.25


def test_each_label_names_the_proposal_that_shows_it(rows, scenes):
    right = []
    for row, shown in zip(rows, scenes.shown, strict=True):
        for item in row["labels"]:
            if item["score"] is None or item["score"] >= 0.5:
                # a merged region may fit an object as well as MaskCut's, whose class is known here
                right += [shown[item["proposal"]] == item["label"]] if 0 <= item["proposal"] < len(shown) else []
    assert len(right) > 250
    assert np.mean(right) > 0.95


def test_the_given_label_comes_first_without_a_score_and_the_others_by_score(rows, scenes):
    for row, given in zip(rows, scenes.labels, strict=True):
        if row["error"] is None:
            assert (row["labels"][0]["label"], row["labels"][0]["score"]) == (given, None)
            scores = [item["score"] for item in row["labels"][1:]]
            assert scores == sorted(scores, reverse=True)
            assert len({item["label"] for item in row["labels"]}) == len(row["labels"])


def test_a_wrong_given_label_has_a_low_score(scenes, tmp_path):
    """The given label stays in `labels`, but its score says that no region shows it."""
    wrong = list(range(0, 400, 20))
    labels = [*scenes.labels]
    for number in wrong:
        labels[number] = next(k for k in range(CLASSES) if k not in scenes.truth[number])
    job = labeled(tmp_path, Scenes(labels, scenes.regions, scenes.shown, scenes.truth))
    rows = rows_of(job, "regions", "label")
    of_wrong = [rows[number]["label_score"] for number in wrong]
    of_right = [row["label_score"] for number, row in enumerate(rows) if number not in (*wrong, 5, 7)]
    assert np.mean(np.array(of_wrong) < 0.25) > 0.9
    assert np.mean(np.array(of_right) > 0.75) > 0.9


@pytest.mark.slow
def test_nothing_is_added_where_no_image_shows_a_second_class(tmp_path):
    """Unknown objects and surroundings are in most images, yet no label is invented."""
    job = labeled(tmp_path, make_scenes(300, CLASSES, extra=0.0, distractors=0.9))
    rows = rows_of(job, "regions", "label")
    assert not any(item["score"] is not None and item["score"] >= 0.5 for row in rows for item in row["labels"])


def test_too_few_images_to_calibrate_on_keep_their_given_labels(tmp_path):
    job = labeled(tmp_path, make_scenes(15, 2), train=TrainConfig(folds=2))
    rows = rows_of(job, "regions", "label")
    assert {row["label_score"] for row in rows} == {None}
    assert {len(row["labels"]) for row in rows} == {1}
    assert all(row["proposals"] for row in rows)


def test_damaged_images_and_images_without_proposals_have_rows(rows, scenes):
    assert rows[5]["error"] == "cannot identify image file"
    assert (rows[5]["labels"], rows[5]["proposals"], rows[5]["windows"]) == ([], [], [])
    assert (rows[7]["error"], rows[7]["proposals"], len(rows[7]["windows"])) == (None, [], 9)
    assert {item["proposal"] for item in rows[7]["labels"]} == {-1}
    for row, regions in zip(rows, scenes.regions, strict=True):
        if regions is not None:
            assert len(row["proposals"]) == len(regions.proposals)


def test_a_shard_of_damaged_images_only(tmp_path):
    scenes = make_scenes(200, CLASSES)
    scenes.regions[8:12] = [None] * 4
    rows = rows_of(labeled(tmp_path, scenes, shard_size=4), "regions", "label")
    assert [bool(row["error"]) for row in rows] == [8 <= number < 12 for number in range(200)]
    assert all(row["global_labels"] == [] for row in rows[8:12])


def test_the_number_of_stored_classes(tmp_path):
    job = labeled(tmp_path, make_scenes(40, CLASSES), label=LabelConfig(top_k=2))
    rows = rows_of(job, "regions", "label")
    assert {len(proposal["top_labels"]) for row in rows for proposal in row["proposals"]} == {2}
    assert {len(row["global_labels"]) for row in rows} == {2}
