"""A small run with a release, and further versions of it with corrections by hand."""

from dataclasses import replace
from pathlib import Path

from jobs import make_job, write_proposals
from scenes import make_scenes

from hf_relabel.config import BackboneConfig, BootstrapConfig, BuildConfig, ScoreConfig, SourceConfig, TrainConfig
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import stored_releases
from hf_relabel.review.corrections import Correction, add_corrections
from hf_relabel.run.job import Job
from hf_relabel.stages import build, label, score, train

CLASSES = 6


def make_run(folder: Path) -> Job:
    """Every stage of 500 images, up to a release 1.0.0 without corrections."""
    scenes = make_scenes(500, CLASSES, noise=4.0)
    job = make_job(
        folder / "run",
        scenes.labels,
        CLASSES,
        shard_size=100,
        source=SourceConfig(path=str(folder)),
        backbone=BackboneConfig(model=str(folder)),
        score=ScoreConfig(bootstrap=BootstrapConfig(folds=5)),
        train=TrainConfig(folds=5),
        build=BuildConfig(region_score=0.99),
    )
    write_proposals(job, scenes.regions)
    for stage in (score, train, label, build):
        stage.run(job)
    return job


def at_version(job, version) -> Release:
    """A version, wherever it is by now."""
    return stored_releases(job.folder)[version]


def build_as(job, version, corrections=None, path=None, **settings) -> Release:
    if path is not None:
        add_corrections(path, [Correction.from_json(line) for line in corrections])
        settings["corrections"] = str(path)
    changed = replace(job.config, build=replace(job.config.build, version=version, **settings))
    return Release.open(build.run(Job(changed, job.rank))["folder"])


def line(image, what, old, new, when="2026-01-01", **about):
    return {
        "image": image,
        **(about or {"label": what}),
        "old": old,
        "new": new,
        "who": "A",
        "when": when,
    }


def rows_of(release, columns=None):
    return {row["image_id"]: row for row in release.rows("regions", columns)}


def names(row, release):
    return {release.class_names[label] for label in row["labels"]}
