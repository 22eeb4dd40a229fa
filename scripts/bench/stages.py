"""The stages of a run: seconds, images per second and share of the total time, on photos with a real backbone.

    python scripts/bench/stages.py --model .cache/demo-backbone --images PHOTOS

Every stage runs as in the command, in one process on one core; loading the model is part of propose. The last line is
the time of train and label as a share of the time of propose.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import copy_photos, use_cores, use_one_thread, write_report

use_one_thread()

from hf_relabel.config import BackboneConfig, Config, FeatureConfig, ProposeConfig, RunConfig, SourceConfig  # noqa: E402
from hf_relabel.run.job import Job  # noqa: E402
from hf_relabel.run.ranks import current_rank  # noqa: E402
from hf_relabel.stages.pipeline import STAGES  # noqa: E402

FILES = {
    "features": "proposals/*.npy",
    "proposals": "proposals/*.parquet",
    "scores": "scores/*.parquet",
    "regions": "regions/*.parquet",
    "release labels": "release/data/labels/*.parquet",
    "release regions": "release/data/regions/*.parquet",
}
"""Files whose sizes are reported."""


def main() -> None:
    options = _options()
    use_cores(options.cores)
    runs = [measure_run(options) for _ in range(options.repeats)]
    images = runs[0].pop("images")
    bytes_of = {name: size / images for name, size in runs[0].pop("bytes").items()}
    total = statistics.median(sum(run[name] for name in STAGES) for run in runs)
    report = {}
    for name in STAGES:
        spent = statistics.median(run[name] for run in runs)
        report[name] = {"seconds": spent, "images_per_second": images / spent, "share": spent / total}
        print(f"{name:8s} {spent:8.2f} s  {images / spent:8.1f} images/s  {spent / total:6.1%}")
    shares = [(run["train"] + run["label"]) / run["propose"] for run in runs]
    print(
        f"(train + label) / propose {statistics.median(shares):.4f}; {images} images, {options.cores} cores", flush=True
    )
    print(", ".join(f"{name} {size:.0f}" for name, size in bytes_of.items()), "bytes per image on disk")
    report = {"images": images, "stages": report, "train_and_label_of_propose": shares, "bytes_per_image": bytes_of}
    write_report(options.json, report)


def measure_run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one run in a new folder: seconds of each stage, number of images, bytes by kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        copy_photos(options.images, options.count, Path(folder) / "photos", options.classes)
        config = Config(
            source=SourceConfig(path=str(Path(folder) / "photos")),
            backbone=BackboneConfig(
                model=options.model,
                image_size=options.image_size,
                proposal_feature=FeatureConfig(kind="key", block=options.block),
                region_feature=FeatureConfig(kind="token", block=-1),
            ),
            propose=ProposeConfig(tau=options.tau),
            run=RunConfig(dir=str(Path(folder) / "run")),
        )
        job = Job(config, current_rank(config.run))
        taken: dict[str, Any] = {"images": len(job.take_snapshot())}
        for name, stage in STAGES.items():
            began = time.perf_counter()
            stage(job)
            taken[name] = time.perf_counter() - began
        return taken | {"bytes": {name: _bytes(job.folder, pattern) for name, pattern in FILES.items()}}


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=".cache/demo-backbone", help="backbone: local folder or Hub id")
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--count", type=int, default=48, help="number of photos")
    parser.add_argument("--classes", type=int, default=10, help="number of classes")
    parser.add_argument("--repeats", type=int, default=1, help="number of runs; medians are shown")
    parser.add_argument("--cores", type=int, default=1, help="number of cores and threads")
    parser.add_argument("--image-size", type=int, default=448, help="side of the resized photo in pixels")
    parser.add_argument("--block", type=int, default=-2, help="block whose keys MaskCut uses")
    parser.add_argument("--tau", type=float, default=0.4, help="similarity above which patches are connected")
    parser.add_argument("--json", help="file to write all numbers to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
