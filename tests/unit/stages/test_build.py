"""The release of a run: which labels and regions, at which threshold, and how it was made."""

import json
from dataclasses import replace

import numpy as np
import pytest
from jobs import ImageRegions, make_job, write_proposals
from scenes import Scenes, make_scenes

from hf_relabel.config import BackboneConfig, BootstrapConfig, BuildConfig, ScoreConfig, SourceConfig, TrainConfig
from hf_relabel.errors import ReleaseError, StageError, UsageError
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import verify
from hf_relabel.run.job import Job
from hf_relabel.stages import build, label, score, train
from hf_relabel.vision import masks

CLASSES = 6
GENERATED = ("maskcut", "merge")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """500 images, half of which show a second class, not always clearly; the fourth could not be read."""
    made = make_scenes(500, CLASSES, noise=4.0)
    made.regions[3] = None
    return made


@pytest.fixture(scope="module")
def labeled(scenes, tmp_path_factory) -> Job:
    """Every stage before build."""
    folder = tmp_path_factory.mktemp("build")
    job = make_job(
        folder / "run",
        scenes.labels,
        CLASSES,
        shard_size=100,
        source=SourceConfig(path=str(folder)),
        backbone=BackboneConfig(model=str(folder)),
        score=ScoreConfig(bootstrap=BootstrapConfig(folds=5)),
        train=TrainConfig(folds=5),
    )
    write_proposals(job, scenes.regions)
    for stage in (score, train, label):
        stage.run(job)
    return job


@pytest.fixture
def build_as(labeled):
    """Builds another version of the run, with the given settings; returns the rows, the release and the outcome."""

    def run(version: str, **settings):
        job = Job(replace(labeled.config, build=BuildConfig(version=version, **settings)), labeled.rank)
        outcome = build.run(job)
        release = Release.open(outcome["folder"])
        return list(release.rows("regions")), release, outcome

    return run


def added(rows, scenes=None) -> list:
    """Scores of the added labels or, with the scenes, whether each is true."""
    truth = {f"image-{k:05d}.jpg": names for k, names in enumerate(scenes.truth)} if scenes else {}
    return [
        name in truth[row["image_id"]] if scenes else value
        for row in rows
        for name, value in zip(row["labels"], row["scores"], strict=True)
        if name != row["label"]
    ]


def test_a_release_has_every_image_or_its_reason(build_as, labeled):
    rows, release, _ = build_as("1.0.0")
    verify(release)
    ids = labeled.snapshot.image_ids
    assert [row["image_id"] for row in rows] == ids[:3] + ids[4:]
    assert [row["label"] for row in rows] == np.delete(labeled.snapshot.labels, 3).tolist()
    for row in rows:
        assert row["version"] == "1.0.0"
        assert (row["width"], row["height"]) == (48, 48)
        assert row["labels"][0] == row["label"]
        assert row["scores"][0] == 1
        assert 0 <= row["label_score"] <= 1
    (left_out,) = (release.folder / "excluded.jsonl").read_text().splitlines()
    assert json.loads(left_out) == {"image_id": ids[3], "reason": "cannot identify image file"}
    assert release.statistics["images"] == 499


def test_every_added_label_is_true_by_and_large_and_has_a_region(build_as, scenes):
    rows, _, outcome = build_as("1.1.0")
    is_true = added(rows, scenes)
    assert len(is_true) > 60
    assert np.mean(is_true) > 0.9
    assert "note" not in outcome
    for row in rows:
        ids = [region["region_id"] for region in row["regions"]]
        assert len(set(ids)) == len(ids)
        assert set(row["labels"]) <= {region["label"] for region in row["regions"]}
        for region in row["regions"]:
            assert region["region_id"].startswith(f"{row['image_id']}#")
            assert region["generator"] in GENERATED
            mask = masks.decode(region["segmentation"])
            assert mask.shape == (48, 48)
            assert mask.sum() == region["area"] > 0
            if region["label"] in row["labels"][1:]:
                assert region["score"] == pytest.approx(row["scores"][row["labels"].index(region["label"])])
            elif region["label"] == row["label"]:
                assert region["score"] == pytest.approx(row["label_score"])
            else:
                assert 0 < region["score"] < 0.5


def possible(labeled: Job) -> np.ndarray:
    """The scores of all labels that were stored for the images and are not given ones."""
    folder, _ = labeled.finished("regions", "label")
    rows = [row for shard in labeled.shards for row in folder.read(shard.index).to_pylist()]
    return np.array([item["score"] for row in rows for item in row["labels"] if item["score"] is not None])


def test_a_wanted_precision_chooses_the_lowest_threshold(build_as, labeled):
    scores = possible(labeled)
    precisions = [np.quantile(scores, 0.9), scores[scores >= np.median(scores)].mean() - 0.01]
    for number, precision in enumerate(precisions):
        rows, release, _ = build_as(f"2.0.{number}", precision=float(precision), threshold=0.0)
        found = np.array(added(rows))
        assert 0 < len(found) < len(scores)
        assert found.mean() >= precision - 1e-6
        assert len(found) == np.count_nonzero(scores >= found.min())
        lower = scores[scores < found.min()].max()
        assert scores[scores >= lower].mean() < precision
        assert release.provenance["scores"]["threshold"] == pytest.approx(found.min())
    rows, _, outcome = build_as("2.0.3", precision=0.9999)
    assert added(rows) == []
    assert "no threshold reaches an estimated precision of 0.9999" in outcome["note"]


def test_thresholds_and_exclusion_of_single_classes(build_as):
    rows, _, _ = build_as("2.1.0")
    strict, _, _ = build_as("2.1.1", class_thresholds={"class 2": 0.8}, exclude_classes=["class 4"])
    dropped = []
    for row, other in zip(rows, strict, strict=True):
        pairs = list(zip(row["labels"], row["scores"], strict=True))
        kept = [(k, v) for k, v in pairs if k == row["label"] or (k != 4 and (k != 2 or v >= 0.8))]
        assert list(zip(other["labels"], other["scores"], strict=True)) == kept
        dropped += [k for k, _ in pairs if k not in other["labels"]]
    assert set(dropped) == {2, 4}
    assert any(row["label"] == 4 for row in strict)  # given labels stay
    for settings in ({"exclude_classes": ["clas 4"]}, {"class_thresholds": {"clas 4": 0.3}}):
        with pytest.raises(UsageError, match=r"no class 'clas 4' \(nearest: 'class 4'\)"):
            build_as("2.1.2", **settings)


def test_uncalibrated_scores_are_the_highest_softmax_over_the_proposals(build_as, labeled):
    rows, _, _ = build_as("2.2.0", calibrated=False, include_original=False, threshold=0.6)
    stored = {
        row["image_id"]: row
        for shard in labeled.shards
        for row in labeled.finished("regions", "label")[0].read(shard.index).to_pylist()
    }
    for row in rows:
        highest: dict[int, float] = {}
        for region in stored[row["image_id"]]["proposals"]:
            for name, value in zip(region["top_labels"], region["top_scores"], strict=True):
                highest[name] = max(value, highest.get(name, 0.0))
        expected = {name: value for name, value in highest.items() if value >= 0.6}
        assert dict(zip(row["labels"], row["scores"], strict=True)) == pytest.approx(expected)
        assert row["label_score"] is None


def test_provenance_says_how_and_names_no_folder_of_this_machine(build_as, labeled):
    _, release, _ = build_as("1.0.0")
    assert release.provenance["backbone"]["model"] == "test/backbone"
    assert release.provenance["config"]["score"]["method"] == "bootstrap"
    assert release.provenance["config"]["source"]["path"] == "images"
    training = release.provenance["labeler"]["training"]
    assert (training["head"], training["folds"]) == ("discriminant", 5)
    assert 0 < training["scores"]["calibration"]["propensity"] < 1
    counters = release.provenance["counters"]["score"]
    assert counters["images with a region that trains as a class"] == 499
    assert str(labeled.folder.parent) not in (release.folder / "manifest.json").read_text()


def test_another_threshold_needs_another_version_but_no_backbone(build_as, labeled):
    _, _, before = build_as("3.0.0")
    _, _, stricter = build_as("3.0.1", threshold=1.0)
    assert stricter["counters"]["labels"] < before["counters"]["labels"]
    assert Release.open(labeled.stage_folder("release")).version == "3.0.1"
    with pytest.raises(ReleaseError, match=r"version 3\.0\.0 already exists .*--build\.version 3\.1\.0"):
        build_as("3.0.0", threshold=1.0)
    _, _, again = build_as("3.0.0")
    assert again["counters"] == before["counters"]
    assert again["folder"] == str(labeled.folder / "releases" / "3.0.0")


def test_the_outcome_says_how_many_labels_were_added_and_from_which_score_on(build_as):
    rows, release, outcome = build_as("3.2.0", precision=0.9)
    threshold = release.provenance["scores"]["threshold"]
    assert outcome["counters"][f"added labels, threshold {threshold:.3g}"] == len(added(rows))
    assert outcome["counters"]["of them true, by estimate"] == round(sum(added(rows)))
    assert len(repr(release)) < 1000


@pytest.mark.parametrize(
    ("images", "made", "note"),
    [
        (200, {"extra": 0.0, "distractors": 0.9}, "no label was added: the estimated gain is"),
        (15, {}, "no label was added: too few images"),
    ],
)
def test_it_is_said_when_relabeling_does_not_help(tmp_path, images, made, note):
    scenes = make_scenes(images, CLASSES, **made)
    score_config = ScoreConfig(bootstrap=BootstrapConfig(folds=5))
    job = make_job(tmp_path, scenes.labels, CLASSES, score=score_config, train=TrainConfig(folds=5))
    write_proposals(job, scenes.regions)
    for stage in (score, train, label):
        stage.run(job)
    outcome = build.run(job)
    assert outcome["note"].startswith(note)
    assert outcome["counters"]["labels"] == images
    rows = list(Release.open(outcome["folder"]).rows("regions"))
    assert sum(len(row["regions"]) for row in rows) >= images // 2
    assert {region["label"] == row["label"] for row in rows for region in row["regions"]} == {True}


def test_labels_of_other_proposals_are_refused(tmp_path):
    scenes = make_scenes(24, 2)
    job = make_job(tmp_path, scenes.labels, 2, train=TrainConfig(folds=2))
    write_proposals(job, scenes.regions)
    for stage in (score, train, label):
        stage.run(job)
    write_proposals(job, [ImageRegions(np.zeros(24))] * 24, backbone={"model": "test/other"})
    with pytest.raises(StageError, match="regions: was made from a different proposals"):
        build.run(job)
