r"""Labels and masks compared with known truth: F1, how many added labels are true, calibration, recall, storage.

    python scripts/bench/quality.py --data ../shared/data --folder runs/quality
    python scripts/bench/quality.py --only demo,distractors --folder runs/quality
    python scripts/bench/quality.py --only demo --images 24 --folder /tmp/trial

One configuration is used for all data, the defaults; only the image size differs. Data sets:

    demo          400 plain scenes of emoji, 280 px
    distractors   400 scenes with distractors, textures and small objects, 280 px
    voc           photos of PASCAL VOC 2012, 448 px; the given label is the class with the most pixels
    voc-strong    the same proposals with region features of EfficientNet-Lite0 instead of the backbone's
    imagenette    photos of ten ImageNet classes that do not occur together, 224 px: every added label is wrong
    coco          photos of COCO val2017 with polygons, 448 px: recall of labels by masks, and storage

For each data set with labels, three rows are measured: the defaults; features stored as 8-bit integers; and the paper's
labeler on the same images (MaskCut's proposals only, the bootstrap instead of label maps, an MLP, no background class,
softmax scores). The last four data sets need the folder of photos that `--data` names. Finished `propose` runs below
`--folder` are used again; the other stages are always run.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timing import use_one_thread, write_report

use_one_thread()

import numpy as np  # noqa: E402
from quality_changes import Change, Maps, as_bytes, only_maskcut, rewrite, share_proposals  # noqa: E402
from quality_masks import format_masks, measure_masks  # noqa: E402

from hf_relabel.config import BackboneConfig, BuildConfig, Config, RunConfig, SourceConfig, TrainConfig  # noqa: E402
from hf_relabel.demo.checkpoint import ensure_checkpoint  # noqa: E402
from hf_relabel.demo.scenes import PLAIN, SceneStyle, make_scenes  # noqa: E402
from hf_relabel.evaluation import metrics  # noqa: E402
from hf_relabel.evaluation.ground_truth import read_truth  # noqa: E402
from hf_relabel.labeling.image_labels import calibrated_scores  # noqa: E402
from hf_relabel.release.reader import Release  # noqa: E402
from hf_relabel.run.job import Job  # noqa: E402
from hf_relabel.run.quiet import quiet_libraries  # noqa: E402
from hf_relabel.run.ranks import current_rank  # noqa: E402
from hf_relabel.run.store import read_record  # noqa: E402
from hf_relabel.stages.pipeline import STAGES, run_stages  # noqa: E402

SHARD_SIZE = 100


@dataclass(frozen=True)
class DataSet:
    """Images with known truth.

    Args:
        size: Side of the resized images in pixels.
        style: Style of generated scenes; None for photos.
        photos: Image folder below the folder of photos.
        truth: File with the true labels, below the folder of photos; None if the given labels are the truth.
        bar: What the defaults must reach, and whether a measured row reaches it.
    """

    size: int
    style: SceneStyle | None = None
    photos: str = ""
    truth: str | None = None
    bar: tuple[str, Callable[[dict[str, Any]], bool]] = ("", lambda row: True)


DATA = {
    "demo": DataSet(280, PLAIN, bar=("F1 >= 0.955", lambda row: row["f1"] >= 0.955)),
    "distractors": DataSet(
        280,
        SceneStyle(),
        bar=("F1 >= 0.93, 90% true", lambda row: row["f1"] >= 0.93 and row["true_share"] >= 0.9),
    ),
    "voc": DataSet(
        448,
        photos="voc/images",
        truth="voc/truth.jsonl",
        bar=("F1 >= given", lambda row: row["f1"] >= row["given_f1"]),
    ),
    "voc-strong": DataSet(
        448,
        photos="voc/images",
        truth="voc/truth.jsonl",
        bar=("F1 >= 0.822, 60% true", lambda row: row["f1"] >= 0.822 and row["true_share"] >= 0.6),
    ),
    "imagenette": DataSet(
        224, photos="imagenette", bar=("<= 1% of photos", lambda row: row["photos"] <= 0.01 * row["images"])
    ),
    "coco": DataSet(448, photos="coco_val/images"),
}

ENOUGH, MAX_DIFFERENCE = 50, 0.25
"""With at least so many added labels, their estimated precision must be this close to the true one."""


@dataclass(frozen=True)
class Variant:
    """A way to make the labels.

    Args:
        name: For the table.
        train: Settings of the train stage.
        build: Settings of the build stage.
        change: Change of the stored proposals; None uses them as they are.
    """

    name: str
    train: TrainConfig = field(default_factory=TrainConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    change: Change | None = None


def main() -> None:
    options = _options()
    quiet_libraries()
    report: dict[str, Any] = {"rows": []}
    variants = [
        Variant("defaults"),
        Variant("8-bit features", change=as_bytes),
        Variant(
            "the paper's labeler",
            # The paper trains on a million images; these settings suit hundreds, as in the demo.
            TrainConfig("mlp", False, 0, standardize=True, lr=1e-3, batch_size=64, dropout=0.5),
            BuildConfig(calibrated=False, region_score=0.0),
            only_maskcut,
        ),
    ]
    print("| data | labels | F1 given | F1 | added | true | estimated | photos | evidence | bar |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.only:
        run = prepare(name, options)
        if name == "coco":
            continue
        for variant in variants[: 1 if options.defaults else None]:
            row = {"data": name, "labels": variant.name, **measure(name, run, variant, options)}
            report["rows"].append(row)
            print(_format_row(row, DATA[name], is_default=variant is variants[0]), flush=True)
    for row in report["rows"]:
        print("\n".join(_format_reliability(row)), flush=True)
    if "coco" in options.only:
        report["masks"] = measure_masks(options.folder / "coco", options.data / "coco_val" / "instances")
        print("\n" + "\n".join(format_masks(report["masks"])), flush=True)
    write_report(options.json, report)


def prepare(name: str, options: argparse.Namespace) -> Path:
    """Return the folder of a data set's finished `propose` run, after running it if it is not there."""
    run, data = options.folder / name, DATA[name]
    if data.style is not None:
        make_scenes(run / "scenes", options.images or 400, 0, data.size, style=data.style)
    if read_record(run / "proposals" / "manifest.json") is not None:
        return run
    if name == "voc-strong":
        maps = Maps.read(options.data / "voc" / "eff_maps.npz")
        rewrite(prepare("voc", options), run, "region features of EfficientNet-Lite0", maps.pool)
        return run
    if data.style is not None:
        images = run / "scenes" / "images"
    elif name == "coco":
        images = _photos_with_polygons(options.data / "coco_val", run / "photos")
    else:
        images = options.data / data.photos
    config = Config(
        source=SourceConfig(path=str(images), limit=options.images),
        backbone=BackboneConfig(model=options.model, image_size=data.size),
        run=RunConfig(dir=str(run), shard_size=SHARD_SIZE),
    )
    run_stages("propose", config)
    return run


def _photos_with_polygons(coco: Path, target: Path) -> Path:
    (target / "photo").mkdir(parents=True, exist_ok=True)
    for polygons in sorted((coco / "instances").glob("*.txt")):
        name = f"{polygons.stem}.jpg"
        shutil.copyfile(coco / "images" / name, target / "photo" / name)
    return target


def measure(name: str, run: Path, variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Make the labels of a data set and compare them with the truth."""
    work = options.folder / "rows" / f"{name}, {variant.name}"
    shutil.rmtree(work, ignore_errors=True)
    if variant.change is not None:
        rewrite(run, work, variant.name, variant.change)
    else:
        share_proposals(run, work)
    proposed = read_record(run / "proposals" / "manifest.json")
    assert proposed is not None
    config = Config(
        source=SourceConfig(path=str(run)),
        train=variant.train,
        build=variant.build,
        run=RunConfig(dir=str(work), shard_size=proposed["inputs"]["run"]["shard_size"], seed=options.seed),
    )
    job = Job(config, current_rank(config.run))
    for stage in ("score", "train", "label", "build"):
        STAGES[stage](job)
    return compare(job, _truth_file(name, run, options))


def _truth_file(name: str, run: Path, options: argparse.Namespace) -> Path | None:
    data = DATA[name]
    if data.style is not None:
        return run / "scenes" / "truth.jsonl"
    return options.data / data.truth if data.truth else None


def compare(job: Job, truth_file: Path | None) -> dict[str, Any]:
    """Compare the labels of a finished run with the truth; without a file, the given labels are the truth."""
    release = Release.open(job.folder / "release")
    names, rows = release.class_names, list(release.rows("regions"))
    given = metrics.multi_hot([[row["label"]] for row in rows], len(names))
    final = metrics.multi_hot([row["labels"] for row in rows], len(names))
    truth = read_truth(str(truth_file)).of([row["image_id"] for row in rows], names) if truth_file else given
    added = final & ~given
    scores = np.zeros(final.shape)
    for place, row in enumerate(rows):
        scores[place, row["labels"]] = row["scores"]
    share_true = float(truth[added].mean()) if added.any() else 1.0
    regions = [{region["label"] for region in row["regions"]} for row in rows]
    return {
        "images": len(rows),
        "given_f1": metrics.micro(given, truth).f1,
        "f1": metrics.micro(final, truth).f1,
        "added": int(added.sum()),
        "true_share": share_true,
        "estimated": float(scores[added].mean()) if added.any() else None,
        "photos": int(added.any(axis=1).sum()),
        "added_with_mask": sum(label in regions[place] for place, label in np.argwhere(added)),
        "reliability": _reliability(job, given, truth) if job.config.build.calibrated else [],
        "evidence": _evidence(job),
    }


def _reliability(job: Job, given: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Scores of all labels that are not the given ones, in tenths, with the share of true ones."""
    folder, _ = job.finished("regions", "label")
    labeled = [row for shard in job.shards for row in folder.read(shard.index).to_pylist() if row["error"] is None]
    scores = np.zeros(truth.shape)
    for place, row in enumerate(labeled):
        for label, score in calibrated_scores(row).items():
            scores[place, label] = score
    chosen = (scores > 0) & ~given
    return [
        {"low": bin_.low, "high": bin_.high, "count": bin_.count, "score": bin_.mean_score, "true": bin_.hit_rate}
        for bin_ in metrics.reliability(scores[chosen], truth[chosen])
        if bin_.count
    ]


def _evidence(job: Job) -> str:
    """Which evidence the labeler chose, and its propensity."""
    if not job.config.build.calibrated:
        return "softmax"
    scores = read_record(job.folder / "labeler" / "config.json")["scores"]  # type: ignore[index]
    chosen = scores["estimates"].get(scores["evidence"])
    if chosen is None:
        return "not calibrated"
    return f"{scores['evidence']}, e {chosen['propensity']:.3f}, gain {chosen['gain']:.1f}"


def _format_row(row: dict[str, Any], data: DataSet, is_default: bool) -> str:
    text, reaches = data.bar
    bar = f"{text}: {'reached' if reaches(row) else 'NOT reached'}" if is_default else ""
    if is_default and row["added"] >= ENOUGH:
        difference = abs(row["estimated"] - row["true_share"])
        bar += f"; estimate within {MAX_DIFFERENCE}: {'reached' if difference <= MAX_DIFFERENCE else 'NOT reached'}"
    shares = (f"{row['true_share']:.2f}", f"{row['estimated']:.2f}") if row["added"] else ("-", "-")
    photos = f"{row['photos']} of {row['images']}"
    cells = [row["data"], row["labels"], f"{row['given_f1']:.4f}", f"{row['f1']:.4f}", str(row["added"]), *shares]
    return "| " + " | ".join([*cells, photos, row["evidence"], bar]) + " |"


def _format_reliability(row: dict[str, Any]) -> list[str]:
    """Scores of labels that were not given, and how many of these labels are true."""
    if not row["reliability"]:
        return []
    head = f"\n{row['data']}, {row['labels']}: score of labels other than the given one, number, mean, share true"
    return [
        head,
        *("  {low:.1f} to {high:.1f} {count:6d} {score:6.2f} {true:6.2f}".format(**row) for row in row["reliability"]),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="backbone: local folder or Hub id; by default the demo's")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of photos")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality"), help="folder of the runs")
    parser.add_argument("--only", default=",".join(DATA), help="data sets, separated by commas")
    parser.add_argument("--defaults", action="store_true", help="leave out the rows that are not the defaults'")
    parser.add_argument("--images", type=int, help="use only the first images of each data set")
    parser.add_argument("--seed", type=int, default=0, help="seed of the labeling, not of the proposals")
    parser.add_argument("--json", help="file to write all numbers to")
    options = parser.parse_args()
    options.only = options.only.split(",")
    options.model = options.model or str(ensure_checkpoint())
    if unknown := set(options.only) - set(DATA):
        parser.error(f"--only: no data set {', '.join(sorted(unknown))}; there are {', '.join(DATA)}")
    return options


if __name__ == "__main__":
    main()
