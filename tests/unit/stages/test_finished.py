"""A finished labeler on other images: its settings, its head for new images, images without labels, refusals."""

import dataclasses

import numpy as np
import pytest
from jobs import make_job, rows_of, write_proposals
from scenes import Scenes, make_scenes

from hf_relabel.config import (
    BackboneConfig,
    BootstrapConfig,
    Config,
    FeatureConfig,
    ProposeConfig,
    ScoreConfig,
    SourceConfig,
    TrainConfig,
)
from hf_relabel.errors import LabelerError, StageError, UsageError
from hf_relabel.schema import NO_LABEL
from hf_relabel.stages import label, score, train
from hf_relabel.stages.finished import FinishedLabeler, find_labeler, refuse_own

CLASSES, TRAINED, NEW = 6, 400, 100


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return make_scenes(TRAINED + NEW, CLASSES)


def part(scenes: Scenes, start: int, stop: int) -> Scenes:
    return Scenes(*(getattr(scenes, field.name)[start:stop] for field in dataclasses.fields(Scenes)))


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """A run with a labeler that was trained on the first images."""
    settings = {"score": ScoreConfig(bootstrap=BootstrapConfig(folds=5)), "train": TrainConfig(folds=5)}
    old = part(scenes, 0, TRAINED)
    job = make_job(tmp_path_factory.mktemp("trained"), old.labels, CLASSES, shard_size=100, **settings)
    write_proposals(job, old.regions)
    for stage in (score, train):
        stage.run(job)
    return job


def other_job(folder, trained, scenes: Scenes, labels: list[int]):
    """A run on other images with the labeler of `trained`."""
    job = make_job(folder, labels, CLASSES, shard_size=30)
    job = dataclasses.replace(job, labeler=trained.stage_folder("labeler"))
    write_proposals(job, scenes.regions)
    label.run(job)
    return job


def test_images_without_labels_get_those_that_they_show(trained, scenes, tmp_path):
    new = part(scenes, TRAINED, TRAINED + NEW)
    rows = rows_of(other_job(tmp_path, trained, new, [NO_LABEL] * NEW), "regions", "label")
    listed = [
        (item["label"] in truth, item["score"])
        for row, truth in zip(rows, new.truth, strict=True)
        for item in row["labels"]
        if item["score"] >= 0.5
    ]
    is_true = np.array([right for right, _ in listed])
    assert is_true.mean() > 0.9
    assert is_true.sum() > 0.8 * sum(map(len, new.truth))
    assert abs(np.mean([value for _, value in listed]) - is_true.mean()) < 0.15
    assert {row["label_score"] for row in rows} == {None}


def test_given_labels_of_new_images_stay_and_missing_ones_are_added(trained, scenes, tmp_path):
    new = part(scenes, TRAINED, TRAINED + NEW)
    rows = rows_of(other_job(tmp_path, trained, new, new.labels), "regions", "label")
    assert [row["labels"][0]["label"] for row in rows] == new.labels
    assert all(row["labels"][0]["score"] is None for row in rows)
    added = [
        item["label"] in truth
        for row, truth in zip(rows, new.truth, strict=True)
        for item in row["labels"][1:]
        if item["score"] >= 0.5
    ]
    assert np.mean(added) > 0.9


def test_a_new_image_is_labeled_the_same_whatever_its_name(trained, scenes, tmp_path):
    """Only images that the labeler was trained on have folds, which follow from their names."""
    new = part(scenes, TRAINED, TRAINED + 20)
    one = rows_of(other_job(tmp_path / "one", trained, new, [NO_LABEL] * 20), "regions", "label")
    backward = Scenes(*(getattr(new, field.name)[::-1] for field in dataclasses.fields(Scenes)))
    other = rows_of(other_job(tmp_path / "other", trained, backward, [NO_LABEL] * 20), "regions", "label")
    assert [row["labels"] for row in one] == [row["labels"] for row in other[::-1]]


def test_no_labeler_is_trained_on_images_without_labels(scenes, tmp_path):
    job = make_job(tmp_path, [NO_LABEL, *scenes.labels[1:20]], CLASSES)
    write_proposals(job, scenes.regions[:20])
    with pytest.raises(StageError, match=r"1 images have no label.*--labeler"):
        score.run(job)
    with pytest.raises(UsageError, match=r"source\.labeled.*--labeler"):
        Config(source=SourceConfig(labeled=False))


PROPOSE = {"generators": ["merge"], "tau": 0.3, "max_masks": 2, "merge_masks": 7, "windows": 3, "views": 2}


def labeler(**changes) -> FinishedLabeler:
    feature = {"kind": "token", "block": -3, "norm": True}
    backbone = {
        "model": "user/vit",
        "revision": "c" * 40,
        "image_size": 280,
        "dtype": "bfloat16",
        "proposal_feature": {"kind": "key", "block": -1, "norm": False},
        "region_feature": feature,
    } | changes.pop("backbone", {})
    training = {"upstream": {"proposals": {"inputs": {"propose": PROPOSE | changes.pop("propose", {})}}}}
    return FinishedLabeler("runs/x", changes.pop("folder", None), {"backbone": backbone, "training": training})


def test_new_images_are_prepared_like_the_training_images():
    config = labeler().configure(Config())
    assert config.backbone == BackboneConfig(
        "user/vit", "c" * 40, 280, "bfloat16", FeatureConfig("key", -1, False), FeatureConfig("token", -3, True)
    )
    found = config.propose
    assert (found.generators, found.tau, found.max_masks, found.merge_masks, found.windows) == (["merge"], 0.3, 2, 7, 3)


def test_settings_that_contradict_the_labeler_are_refused():
    with pytest.raises(UsageError, match=r"propose\.tau.*0\.4.*0\.3"):
        labeler().configure(Config(propose=ProposeConfig(tau=0.4)))
    assert labeler().configure(Config(propose=ProposeConfig(tau=0.3))).propose.tau == 0.3
    with pytest.raises(UsageError, match=r"--propose\.masks"):
        labeler(propose={"masks": {"file": "masks.json"}}).configure(Config())


def test_a_local_backbone_is_found_through_the_run_or_asked_for(tmp_path):
    local = {"model": "vit", "revision": None, "weights_sha256": "a" * 64}
    folder = tmp_path / "run" / "labeler"
    folder.mkdir(parents=True)
    with pytest.raises(LabelerError, match=r"'vit'.*aaaaaaaaaaaa.*--backbone\.model"):
        labeler(backbone=local, folder=folder).configure(Config())
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text("{}")
    (tmp_path / "run" / "config.yaml").write_text(f"backbone:\n  model: {tmp_path / 'vit'}\n")
    assert labeler(backbone=local, folder=folder).configure(Config()).backbone.model == str(tmp_path / "vit")
    # As given to a command that was started in the folder above the run's.
    (tmp_path / "run" / "config.yaml").write_text("backbone:\n  model: vit\n")
    assert labeler(backbone=local, folder=folder).configure(Config()).backbone.model == str(tmp_path / "vit")
    given = Config(backbone=BackboneConfig(model="elsewhere"))
    assert labeler(backbone=local, folder=folder).configure(given).backbone.model == "elsewhere"


def test_what_is_not_a_labeler_is_refused(tmp_path, trained):
    with pytest.raises(LabelerError, match="no labeler"):
        find_labeler(str(tmp_path))
    with pytest.raises(LabelerError, match="no such folder"):
        find_labeler("./nothing/here")
    for name in (trained.folder, trained.stage_folder("labeler")):
        assert find_labeler(str(name)).class_names == trained.snapshot.class_names
    with pytest.raises(UsageError, match=r"choose another --run\.dir"):
        refuse_own(find_labeler(str(trained.folder)), trained.folder)
