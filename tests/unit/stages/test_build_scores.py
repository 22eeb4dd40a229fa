"""What a release says about its scores, from generated images with a known truth."""

from dataclasses import replace

import pytest
from jobs import make_job, write_proposals
from scenes import make_scenes

from hf_relabel.config import BootstrapConfig, BuildConfig, ScoreConfig, TrainConfig
from hf_relabel.release.reader import Release
from hf_relabel.run.job import Job
from hf_relabel.stages import build, label, score, train
from hf_relabel.stages.pipeline import summary_of_stage

CLASSES = 5


def labeled_job(folder, scenes, folds=5) -> Job:
    few = ScoreConfig(bootstrap=BootstrapConfig(folds=5))
    job = make_job(folder, scenes.labels, CLASSES, shard_size=100, score=few, train=TrainConfig(folds=folds))
    write_proposals(job, scenes.regions)
    for stage in (score, train, label):
        stage.run(job)
    return job


def built(job: Job, **settings) -> tuple[Release, dict]:
    """The release of a job with settings of the build stage, and what the stage reported."""
    job = Job(replace(job.config, build=BuildConfig(**settings)), job.rank)
    outcome = build.run(job)
    return Release.open(outcome["folder"]), outcome


def added_scores(release: Release) -> list[float]:
    return [
        score
        for row in release.rows("labels")
        for label, score in zip(row["labels"], row["scores"], strict=True)
        if label != row["label"]
    ]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """Images of which half show a second class, too noisy to be sure of all of them."""
    return labeled_job(tmp_path_factory.mktemp("run"), make_scenes(500, CLASSES, noise=3.0))


def test_the_estimate_is_that_of_the_released_labels(job):
    release, outcome = built(job)
    scores, record = added_scores(release), release.provenance["scores"]
    assert len(scores) > 50
    assert record["added"]["labels"] == len(scores)
    assert record["added"]["precision"] == pytest.approx(sum(scores) / len(scores))
    assert (record["head"], record["folds"], record["background"]) == ("discriminant", 5, True)
    assert (record["threshold"], record["note"]) == (0.5, None)
    assert 0.4 < record["propensity"] < 1
    assert "note" not in outcome


def test_a_wanted_precision_chooses_the_threshold(job):
    possible = added_scores(built(job, version="1.4.0", threshold=0.0)[0])
    wanted = (sum(possible) / len(possible) + max(possible)) / 2  # between what all have and what can be reached
    release, _ = built(job, version="1.1.0", precision=wanted)
    scores, record = added_scores(release), release.provenance["scores"]
    assert 0 < len(scores) < len(possible)
    assert record["threshold"] == pytest.approx(min(scores))
    assert record["added"]["precision"] == pytest.approx(sum(scores) / len(scores))
    assert record["added"]["precision"] >= wanted - 1e-6


def test_softmax_scores_are_not_called_probabilities(job):
    release, _ = built(job, version="1.2.0", calibrated=False)
    record = release.provenance["scores"]
    assert not record["calibrated"]
    assert record["added"] == {"labels": len(added_scores(release)), "true": None, "precision": None}
    assert record["propensity"] is None
    assert {row["label_score"] for row in release.rows("labels")} == {None}


def test_where_nothing_is_added_the_command_and_the_manifest_say_why(tmp_path):
    job = labeled_job(tmp_path, make_scenes(200, CLASSES, extra=0.0, distractors=0.9))
    release, outcome = built(job)
    assert added_scores(release) == []
    assert outcome["note"] == release.provenance["scores"]["note"]
    assert outcome["note"].startswith("no label was added: the estimated gain is too small")
    last = summary_of_stage("build", outcome, 1.0).splitlines()[-1]
    assert last == f"  note: {outcome['note']}"
    _, again = built(job)
    assert again == outcome, "also when the release is there already"


def test_without_folds_no_score_is_calibrated(tmp_path):
    scenes = make_scenes(100, CLASSES)
    job = labeled_job(tmp_path, scenes, folds=0)
    release, outcome = built(job)
    assert added_scores(release) == []
    assert "train.folds 0" in outcome["note"]
    assert {row["label_score"] for row in release.rows("labels")} == {None}
    raw, outcome = built(job, version="1.1.0", calibrated=False)
    assert added_scores(raw)
    assert "note" not in outcome
