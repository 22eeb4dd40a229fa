"""Peak memory of every stage by the number of images; each stage runs in a separate process.

    python scripts/bench/memory.py
    python scripts/bench/memory.py --sizes 1000 10000
    python scripts/bench/memory.py --ids 1000000 10000000 100000000

A tiny random model and links to a few tiny images keep the run short: the benchmark measures how memory grows with the
number of images, not what one image needs. Features have a third of the channels of a ViT-S. The peak is that of the
resident set, which includes pages of memory-mapped files.

`--ids` measures what the ids alone need, for numbers of images that no folder here has: the files of 1000 class folders
are simulated (names in another order, sizes and times), everything else is what `propose` does. Three processes are
measured: one that lists the images, one that reads the ids and labels of 200 shards all over the list, also in a copy
of the source as worker processes get it, and one that lists the images again and finds them unchanged.
"""

import argparse
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from timing import ROOT, use_one_thread, write_report

use_one_thread()

STAGES = ("propose", "score", "train", "label", "build")
SIDE, PATCH, HIDDEN, CLASSES = 32, 8, 128, 10

FOLDERS, SHARDS, SHARD_SIZE = 1000, 200, 1024
"""Of the simulated ids: class folders, shards that a rank reads, and images per shard."""

PRIME = 7919
"""Orders the files of a folder; it does not divide their number."""


def main() -> None:
    options = _options()
    if options.simulate:
        simulate(options.simulate, options.ids[0], Path(options.scratch))
        return
    if options.ids:
        write_report(options.json, {"ids": [measure_ids(count, options.scratch) for count in options.ids]})
        return
    peaks: dict[str, list[float]] = {name: [] for name in STAGES}
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        subprocess.run([sys.executable, "-c", MAKE_MODEL, f"{folder}/model"], check=True, capture_output=True)
        for size in options.sizes:
            images, run = Path(folder) / f"images-{size}", Path(folder) / f"run-{size}"
            make_images(images, size)
            for name in STAGES:
                peaks[name].append(peak_megabytes(name, images, Path(folder) / "model", run))
                print(f"{size:7d} images  {name:8s} {peaks[name][-1]:7.0f} MB", flush=True)
            shutil.rmtree(images)
            shutil.rmtree(run)
    for name, values in peaks.items():
        growth = values[-1] / values[-2] - 1 if len(values) > 1 else 0.0
        print(f"{name:8s} {'  '.join(f'{value:7.0f}' for value in values)} MB  last step {growth:+.1%}", flush=True)
    write_report(options.json, {"sizes": options.sizes, "megabytes": peaks})


def measure_ids(count: int, scratch: str | None) -> dict[str, float]:
    """Measure processor seconds and the peak resident set in MiB of processes that work with `count` simulated ids."""
    found: dict[str, float] = {"images": count}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for number in range(FOLDERS):
            (Path(folder) / "images" / f"n{number:08d}").mkdir(parents=True)
        for what in ("list", "read", "compare"):
            command = [sys.executable, __file__, "--simulate", what, "--ids", str(count), "--scratch", folder]
            megabytes, seconds = peak_of(command)
            found |= {f"{what} CPU seconds": seconds, f"{what} MiB": megabytes}
            print(f"{count:,} ids, {what}: {seconds:.0f} CPU seconds, {megabytes:.0f} MiB", flush=True)
        found["file MiB"] = sum(path.stat().st_size for path in Path(folder).glob("run/source*")) / 2**20
    print(f"{count:,} ids: {found['file MiB']:.1f} MiB in files", flush=True)
    return found


def simulate(what: str, count: int, folder: Path) -> None:
    """List the images of a folder with simulated files, or read parts of the list as the ranks of a run do."""
    sys.path.insert(0, str(ROOT))
    import torch

    from hf_relabel.config import Config, RunConfig, SourceConfig
    from hf_relabel.run.job import Job
    from hf_relabel.run.ranks import Rank
    from hf_relabel.sources.image_folder import Found, Walk

    def images(walk: Walk, place: Path, prefix: str = "") -> Iterator[Found]:
        walk.folders.add(prefix)
        for number in range(count // FOLDERS):
            shuffled = number * PRIME % (count // FOLDERS)  # not in the order of the names
            yield f"{prefix}{prefix[:-1]}_{shuffled:08d}.JPEG", 100_000 + shuffled, 1_700_000_000_000_000_000 + shuffled

    Walk.images = images  # type: ignore[method-assign]
    config = Config(source=SourceConfig(path=str(folder / "images")), run=RunConfig(dir=str(folder / "run")))
    job = Job(config, Rank(0, 1, 1, torch.device("cpu"), 1))
    if what != "read":
        assert len(job.take_snapshot()) == count
        return
    source = pickle.loads(pickle.dumps(job.source))  # what a worker process gets
    shards = random.Random(0).sample(range(-(-count // SHARD_SIZE)), min(SHARDS, count // SHARD_SIZE))
    for shard in shards:
        for index in range(shard * SHARD_SIZE, min((shard + 1) * SHARD_SIZE, count)):
            assert source.images.image_ids[index] == job.source.image_ids[index]
            assert job.source.image_ids[index].startswith(f"n{int(job.source.labels[index]):08d}/")


MAKE_MODEL = f"""
import sys, torch
from transformers import Dinov2Config, Dinov2Model
torch.manual_seed(0)
shape = dict(hidden_size={HIDDEN}, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1)
Dinov2Model(Dinov2Config(patch_size={PATCH}, image_size={SIDE}, **shape)).save_pretrained(sys.argv[1])
"""


def make_images(folder: Path, count: int) -> None:
    """Create an image folder with one image per class, linked under `count` names."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(CLASSES):
        pixels = rng.integers(0, 20, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] += np.uint8(20 * index + 40)
        place = folder / f"class-{index}"
        place.mkdir(parents=True)
        Image.fromarray(pixels).save(place / "000000.png")
        for number in range(1, count // CLASSES):
            os.link(place / "000000.png", place / f"{number:06d}.png")


def peak_megabytes(stage: str, images: Path, model: Path, run: Path) -> float:
    """Measure the peak resident set of one stage's command in MiB."""
    command = [
        sys.executable, "-m", "hf_relabel", stage, f"--source.path={images}", f"--backbone.model={model}",
        f"--backbone.image_size={SIDE}", "--propose.tau=0.2", f"--run.dir={run}", "--train.hidden=64",
        "--train.epochs=3", "--train.batch_size=1024",
    ]  # fmt: skip
    return peak_of(command)[0]


def peak_of(command: list[str]) -> tuple[float, float]:
    """Run a command and return the peak of its resident set in MiB, and its processor seconds."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(output.read().decode(errors="replace")[-2000:])
    unit = 1 if sys.platform == "darwin" else 2**10
    return usage.ru_maxrss * unit / 2**20, usage.ru_utime + usage.ru_stime


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="numbers of images")
    parser.add_argument("--ids", type=int, nargs="+", default=[], help="numbers of simulated ids to measure instead")
    parser.add_argument("--simulate", help=argparse.SUPPRESS)
    parser.add_argument(
        "--scratch", help="folder for images and runs (default: the system's folder for temporary files)"
    )
    parser.add_argument("--json", help="file to write all numbers to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
