"""Peak memory of every stage by the number of images; each stage runs in a separate process.

    python scripts/bench/memory.py
    python scripts/bench/memory.py --sizes 1000 10000

A tiny random model and links to a few tiny images keep the run short: the benchmark measures how memory grows with the
number of images, not what one image needs. Features have a third of the channels of a ViT-S. The peak is that of the
resident set, which includes pages of memory-mapped files.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import ROOT, use_one_thread, write_report

use_one_thread()

STAGES = ("propose", "score", "train", "label", "build")
SIDE, PATCH, HIDDEN, CLASSES = 32, 8, 128, 10


def main() -> None:
    options = _options()
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
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(output.read().decode(errors="replace")[-2000:])
    unit = 1 if sys.platform == "darwin" else 2**10
    return usage.ru_maxrss * unit / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="numbers of images")
    parser.add_argument(
        "--scratch", help="folder for images and runs (default: the system's folder for temporary files)"
    )
    parser.add_argument("--json", help="file to write all numbers to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
