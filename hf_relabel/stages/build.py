"""Build: the release, from the stored proposals and regions. No backbone runs, so a changed threshold takes minutes."""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_relabel import __version__
from hf_relabel.config import BuildConfig, as_dict
from hf_relabel.errors import ReleaseError
from hf_relabel.labeling.labeler import CONFIG as LABELER_CONFIG
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import add_version, find_version
from hf_relabel.release.writer import write_release
from hf_relabel.run.job import Job
from hf_relabel.run.progress import wait_for
from hf_relabel.run.store import Fingerprint, ShardFolder, make_folder, read_json
from hf_relabel.schema import release_schema

PACKAGES = ("accelerate", "datasets", "huggingface-hub", "numpy", "pillow", "pyarrow", "pycocotools", "scipy", "torch")


def run(job: Job) -> dict[str, Any]:
    """Write the release; return its counters and folder."""
    proposals, proposed = job.finished("proposals", "propose")
    regions, labeled = job.finished("regions", "label")
    if labeled["inputs"]["proposals"] != proposals.fingerprint.digest:
        raise ReleaseError(f"{regions.folder}: labels other proposals than {proposals.folder}; run `hf-relabel label`")
    fingerprint = Fingerprint({**job.settings("build"), "regions": regions.fingerprint.digest})
    build = job.config.build

    def finished() -> dict[str, Any] | None:
        release = find_version(job.folder, build.version, fingerprint.digest)
        return _outcome(release) if release else None

    if (outcome := finished()) is not None:
        return outcome
    if not job.rank.is_main:
        return wait_for(finished)
    make_folder(job.folder)
    job.accepted()
    excluded: list[tuple[str, str]] = []

    def write(folder: Path) -> Release:
        return write_release(
            folder,
            release_tables(job, proposals, regions, excluded),
            class_names=job.source.class_names,
            split=job.source.split,
            version=build.version,
            name=build.name or job.folder.name,
            provenance=_provenance(job, fingerprint, proposed),
            excluded=excluded,
            rows_per_file=build.rows_per_file,
        )

    release = add_version(job.folder, build.version, fingerprint.digest, write)
    return _outcome(release)


def release_tables(
    job: Job, proposals: ShardFolder, regions: ShardFolder, excluded: list[tuple[str, str]]
) -> Iterator[pa.Table]:
    """The release's rows, a table a shard; images with an error go to `excluded` with their reason instead."""
    schema = release_schema("regions", job.source.class_names)
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
    """An image's row of the release from its rows of `schema.PROPOSALS` and `schema.REGIONS`.

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
    """The image's labels with their scores, highest first; of equal scores the lower class first."""
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


def _provenance(job: Job, fingerprint: Fingerprint, proposed: dict[str, Any]) -> dict[str, Any]:
    """Where the release comes from: models with their revisions, every setting, seeds, versions, what was dropped."""
    counters = {"propose": proposed["counters"]}
    if (job.stage_folder("scores") / "manifest.json").exists():
        counters["score"] = job.finished("scores", "score")[1]["counters"]
    labeler = read_json(job.stage_folder("labeler") / LABELER_CONFIG) or {}
    packages = {name: version(name) for name in (*PACKAGES, "transformers")}
    return {
        "fingerprint": fingerprint.digest,
        "tool": {"name": "hf_relabel", "version": __version__},
        "backbone": proposed["inputs"]["backbone"],
        "labeler": {key: labeler.get(key) for key in ("head", "training")},
        # What the proposals were made with, whatever this command's own section says.
        "config": _public_config(job) | {"propose": proposed["inputs"]["propose"]},
        "source_fingerprint": job.source.fingerprint,
        "counters": counters,
        "packages": packages,
        "python": platform.python_version(),
    }


def _public_config(job: Job) -> dict[str, Any]:
    """The settings that decide the result; of a folder on this machine only its name, which is all others can use."""
    config = as_dict(job.config)
    config["run"] = {key: config["run"][key] for key in ("seed", "shard_size")}
    for section, key in (("source", "path"), ("source", "class_names"), ("backbone", "model"), ("score", "label_maps")):
        value = config[section][key]
        if value and Path(value).exists():
            config[section][key] = Path(value).resolve().name
    return config


def _outcome(release: Release) -> dict[str, Any]:
    return {"counters": _counters(release.statistics), "folder": str(release.folder)}


def _counters(statistics: dict[str, Any]) -> dict[str, Any]:
    names = {
        "images": "images",
        "labels": "labels",
        "mean_labels_per_image": "labels an image",
        "multi_label_share": "share of multi-label images",
        "regions": "regions",
    }
    return {text: statistics[key] for key, text in names.items() if isinstance(statistics.get(key), int | float)}
