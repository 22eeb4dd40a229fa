"""Build: the release, from the stored proposals and regions.

No image is opened and no backbone runs, so another threshold takes minutes. What the manifest says about how the table
was made comes from the recorded inputs of the stages, never from the settings of this command.
"""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_relabel import __version__
from hf_relabel.config import BuildConfig
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import add_version, find_version
from hf_relabel.release.writer import write_release
from hf_relabel.run.claims import Claims
from hf_relabel.run.job import Job
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import Fingerprint, make_folder
from hf_relabel.schema import release_schema

ALGORITHM = 1
"""Raise it when a change of the code changes the rows of a release."""

PACKAGES = ("accelerate", "datasets", "huggingface-hub", "numpy", "pillow", "pyarrow", "pycocotools", "scipy", "torch")


def run(job: Job) -> dict[str, Any]:
    """Write the release; returns its counters and folder."""
    proposals, proposed = job.finished("proposals", "propose")
    regions, labeled = job.finished("regions", "label", proposals=proposals.fingerprint.digest)
    inputs = {"algorithm": ALGORITHM, **job.settings("build"), "regions": regions.fingerprint.digest}
    fingerprint = Fingerprint(inputs)
    build = job.config.build

    def find() -> dict[str, Any] | None:
        release = find_version(job.folder, build.version, fingerprint.digest)
        return _outcome(release) if release else None

    def write(folder: Path) -> Release:
        excluded: list[tuple[str, str]] = []
        return write_release(
            folder,
            release_tables(job, proposals, regions, excluded),
            class_names=job.snapshot.class_names,
            split=job.snapshot.split,
            version=build.version,
            name=build.name or job.folder.name,
            provenance=_provenance(job, fingerprint, proposed, labeled),
            excluded=excluded,
            rows_per_file=build.rows_per_file,
        )

    def make() -> dict[str, Any]:
        job.accepted()
        return _outcome(add_version(job.folder, build.version, fingerprint.digest, write))

    make_folder(job.folder)
    return Claims(job.folder).once("release", f"the release in {job.folder}", find, make)


def release_tables(
    job: Job, proposals: ShardFolder, regions: ShardFolder, excluded: list[tuple[str, str]]
) -> Iterator[pa.Table]:
    """Yield the release's rows, one table per shard; an image with an error goes to `excluded` with its reason."""
    schema = release_schema("regions", job.snapshot.class_names)
    for shard in job.shards:
        rows = []
        pairs = zip(proposals.read(shard.index).to_pylist(), regions.read(shard.index).to_pylist(), strict=True)
        for image, labeled in pairs:
            if labeled["error"] is not None:
                excluded.append((image["image_id"], labeled["error"]))
            else:
                rows.append(release_row(image, labeled, job.config.build))
        yield pa.Table.from_pylist(rows, schema=schema)


def release_row(image: dict[str, Any], labeled: dict[str, Any], config: BuildConfig) -> dict[str, Any]:
    """Make an image's row of the release from its rows of `schema.PROPOSALS` and `schema.REGIONS`.

    A class's score is its highest probability over the regions (arXiv 2603.05729, section 3).
    """
    scores = image_scores(image["label"], labeled, config)
    return {
        "image_id": image["image_id"],
        "label": image["label"],
        "labels": [label for label, _ in scores],
        "scores": [score for _, score in scores],
        "width": image["width"],
        "height": image["height"],
        "regions": [
            {
                "region_id": proposal["proposal_id"],
                "label": region["top_labels"][0],
                "score": region["top_scores"][0],
                "top_labels": region["top_labels"],
                "top_scores": region["top_scores"],
                "bbox": proposal["bbox"],
                "area": proposal["area"],
                "segmentation": proposal["segmentation"],
            }
            for proposal, region in zip(image["proposals"], labeled["proposals"], strict=True)
        ],
        "version": config.version,
    }


def image_scores(label: int, labeled: dict[str, Any], config: BuildConfig) -> list[tuple[int, float]]:
    """The image's labels with their scores, highest first; with equal scores the lower class comes first."""
    highest: dict[int, float] = {}
    sources = [(region["top_labels"], region["top_scores"]) for region in labeled["proposals"]]
    if config.include_global:
        sources.append((labeled["global_labels"], labeled["global_scores"]))
    for labels, scores in sources:
        for name, score in zip(labels, scores, strict=True):
            highest[name] = max(score, highest.get(name, 0.0))
    kept = {name: score for name, score in highest.items() if score >= config.threshold}
    if config.include_original:
        kept[label] = 1.0
    return sorted(kept.items(), key=lambda item: (-item[1], item[0]))


def _provenance(
    job: Job, fingerprint: Fingerprint, proposed: dict[str, Any], labeled: dict[str, Any]
) -> dict[str, Any]:
    """How the release was made: models, settings, seeds, versions and counts, as the stages recorded them."""
    made, training = proposed["inputs"], labeled["inputs"]["labeler"]["training"]
    scored = training["upstream"]["scores"]
    is_own = scored["inputs"]["proposals"] == labeled["inputs"]["proposals"]
    config = {
        "source": job.snapshot.settings,
        "backbone": _backbone_settings(made["backbone"]),
        "propose": made["propose"],
        "score": {**_public(scored["inputs"]["score"]), **training["inputs"]["score"]},
        "train": training["inputs"]["train"],
        "label": labeled["inputs"]["label"],
        **job.settings("build"),
        "run": made["run"],
    }
    return {
        "fingerprint": fingerprint.digest,
        "tool": {"name": "hf_relabel", "version": __version__},
        "backbone": made["backbone"],
        "labeler": labeled["inputs"]["labeler"],
        "config": config,
        "source_fingerprint": job.snapshot.fingerprint,
        # A labeler trained on another run's proposals has counts that say nothing about these images.
        "counters": {"propose": proposed["counters"], **({"score": scored["counters"]} if is_own else {})},
        "machines": proposed.get("machines", {}),
        "packages": {name: version(name) for name in (*PACKAGES, "transformers")},
        "python": platform.python_version(),
    }


def _backbone_settings(identity: dict[str, Any]) -> dict[str, Any]:
    """The backbone's settings from its recorded identity."""
    keys = ("model", "revision", "image_size", "dtype", "proposal_feature", "region_feature")
    return {key: identity[key] for key in keys if key in identity}


def _public(score: dict[str, Any]) -> dict[str, Any]:
    """The score stage's settings, with only the name of the folder of label maps: others cannot use its path."""
    maps = score.get("label_maps")
    return score | {"label_maps": Path(maps).resolve().name} if maps else score


def _outcome(release: Release) -> dict[str, Any]:
    return {"counters": _counters(release.statistics), "folder": str(release.folder)}


def _counters(statistics: dict[str, Any]) -> dict[str, Any]:
    names = {
        "images": "images",
        "labels": "labels",
        "mean_labels_per_image": "labels per image",
        "multi_label_share": "share of multi-label images",
        "regions": "regions",
    }
    return {text: statistics[key] for key, text in names.items() if isinstance(statistics.get(key), int | float)}
