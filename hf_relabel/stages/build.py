"""Build: the release, from the stored proposals and regions.

No image is opened and no backbone runs, so another threshold takes minutes. What the manifest says about how the table
was made comes from the recorded inputs of the stages, never from the settings of this command.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_relabel import __version__
from hf_relabel.config import REGION_BACKBONE, BuildConfig
from hf_relabel.errors import UsageError
from hf_relabel.labeling.image_labels import (
    LabelRule,
    calibrated_scores,
    image_labels,
    image_regions,
    threshold_for,
)
from hf_relabel.labeling.score_record import AddedLabels, score_record
from hf_relabel.release.reader import Release
from hf_relabel.release.versions import add_version, find_version
from hf_relabel.release.writer import Batches, write_release
from hf_relabel.review.overlay import NO_CORRECTIONS, ImageCorrections
from hf_relabel.run.claims import Claims
from hf_relabel.run.job import Job
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.snapshot import read_excluded
from hf_relabel.run.store import Fingerprint, make_folder
from hf_relabel.schema import NO_LABEL, Excluded, release_schema
from hf_relabel.sources.classes import nearest
from hf_relabel.sources.hierarchy import identity, read_hierarchy
from hf_relabel.sources.splits import prefixed
from hf_relabel.stages.carried import Carried, open_base, refuse_same_ids, with_prefix
from hf_relabel.stages.checked import Knowledge, read_knowledge

ALGORITHM = 4
"""Raise it when a change of the code changes the rows of a release."""

_PROPOSAL_FIELDS = ("proposal_id", "generator", "grid_mask", "segmentation")
PROPOSAL_COLUMNS = [
    *("image_id", "label", "width", "height", "grid"),
    *(f"proposals.list.element.{name}" for name in _PROPOSAL_FIELDS),
]
REGION_COLUMNS = [
    *("error", "global_labels", "global_scores", "label_score", "labels"),
    *(f"proposals.list.element.{name}" for name in ("top_labels", "top_scores")),
]
"""What a release's rows are made from; the windows alone are more than all of this."""

PACKAGES = ("accelerate", "datasets", "huggingface-hub", "numpy", "pillow", "pyarrow", "pycocotools", "scipy", "torch")


def run(job: Job) -> dict[str, Any]:
    """Write the release; returns its counters, its folder, and a note if no label was added."""
    proposals, proposed = job.finished("proposals", "propose")
    regions, labeled = job.finished("regions", "label", proposals=proposals.fingerprint.digest)
    build, own = job.config.build, list(job.snapshot.split_sizes)
    carried = open_base(build.base, build.version, job.snapshot.class_names, own) if build.base else None
    weights = labeled["inputs"]["labeler"].get("weights_sha256")
    known = read_knowledge(build, job.folder, job.snapshot.class_names, weights)
    rule = _rule(job, regions, known)
    inputs = {"algorithm": ALGORITHM, **_settings(job, carried), "regions": regions.fingerprint.digest}
    fingerprint = Fingerprint({**inputs, **known.inputs()})

    def find() -> dict[str, Any] | None:
        release = find_version(job.folder, build.version, fingerprint.digest)
        return _outcome(release) if release else None

    def make() -> dict[str, Any]:
        added = AddedLabels()
        provenance = _provenance(job, fingerprint, proposed, labeled, carried)
        renamed = {split for split in own if carried and carried.has_one_of(job.snapshot.ids_of(split))}
        several = len(carried.order(own) if carried else own) > 1
        excluded: list[Excluded] = carried.excluded() if carried else []

        def exclude(split: str, image_id: str, reason: str) -> None:
            name = prefixed(split, image_id) if split in renamed else image_id
            excluded.append(Excluded(name, reason, split if several else None))

        for image in read_excluded(job.folder):
            exclude(image.split or own[0], image.image_id, image.reason)

        def tables(split: str) -> Batches:
            if carried and split in carried.splits:
                return carried.tables(split)
            return own_tables(split)

        def own_tables(split: str) -> Iterator[pa.Table]:
            if carried and split in renamed:
                refuse_same_ids(carried, split)
            prefix = prefixed(split, "") if split in renamed else ""
            for table in release_tables(job, split, proposals, regions, rule, exclude, added, known, prefix):
                yield with_prefix(table, split) if split in renamed else table
            provenance.update(known.records())
            provenance["scores"] = score_record(labeled["inputs"]["labeler"]["training"], rule, added)

        def write(folder: Path) -> Release:
            return write_release(
                folder,
                {split: tables(split) for split in (carried.order(own) if carried else own)},
                class_names=job.snapshot.class_names,
                version=build.version,
                name=build.name or (carried.release.name if carried else job.folder.name),
                provenance=provenance,
                excluded=excluded,
                rows_per_file=build.rows_per_file,
                corrected=known.overlay is not None or (carried is not None and carried.release.is_corrected),
            )

        return _outcome(add_version(job.folder, build.version, fingerprint.digest, write))

    make_folder(job.folder)
    return Claims(job.folder).once("release", f"the release in {job.folder}", find, make)


def _rule(job: Job, regions: ShardFolder, known: Knowledge) -> LabelRule:
    """The rule that decides which labels are listed; `build.precision` is turned into a threshold here."""
    build = job.config.build
    rule = label_rule(build, job.snapshot.class_names)
    if build.precision is None:
        return rule
    columns = [f"labels.list.element.{part}" for part in ("label", "score")]
    scores = [
        score
        for shard in job.shards
        for row in regions.read(shard.index, columns).to_pylist()
        for label, score in calibrated_scores(known.rescored(row)).items()
        if label not in rule.excluded
    ]
    return replace(rule, threshold=threshold_for(build.precision, np.array(scores)))


def label_rule(build: BuildConfig, names: list[str]) -> LabelRule:
    """The rule of a build's settings.

    Args:
        build: The settings.
        names: Names of the classes.

    Raises:
        UsageError: The settings name a class that does not exist.
        SourceError: The file of parents cannot be used.
    """
    for key, wanted in (("class_thresholds", build.class_thresholds), ("exclude_classes", build.exclude_classes)):
        for name in wanted:
            if name not in names:
                raise UsageError(f"build.{key}: no class {name!r}{nearest(name, names)}")
    excluded = frozenset(names.index(name) for name in build.exclude_classes)
    of_class = {names.index(name): value for name, value in build.class_thresholds.items()}
    ancestors = read_hierarchy(build.parents, names).ancestors if build.parents else {}
    return LabelRule(build.threshold, of_class, excluded, build, ancestors)


def release_tables(
    job: Job,
    split: str,
    proposals: ShardFolder,
    regions: ShardFolder,
    rule: LabelRule,
    exclude: Callable[[str, str, str], None],
    added: AddedLabels,
    known: Knowledge,
    prefix: str = "",
) -> Iterator[pa.Table]:
    """Yield the rows of a split, one table per shard.

    `exclude` gets split, id and reason of an image with an error; `added` counts the labels that are not given ones.
    The corrections in `known` have the ids of the release, which start with `prefix`.
    """
    schema = release_schema("regions", job.snapshot.class_names, known.overlay is not None)
    for shard in job.shards_of(split):
        rows = []
        tables = proposals.read(shard.index, PROPOSAL_COLUMNS), regions.read(shard.index, REGION_COLUMNS)
        pairs = zip(*(table.to_pylist() for table in tables), strict=True)
        for image, labeled in pairs:
            if labeled["error"] is not None:
                exclude(split, image["image_id"], labeled["error"])
            else:
                corrections, scored = known.of(prefix + image["image_id"]), known.rescored(labeled)
                rows.append(release_row(image, scored, rule, corrections))
                if corrections:
                    before = image_labels(image["label"], scored, rule)
                    known.count(prefix + image["image_id"], before, rows[-1]["labels"])
                if known.overlay:
                    rows[-1] |= corrections.columns()
                added.add(image["label"], list(zip(rows[-1]["labels"], rows[-1]["scores"], strict=True)))
        yield pa.Table.from_pylist(rows, schema=schema)


def release_row(
    image: dict[str, Any],
    labeled: dict[str, Any],
    rule: LabelRule,
    corrections: ImageCorrections = NO_CORRECTIONS,
) -> dict[str, Any]:
    """Make an image's row of the release from its rows of `schema.PROPOSALS` and `schema.REGIONS`."""
    found = image_labels(image["label"], labeled, rule)
    labels = corrections.applied_to(found, image["label"])
    listed = {label for label, _ in labels}
    # By its score, a class with 0 is not in the image, however sure the softmax is: its region would only be noise.
    regions = [
        region
        for region in corrections.applied_to_regions(
            image_regions(image, labeled, corrections.without_own_region(labels, found), rule, corrections.regions)
        )
        if region["label"] in listed or region["score"] > 0
    ]
    return {
        "image_id": image["image_id"],
        "label": None if image["label"] == NO_LABEL else image["label"],
        "labels": [label for label, _ in labels],
        "scores": [score for _, score in labels],
        "label_score": labeled["label_score"] if rule.config.calibrated else None,
        "width": image["width"],
        "height": image["height"],
        "regions": regions,
        "version": rule.config.version,
    }


def _provenance(
    job: Job,
    fingerprint: Fingerprint,
    proposed: dict[str, Any],
    labeled: dict[str, Any],
    carried: Carried | None,
) -> dict[str, Any]:
    """How the release was made: models, settings, seeds, versions and counts, as the stages recorded them.

    Its `scores` (`labeling/score_record.py`) follow from the rows and are added when these are made.
    """
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
        **_settings(job, carried),
        "run": made["run"],
    }
    return {
        "fingerprint": fingerprint.digest,
        "tool": {"name": "hf_relabel", "version": __version__},
        "backbone": made["backbone"],
        "labeler": labeled["inputs"]["labeler"],
        **({"label_maps": scored["inputs"]["label_maps"]} if "label_maps" in scored["inputs"] else {}),
        "config": config,
        "source_fingerprint": job.snapshot.fingerprint,
        # A labeler trained on another run's proposals has counts that say nothing about these images.
        "counters": {"propose": proposed["counters"], **({"score": scored["counters"]} if is_own else {})},
        "machines": proposed.get("machines", {}),
        "packages": {name: version(name) for name in (*PACKAGES, "transformers")},
        "python": platform.python_version(),
        **({"carried": carried.provenance()} if carried else {}),
    }


def _settings(job: Job, carried: Carried | None) -> dict[str, Any]:
    """The settings of the build, without places of files, and with the identity of the earlier release."""
    settings = job.settings("build")
    for key in ("base", "corrections", "checked"):
        settings["build"].pop(key)
    if (parents := settings["build"].pop("parents")) is not None:
        settings["build"]["parents"] = identity(parents)
    if not settings["build"]["recalibrate"]:
        settings["build"].pop("recalibrate")
    if carried:
        settings["build"]["base"] = carried.identity()
    return settings


def _backbone_settings(identity: dict[str, Any]) -> dict[str, Any]:
    """The backbone's settings from its recorded identity."""
    keys = ("model", "revision", "image_size", "dtype", "proposal_feature", "region_feature")
    settings = {key: identity[key] for key in keys if key in identity}
    if (region := identity.get(REGION_BACKBONE)) is not None:
        settings |= {f"region_{key}": region[key] for key in ("model", "revision", "image_size")}
        settings["region_feature"] = region["region_feature"]
    return settings


def _public(score: dict[str, Any]) -> dict[str, Any]:
    """The score stage's settings, with only the name of the folder of label maps: others cannot use its path."""
    maps = score.get("label_maps")
    return score | {"label_maps": Path(maps).resolve().name} if maps else score


def _outcome(release: Release) -> dict[str, Any]:
    """What the command reports: counts, the folder, and notes if no label was added or a correction was left out."""
    counters = _counters(release.statistics)
    corrections = release.provenance.get("corrections", {})
    if corrections:
        counters |= {"labels checked by hand": corrections["labels"], "corrected regions": corrections["regions"]}
    scores = release.provenance.get("scores", {})
    outcome: dict[str, Any] = {"counters": counters | _added(scores), "folder": str(release.folder)}
    notes = [scores.get("note")]
    if left_out := corrections.get("images_not_here"):
        notes.append(f"corrections of {left_out} images are left out: the images are not among those of this run")
    note = "; ".join(filter(None, notes))
    return outcome | ({"note": note} if note else {})


def _added(scores: dict[str, Any]) -> dict[str, Any]:
    """How many labels were added, from which score on, and how many of them are true by estimate."""
    added, threshold = scores.get("added", {}), scores.get("threshold")
    if not added.get("labels"):
        return {}
    estimate = {} if added["true"] is None else {"of them true, by estimate": round(added["true"])}
    # Without a threshold, which none reached, people added them.
    name = "added labels" if threshold is None else f"added labels, threshold {threshold:.3g}"
    return {name: added["labels"], **estimate}


def _counters(statistics: dict[str, Any]) -> dict[str, Any]:
    names = {
        "images": "images",
        "labels": "labels",
        "mean_labels_per_image": "labels per image",
        "multi_label_share": "share of multi-label images",
        "regions": "regions",
    }
    return {text: statistics[key] for key, text in names.items() if isinstance(statistics.get(key), int | float)}
