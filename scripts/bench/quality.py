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
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timing import use_one_thread, write_report

use_one_thread()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from hf_relabel.config import BackboneConfig, BuildConfig, Config, ProposeConfig, RunConfig, SourceConfig, TrainConfig  # noqa: E402
from hf_relabel.demo.scenes import PLAIN, SceneStyle, make_scenes  # noqa: E402
from hf_relabel.evaluation import metrics  # noqa: E402
from hf_relabel.evaluation.ground_truth import read_truth  # noqa: E402
from hf_relabel.labeling.image_labels import calibrated_scores  # noqa: E402
from hf_relabel.release.reader import Release  # noqa: E402
from hf_relabel.run.job import Job  # noqa: E402
from hf_relabel.run.quiet import quiet_libraries  # noqa: E402
from hf_relabel.run.ranks import current_rank  # noqa: E402
from hf_relabel.run.shard_folder import ShardFolder  # noqa: E402
from hf_relabel.run.snapshot import Snapshot  # noqa: E402
from hf_relabel.run.store import Fingerprint, read_record  # noqa: E402
from hf_relabel.schema import PROPOSALS  # noqa: E402
from hf_relabel.stages.pipeline import STAGES, run_stages  # noqa: E402
from hf_relabel.vision import masks  # noqa: E402
from hf_relabel.vision.pooling import pool, pool_views  # noqa: E402
from hf_relabel.vision.windows import window_masks  # noqa: E402

SHARD_SIZE = 100

Change = Callable[[list[dict[str, Any]], np.ndarray], tuple[list[dict[str, Any]], np.ndarray]]
"""Changes the rows and features of a shard of proposals."""


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

MIN_RECALL, MAX_BYTES = 0.48, 35_000
"""Bars of the masks: recall of labels, and bytes per image that `propose` stores."""

SIDE = 224
"""Side in pixels at which masks are compared with polygons."""

SMALL_LABEL = 0.005
"""Share of the image; labels whose objects cover less together are left out of the first recall."""

BIG_OBJECT = 0.05


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
        print("\n" + "\n".join(_format_masks(report["masks"])), flush=True)
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


def share_proposals(run: Path, target: Path) -> None:
    """Let a new run use the proposals of another."""
    target.mkdir(parents=True)
    _snapshot(run).save(target)
    os.symlink((run / "proposals").resolve(), target / "proposals")


def rewrite(run: Path, target: Path, note: str, change: Change) -> None:
    """Write the proposals of a run, changed, as those of a new run; `note` makes them other proposals."""
    manifest = read_record(run / "proposals" / "manifest.json")
    assert manifest is not None
    old = ShardFolder(run / "proposals", "proposals", Fingerprint(manifest["inputs"]))
    target.mkdir(parents=True, exist_ok=True)
    _snapshot(run).save(target)
    new = ShardFolder(target / "proposals", "proposals", Fingerprint({**manifest["inputs"], "changed": note}))
    new.folder.mkdir()
    for shard in range(len(manifest["shards"])):
        state = old.state(shard)
        assert state is not None
        rows, features = change(old.read(shard).to_pylist(), np.array(old.features(shard)))
        new.write(shard, pa.Table.from_pylist(rows, schema=PROPOSALS), state.counters, features, state.machine)
    new.write_manifest(lambda shard: manifest["shards"][shard], len(manifest["shards"]))


def _snapshot(run: Path) -> Snapshot:
    snapshot = Snapshot.load(run)
    assert snapshot is not None
    return snapshot


def as_bytes(rows: list[dict[str, Any]], features: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Round features to 8-bit integers with one scale per dimension and shard."""
    values = features.astype(np.float32)
    scale = np.maximum(np.abs(values).max(axis=0), 1e-6) / 127
    return rows, (np.round(values / scale) * scale).astype(np.float16)


def only_maskcut(rows: list[dict[str, Any]], features: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Keep MaskCut's proposals alone: no merged regions, no windows."""
    for row in rows:
        row["windows"] = 0
        row["proposals"] = [proposal for proposal in row["proposals"] if proposal["generator"] == "maskcut"]
    return rows, features


VIEW_DROP = ProposeConfig().view_drop


@dataclass(frozen=True)
class Maps:
    """Feature maps of another network.

    Args:
        values: int8 [images, h * w, dim].
        scale: float [dim].
        place: Index of each image, by the name of its file without a suffix.
    """

    values: np.ndarray
    scale: np.ndarray
    place: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> "Maps":
        """Read a file with `maps`, `scale` and `image_ids`."""
        with np.load(path) as file:
            place = {Path(str(image_id)).stem: number for number, image_id in enumerate(file["image_ids"])}
            return cls(file["maps"], file["scale"].astype(np.float32), place)

    def pool(self, rows: list[dict[str, Any]], _: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Replace the features of a shard by this network's under the same masks."""
        parts: list[torch.Tensor] = []
        count = 0
        for row in rows:
            if row["error"] is not None:
                continue
            patches = self.on_grid(Path(row["image_id"]).stem, tuple(row["grid"]))
            for part, item in self._regions(row, patches):
                item["feature_row" if "feature_row" in item else "window_row"] = count
                parts.append(part)
                count += len(part)
        return rows, torch.cat(parts).numpy().astype(np.float16)

    def on_grid(self, name: str, grid: tuple[int, int]) -> torch.Tensor:
        """An image's map, each patch with the features of the nearest cell, float32 [patches, dim]."""
        values = self.values[self.place[name]].astype(np.float32) * self.scale
        side = round(len(values) ** 0.5)
        cells = values.reshape(side, side, -1)
        down, across = (np.arange(patches) * side // patches for patches in grid)
        return torch.from_numpy(cells[np.ix_(down, across)].reshape(grid[0] * grid[1], -1))

    def _regions(self, row: dict[str, Any], patches: torch.Tensor) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """The features of the whole image, of each proposal with its views, and of the windows; and whose they are."""
        generator = torch.Generator().manual_seed(self.place[Path(row["image_id"]).stem])
        whole, windows = row, {"window_row": -1}
        yield patches.mean(dim=0, keepdim=True), whole
        for proposal in row["proposals"]:
            mask = torch.from_numpy(masks.unpack([proposal["grid_mask"]], tuple(row["grid"]))).flatten(1)
            views = pool_views(patches, mask, proposal["views"], VIEW_DROP, generator)[0]
            yield torch.cat([pool(patches, mask), views]), proposal
        per_side = round(row["windows"] ** 0.5)
        yield pool(patches, torch.from_numpy(window_masks(per_side, tuple(row["grid"]))).flatten(1)), windows
        row["window_row"] = windows["window_row"]


def measure_masks(run: Path, polygons: Path) -> dict[str, Any]:
    """Recall of COCO's labels and objects by all proposals, and what `propose` stores per image."""
    manifest = read_record(run / "proposals" / "manifest.json")
    assert manifest is not None
    folder = ShardFolder(run / "proposals", "proposals", Fingerprint(manifest["inputs"]))
    found: dict[str, list[bool]] = {"labels": [], "all_labels": [], "big_objects": []}
    count, images, feature_rows, dim = 0, 0, 0, 0
    for shard in range(len(manifest["shards"])):
        feature_rows, dim = feature_rows + len(folder.features(shard)), folder.features(shard).shape[-1]
        for row in folder.read(shard).to_pylist():
            grid = masks.unpack([proposal["grid_mask"] for proposal in row["proposals"]], tuple(row["grid"]))
            proposals = np.array([masks.to_image(mask, (SIDE, SIDE)) for mask in grid]).reshape(-1, SIDE * SIDE)
            classes, objects = _objects(polygons / f"{Path(row['image_id']).stem}.txt")
            labels = sorted(set(classes))
            unions = np.array([objects[classes == label].any(axis=0) for label in labels])
            of_object, of_union = _best_iou(proposals, objects), _best_iou(proposals, unions)
            best = [max(of_union[k], of_object[classes == label].max()) for k, label in enumerate(labels)]
            found["labels"] += (of_union >= 0.5)[unions.mean(axis=1) > SMALL_LABEL].tolist()
            found["all_labels"] += [iou >= 0.5 for iou in best]
            found["big_objects"] += (of_object >= 0.5)[objects.mean(axis=1) > BIG_OBJECT].tolist()
            count, images = count + len(proposals), images + 1
    size = {kind: sum(path.stat().st_size for path in folder.folder.glob(f"*.{kind}")) for kind in ("npy", "parquet")}
    return {
        "images": images,
        "proposals": count / images,
        **{f"recall_{name}": float(np.mean(hits)) for name, hits in found.items()},
        **{f"number_{name}": len(hits) for name, hits in found.items()},
        "feature_bytes": size["npy"] / images,
        "table_bytes": size["parquet"] / images,
        "feature_bytes_as_integers": (feature_rows * dim + 4 * dim * len(manifest["shards"])) / images,
    }


def _objects(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The classes, int64 [n], and masks, bool [n, pixels], of a file of polygons."""
    classes, found = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        name, *numbers = line.split()
        corners = (np.array(numbers, float).reshape(-1, 2) * SIDE).tolist()
        picture = Image.new("1", (SIDE, SIDE))
        ImageDraw.Draw(picture).polygon([(x, y) for x, y in corners], fill=1)
        classes.append(int(name))
        found.append(np.asarray(picture).ravel())
    return np.array(classes), np.array(found)


def _best_iou(proposals: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The highest IoU of each target with a proposal, float [targets]; 0 without proposals."""
    if not len(proposals):
        return np.zeros(len(targets))
    shared = proposals.astype(np.float32) @ targets.astype(np.float32).T
    return (shared / np.maximum(proposals.sum(1)[:, None] + targets.sum(1) - shared, 1)).max(axis=0)


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


def _format_masks(found: dict[str, Any]) -> list[str]:
    stored = found["feature_bytes"] + found["table_bytes"]
    as_integers = found["feature_bytes_as_integers"] + found["table_bytes"]
    recall, size = found["recall_labels"] >= MIN_RECALL, stored <= MAX_BYTES
    return [
        f"coco, {found['images']} photos, {found['proposals']:.1f} proposals per image, mask IoU 0.5:",
        f"  labels above {SMALL_LABEL:.1%} of the image, union of their objects: {found['recall_labels']:.3f} "
        f"(>= {MIN_RECALL}: {'reached' if recall else 'NOT reached'})",
        f"  all {found['number_all_labels']} labels, union or any one object: {found['recall_all_labels']:.3f}",
        f"  objects above {BIG_OBJECT:.0%} of the image: {found['recall_big_objects']:.3f}",
        f"  stored bytes per image: {found['feature_bytes']:.0f} features + {found['table_bytes']:.0f} tables = "
        f"{stored:.0f} (<= {MAX_BYTES}: {'reached' if size else 'NOT reached'}); with 8-bit features {as_integers:.0f}",
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=".cache/demo-backbone", help="backbone: local folder or Hub id")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of photos")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality"), help="folder of the runs")
    parser.add_argument("--only", default=",".join(DATA), help="data sets, separated by commas")
    parser.add_argument("--defaults", action="store_true", help="leave out the rows that are not the defaults'")
    parser.add_argument("--images", type=int, help="use only the first images of each data set")
    parser.add_argument("--seed", type=int, default=0, help="seed of the labeling, not of the proposals")
    parser.add_argument("--json", help="file to write all numbers to")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(DATA):
        parser.error(f"--only: no data set {', '.join(sorted(unknown))}; there are {', '.join(DATA)}")
    return options


if __name__ == "__main__":
    main()
