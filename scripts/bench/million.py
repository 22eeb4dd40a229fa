"""Memory and time of building, publishing, comparing and loading a release of a million images.

    python scripts/bench/million.py
    python scripts/bench/million.py --images 20000 --json million.json

The input tables of `build` are generated: 3 regions per image, each with a different mask, and 1000 classes. So is a
second version of the release, without the labels below a higher threshold. The other steps are what users run, each in
a separate process: `build`, `publish` of the first version and `publish --dry-run` of the second (on the tests' Hub
server), `diff`, and `load_dataset` of both configurations. Memory is the peak resident set of the process. The run
fails if a step needs more than 2 GiB.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pycocotools import mask as coco

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hf_relabel.commands.units import human_bytes  # noqa: E402
from hf_relabel.config import (  # noqa: E402
    LabelConfig,
    ProposeConfig,
    ScoreConfig,
    SourceConfig,
    TrainConfig,
    as_dict,
)
from hf_relabel.evaluation.report import render  # noqa: E402
from hf_relabel.release.reader import Release  # noqa: E402
from hf_relabel.release.writer import write_release  # noqa: E402
from hf_relabel.run.shard_folder import ShardFolder  # noqa: E402
from hf_relabel.run.snapshot import Snapshot  # noqa: E402
from hf_relabel.run.store import Fingerprint  # noqa: E402
from hf_relabel.schema import PROPOSALS, REGIONS  # noqa: E402
from hf_relabel.sources.source import open_source  # noqa: E402
from hf_relabel.vision.masks import pack  # noqa: E402

MAX_BYTES = 2 << 30
"""Maximum memory of a step in bytes."""

TIMEOUT = 7200
"""Maximum seconds of a step."""

CLASSES, REGIONS_PER_IMAGE, TOP_K, SHARD_SIZE = 1000, 3, 5, 1024
THRESHOLDS = {"1.0.0": 0.5, "1.1.0": 0.6}
REPO = "bench/million"
BYTES_PER_IMAGE = 3000  # required disk space, for all copies, with some margin

LOAD = """
import sys, datasets
data = datasets.load_dataset(sys.argv[1], sys.argv[2], split="train")
assert len(data) == int(sys.argv[3]) and data.unique("version") == [sys.argv[4]]
print(data[0]["image_id"], data[len(data) // 2]["image_id"], data[len(data) - 1]["image_id"])
"""


@dataclass(frozen=True)
class Step:
    """A measured process: wall-clock and processor seconds, and peak resident set in bytes.

    The tests' Hub server is another process; what it takes is part of the wall-clock seconds only.
    """

    name: str
    seconds: float
    cpu_seconds: float
    bytes: int


def main() -> int:
    options = _options()
    if options.derive:
        derive(*options.derive)
        return 0
    if options.generate:
        make_source(options.generate / "images", options.images)
        make_stages(options.generate / "run", options.images)
        return 0
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="million-") as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if free < options.images * BYTES_PER_IMAGE:
            raise SystemExit(f"{folder}: {human_bytes(free)} free, about {options.images * BYTES_PER_IMAGE:,} B needed")
        # Generate in a separate process: a process inherits the peak resident set of its parent.
        run("generate", [sys.executable, __file__, "--generate", name, "--images", str(options.images)], {**os.environ})
        with server(folder / "hub") as environment:
            steps = measure(folder, options.images, environment)
    over = [step.name for step in steps if step.bytes > MAX_BYTES]
    rows = [[s.name, f"{s.seconds:.1f}", f"{s.cpu_seconds:.1f}", f"{s.bytes / 2**20:.0f}"] for s in steps]
    print(render(["step", "seconds", "CPU seconds", "MiB"], rows))
    if options.json:
        report = {"images": options.images, "limit_bytes": MAX_BYTES, "steps": [asdict(step) for step in steps]}
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if over:
        print(f"above {MAX_BYTES >> 20} MiB: {', '.join(over)}", file=sys.stderr)
    return 1 if over else 0


def measure(folder: Path, images: int, environment: dict[str, str]) -> list[Step]:
    """Run every step in order, with its output on stderr."""
    steps = []

    def step(name: str, *command: str) -> None:
        steps.append(run(name, [sys.executable, *command], environment))

    first, second = folder / "1.0.0", folder / "1.1.0"
    arguments = [
        "--run.dir",
        f"{folder}/run",
        "--build.version",
        "1.0.0",
        "--build.threshold",
        str(THRESHOLDS["1.0.0"]),
    ]
    arguments += ["--build.calibrated", "false", "--build.region_score", "0"]
    step("build 1.0.0", "-m", "hf_relabel", "build", *arguments)
    (folder / "run" / "release").rename(first)
    run("derive 1.1.0", [sys.executable, __file__, "--derive", f"{first}", f"{second}"], environment)
    step("publish 1.0.0", "-m", "hf_relabel", "publish", f"{first}", REPO, "--version", "1.0.0")
    step("publish 1.1.0 --dry-run", "-m", "hf_relabel", "publish", f"{second}", REPO, "--version", "1.1.0", "--dry-run")
    step("diff", "-m", "hf_relabel", "diff", f"{first}", f"{second}")
    for config_name in ("labels", "regions"):
        step(f"load_dataset {config_name}", "-c", LOAD, f"{first}", config_name, str(images), "1.0.0")
    return steps


def run(name: str, command: list[str], environment: dict[str, str]) -> Step:
    """Run and measure a command; stop the benchmark if it fails."""
    print(f"--- {name}", file=sys.stderr, flush=True)
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        if time.perf_counter() - started > TIMEOUT:
            process.kill()
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: ended with status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return Step(name, time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """Run the tests' Hub server and yield the environment variables that make clients use it."""
    command = [sys.executable, str(ROOT / "tests/helpers/hub_server.py"), str(folder), "--port", "0"]
    process = subprocess.Popen([*command, "--user", REPO.split("/")[0]], stdout=subprocess.PIPE, text=True)
    try:
        settings = dict(word.split("=", 1) for word in process.stdout.readline().split())
        kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        kept = {key: value for key, value in kept.items() if not key.startswith("HF_")}
        yield kept | settings | {"HF_HOME": f"{folder.parent}/home", "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    finally:
        process.kill()
        process.wait(timeout=60)


def make_source(folder: Path, images: int) -> None:
    """Create an image folder of empty files: `build` reads only their names."""
    for index in range(min(CLASSES, images)):
        (folder / f"{index:04d}").mkdir(parents=True)
    for image_id in image_ids(images):
        (folder / image_id).touch()


def image_ids(images: int) -> list[str]:
    """Return the sorted image ids."""
    return sorted(f"{index % CLASSES:04d}/{index // CLASSES:07d}.jpg" for index in range(images))


def make_stages(folder: Path, images: int) -> None:
    """Write the tables of the stages `propose` and `label`."""
    rng = np.random.default_rng(0)
    config = SourceConfig(path=str(folder.parent / "images"))
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = Snapshot.of(open_source(config), config)
    snapshot.save(folder)
    inputs = {
        "source": snapshot.fingerprint,
        "backbone": {"model": "generated", "revision": None},
        "propose": as_dict(ProposeConfig()),
        "run": {"seed": 0, "shard_size": SHARD_SIZE},
    }
    proposals = ShardFolder(folder / "proposals", "proposals", Fingerprint(inputs))
    digest = proposals.fingerprint.digest
    scores = {"inputs": {"proposals": digest, "score": as_dict(ScoreConfig())}, "counters": {}}
    uncalibrated = {"evidence": "object", "calibration": None, "adds": False, "estimates": {}}
    training = {
        "inputs": {"train": as_dict(TrainConfig()), "score": {}},
        "upstream": {"scores": scores},
        "head": "discriminant",
        "folds": 0,
        "scores": uncalibrated,
    }
    labeler = {"head": {}, "training": training}
    inputs = {"proposals": digest, "label": as_dict(LabelConfig()), "labeler": labeler}
    regions = ShardFolder(folder / "regions", "regions", Fingerprint(inputs))
    for shards in (proposals, regions):
        shards.folder.mkdir(parents=True)
    ids = image_ids(images)
    starts = range(0, images, SHARD_SIZE)
    for shard, start in enumerate(starts):
        chunk = ids[start : start + SHARD_SIZE]
        names = [f"{image_id}#{number}" for image_id in chunk for number in range(REGIONS_PER_IMAGE)]
        proposals.write(shard, _proposals(chunk, names, rng), {})
        regions.write(shard, _regions(chunk, names, rng), {})
    for shards in (proposals, regions):
        shards.write_manifest(lambda shard: min(SHARD_SIZE, images - shard * SHARD_SIZE), len(starts))


def derive(first: Path, second: Path) -> None:
    """Write a later version of a release, without the labels below a higher threshold but the original ones."""
    release = Release.open(first)

    def rows() -> Iterator[pa.Table]:
        for batch in release.batches("regions"):
            of_row = pc.list_parent_indices(batch["labels"]).to_numpy()
            labels, scores = (pc.list_flatten(batch[name]) for name in ("labels", "scores"))
            kept = scores.to_numpy() >= THRESHOLDS["1.1.0"]
            kept |= labels.to_numpy() == batch["label"].to_numpy()[of_row]
            lengths = np.bincount(of_row[kept], minlength=len(batch))
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            table = pa.Table.from_batches([batch])
            for name, values in (("labels", labels), ("scores", scores)):
                column = pa.ListArray.from_arrays(offsets, values.filter(pa.array(kept)))
                table = table.set_column(table.column_names.index(name), name, column)
            yield table

    config = release.provenance["config"]
    build = config["build"] | {"threshold": THRESHOLDS["1.1.0"], "version": "1.1.0"}
    write_release(
        second,
        {"train": rows()},
        class_names=release.class_names,
        version="1.1.0",
        name=release.name,
        provenance=release.provenance | {"config": config | {"build": build}},
    )


def _proposals(ids: list[str], names: list[str], rng: np.random.Generator) -> pa.Table:
    """Generate a shard of `schema.PROPOSALS` with a different ellipse for every region; all images have one size."""
    height, width = (int(side) for side in rng.integers(48, 80, size=2))
    rows, columns = np.ogrid[:height, :width]
    center = rng.uniform(0.25, 0.75, size=(2, len(names))) * [[height], [width]]
    radius = rng.uniform(4, 20, size=(2, len(names)))
    inside = ((rows[..., None] - center[0]) / radius[0]) ** 2 + ((columns[..., None] - center[1]) / radius[1]) ** 2 < 1
    encoded = coco.encode(np.asfortranarray(inside, dtype=np.uint8))  # [height, width, regions]
    segmentation = [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in encoded]
    struct = PROPOSALS.field("proposals").type.value_type
    parts = {
        "proposal_id": pa.array(names),
        "generator": pa.repeat("file", len(names)),
        "feature_row": pa.array(np.arange(len(names))),
        "views": pa.array(np.zeros(len(names), np.int32)),
        "patches": pa.array(np.full(len(names), 4, np.int32)),
        "grid_mask": pa.repeat(pack(np.eye(4, dtype=bool)), len(names)),
        "segmentation": pa.array(segmentation, struct.field("segmentation").type),
    }
    images = len(ids)
    return pa.table(
        {
            "image_id": pa.array(ids),
            "split": pa.repeat("train", images),
            "label": pa.array([int(image_id[:4]) for image_id in ids], pa.int32()),
            "width": pa.repeat(pa.scalar(width, pa.int32()), images),
            "height": pa.repeat(pa.scalar(height, pa.int32()), images),
            "sha256": pa.array([hashlib.sha256(image_id.encode()).hexdigest() for image_id in ids]),
            "error": pa.nulls(images, pa.string()),
            "grid": pa.array([[4, 4]] * images, PROPOSALS.field("grid").type),
            "feature_row": pa.array(np.arange(images) * (1 + REGIONS_PER_IMAGE)),
            "window_row": pa.array(np.zeros(images, np.int64)),
            "windows": pa.array(np.zeros(images, np.int32)),
            "proposals": _structs(parts, PROPOSALS.field("proposals").type),
        },
        schema=PROPOSALS,
    )


def _regions(ids: list[str], names: list[str], rng: np.random.Generator) -> pa.Table:
    """Generate a shard of `schema.REGIONS` with softmax-like scores in descending order."""
    struct = REGIONS.field("proposals").type.value_type
    labels, scores = _predictions(len(names), rng)
    parts = {
        "proposal_id": pa.array(names),
        "top_labels": _lists(labels.ravel(), TOP_K, struct.field("top_labels").type),
        "top_scores": _lists(scores.ravel(), TOP_K, struct.field("top_scores").type),
        "background_score": pa.array(np.zeros(len(names), np.float32)),
    }
    labels, scores = _predictions(len(ids), rng)
    return pa.table(
        {
            "image_id": pa.array(ids),
            "error": pa.nulls(len(ids), pa.string()),
            "global_labels": _lists(labels.ravel(), TOP_K, REGIONS.field("global_labels").type),
            "global_scores": _lists(scores.ravel(), TOP_K, REGIONS.field("global_scores").type),
            "label_score": pa.nulls(len(ids), pa.float32()),
            "labels": pa.array([[]] * len(ids), REGIONS.field("labels").type),
            "proposals": _structs(parts, REGIONS.field("proposals").type),
            "windows": pa.array([[]] * len(ids), REGIONS.field("windows").type),
        },
        schema=REGIONS,
    )


def _predictions(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    steps = rng.integers(1, CLASSES // TOP_K, size=(count, TOP_K))  # no class occurs twice
    labels = (rng.integers(CLASSES, size=(count, 1)) + np.cumsum(steps, axis=1)) % CLASSES
    weights = np.sort(rng.exponential(size=(count, TOP_K)) ** 3, axis=1)[:, ::-1]
    return labels.astype(np.int32), (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _lists(values: np.ndarray, length: int, kind: pa.DataType) -> pa.Array:
    offsets = np.arange(0, len(values) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values), type=kind)


def _structs(parts: dict[str, pa.Array], kind: pa.DataType) -> pa.Array:
    values = pa.StructArray.from_arrays(list(parts.values()), fields=list(kind.value_type))
    offsets = np.arange(0, len(values) + 1, REGIONS_PER_IMAGE, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000, help="number of images (default: 1,000,000)")
    parser.add_argument("--json", metavar="FILE", help="file to write all numbers to")
    parser.add_argument("--derive", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dir", metavar="FOLDER", help="folder for temporary files (default: the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
