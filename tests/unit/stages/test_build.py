"""Labels of an image from its regions, and what a release says of its making."""

import json
from dataclasses import replace

import numpy as np
import pytest
from jobs import make_job, write_proposals

from hf_relabel.config import (
    BackboneConfig,
    BootstrapConfig,
    BuildConfig,
    Config,
    LabelConfig,
    ProposeConfig,
    ScoreConfig,
    SourceConfig,
    TrainConfig,
)
from hf_relabel.errors import ReleaseError, StageError
from hf_relabel.release.reader import Release
from hf_relabel.run.job import Job
from hf_relabel.run.store import read_record, write_record
from hf_relabel.stages import build, label, score, train
from hf_relabel.stages.build import image_scores


def labeled(*regions: dict[int, float], whole: dict[int, float] | None = None) -> dict:
    """An image's row of the label stage: class and score of each region's classes."""
    proposals = [{"top_labels": list(region), "top_scores": list(region.values())} for region in regions]
    whole = whole or {}
    return {"proposals": proposals, "global_labels": list(whole), "global_scores": list(whole.values())}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # the highest over the regions, at least 0.5; the original label always, with 1
        ({}, [(3, 1.0), (1, 0.9), (0, 0.6)]),
        ({"include_original": False}, [(1, 0.9), (0, 0.6)]),
        ({"include_original": False, "include_global": True}, [(1, 0.9), (2, 0.8), (0, 0.6)]),
        ({"include_original": False, "threshold": 0.0}, [(1, 0.9), (0, 0.6), (2, 0.2), (3, 0.1)]),
        ({"include_original": False, "threshold": 0.95}, []),
        ({"threshold": 0.6}, [(3, 1.0), (1, 0.9), (0, 0.6)]),  # a score at the threshold counts
    ],
)
def test_the_labels_of_an_image(settings, expected):
    image = labeled({0: 0.6, 1: 0.3}, {1: 0.9, 3: 0.1}, {1: 0.5, 2: 0.2}, whole={2: 0.8})
    assert image_scores(3, image, BuildConfig(**settings)) == expected


def test_equal_scores_are_in_the_order_of_the_classes():
    image = labeled({5: 0.7, 2: 0.7}, {9: 0.7})
    assert [name for name, _ in image_scores(0, image, BuildConfig(include_original=False))] == [2, 5, 9]


def test_an_image_without_regions_has_its_original_label_or_none():
    assert image_scores(4, labeled(), BuildConfig()) == [(4, 1.0)]
    assert image_scores(4, labeled(), BuildConfig(include_original=False)) == []


@pytest.fixture
def built(tmp_path):
    """Every stage after propose over ten images of two classes, easy to tell apart; the fourth could not be read."""
    rng = np.random.default_rng(0)
    labels = [0, 1] * 5
    centres = 4 * np.eye(2, 6)
    regions = [np.repeat(centres[name] + rng.normal(size=(3, 1, 6)) / 9, 2, axis=1) for name in labels]
    regions[3] = None
    job = make_job(
        tmp_path / "run",
        labels,
        classes=2,
        shard_size=4,
        source=SourceConfig(path=str(tmp_path)),
        backbone=BackboneConfig(model=str(tmp_path)),
        score=ScoreConfig(bootstrap=BootstrapConfig(folds=2)),
        train=TrainConfig(hidden=8, epochs=2, batch_size=4),
    )
    write_proposals(job, regions)
    for stage in (score, train, label, build):
        stage.run(job)
    return job


def test_a_release_has_every_image_or_its_reason(built):
    release = Release.open(built.stage_folder("release"))
    release.verify()
    rows = [row for batch in release.batches("regions") for row in batch.to_pylist()]
    ids = built.snapshot.image_ids
    assert [row["image_id"] for row in rows] == ids[:3] + ids[4:]
    assert [row["label"] for row in rows] == [0, 1, 0, *[0, 1] * 3]
    for row in rows:
        assert row["version"] == "1.0.0"
        assert (row["width"], row["height"]) == (4, 4)
        assert [region["region_id"] for region in row["regions"]] == [f"{row['image_id']}#{k}" for k in range(2)]
        assert all(region["label"] == region["top_labels"][0] for region in row["regions"])
    (left_out,) = (release.folder / "excluded.jsonl").read_text().splitlines()
    assert json.loads(left_out) == {"image_id": ids[3], "reason": "cannot identify image file"}
    assert release.statistics["images"] == 9


def test_provenance_says_how_and_names_no_folder_of_this_machine(built, tmp_path):
    release = Release.open(built.stage_folder("release"))
    assert release.provenance["backbone"]["model"] == "test/backbone"
    assert release.provenance["config"]["score"]["method"] == "bootstrap"
    assert release.provenance["config"]["source"]["path"] == "images"
    assert release.provenance["counters"]["score"]["kept"] > 0
    assert str(tmp_path) not in (release.folder / "manifest.json").read_text()


def test_provenance_is_what_the_stages_recorded_not_this_commands_settings(built):
    """`build` with other settings for every other stage: none of them had any effect, so none is reported."""
    expected = Release.open(built.stage_folder("release")).provenance
    other = Config(
        source=SourceConfig(path="elsewhere", split="test"),
        backbone=BackboneConfig(model="other/model", image_size=99),
        propose=ProposeConfig(tau=0.9),
        score=ScoreConfig(tau_label=0.1),
        train=TrainConfig(hidden=99),
        label=LabelConfig(top_k=1),
        build=BuildConfig(version="1.0.1"),
        run=replace(built.config.run, seed=7),
    )
    job = Job(other, built.rank)
    build.run(job)
    found = Release.open(job.stage_folder("release")).provenance
    assert found["config"].pop("build") != expected["config"].pop("build")
    for key in set(expected) - {"fingerprint"}:
        assert found[key] == expected[key], key
    assert expected["config"]["train"]["hidden"] == 8
    assert expected["labeler"]["training"]["regions"] > 0


def test_a_labeler_trained_again_does_not_change_what_a_release_says(built):
    expected = Release.open(built.stage_folder("release")).provenance["labeler"]
    config = replace(
        built.config, train=TrainConfig(hidden=16, epochs=1), run=replace(built.config.run, overwrite=True)
    )
    regions = read_record(built.stage_folder("regions") / "manifest.json")
    train.run(Job(config, built.rank))
    write_record(built.stage_folder("regions") / "manifest.json", regions)
    job = Job(replace(built.config, build=BuildConfig(version="1.0.1")), built.rank)
    build.run(job)
    assert Release.open(job.stage_folder("release")).provenance["labeler"] == expected


def test_another_threshold_needs_another_version_but_no_backbone(built):
    before = build.run(built)["counters"]
    stricter = replace(built.config, build=BuildConfig(version="1.0.1", threshold=1.0, include_original=False))
    job = Job(stricter, built.rank)
    after = build.run(job)["counters"]
    assert after["labels"] < before["labels"]
    assert Release.open(job.stage_folder("release")).version == "1.0.1"
    assert Release.open(job.folder / "releases" / "1.0.0").statistics["labels"] == before["labels"]
    changed = Job(replace(stricter, build=replace(stricter.build, version="1.0.0")), built.rank)
    with pytest.raises(ReleaseError, match=r"version 1\.0\.0 already exists .*--build\.version 1\.1\.0"):
        build.run(changed)
    assert build.run(built) == {"counters": before, "folder": str(job.folder / "releases" / "1.0.0")}


def test_labels_of_other_proposals_are_refused(built):
    write_proposals(built, [np.zeros((2, 2, 6))] * 10, backbone={"model": "test/other"})
    with pytest.raises(StageError, match="regions: was made from a different proposals"):
        build.run(built)
