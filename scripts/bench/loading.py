"""Reading a release: bytes per image, rows per second, and the cost of labels when reading images.

    python scripts/bench/loading.py --images PHOTOS
    python scripts/bench/loading.py --images PHOTOS --rows 100000

`hf-relabel build` builds the release from generated tables: 3 regions per image, each with a different mask, and 1000
classes. Rows are read with the published loader, in random order and as a stream; images with labels are read with
`TrainingDataset` in random order and with `joined` as a stream, from a folder that links the photos under the image
ids. Reading only the images alternates with this. One process on one core.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from timing import ROOT, find_photos, ratio_and_spread, seconds, use_cores, use_one_thread, write_report

use_one_thread()
sys.path.insert(0, str(ROOT / "dataset_card"))

import numpy as np  # noqa: E402
from load_relabel import TrainingDataset, decode_rle, joined, load_relabel, open_images  # noqa: E402
from million import CLASSES, image_ids, make_stages  # noqa: E402

VERSION = "1.0.0"


def main() -> None:
    options = _options()
    use_cores(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = image_ids(options.rows)
        link_photos(find_photos(options.images, 100), folder / "images", ids)
        make_stages(folder / "run", options.rows)
        arguments = ["build", f"--run.dir={folder / 'run'}", "--build.calibrated=false", "--build.region_score=0"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "hf_relabel", *arguments, f"--build.version={VERSION}"]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        report = {"rows": options.rows, "bytes": sizes(folder / "run" / "release", options.rows)}
        report |= speeds(folder, ids, options)
    write_report(options.json, report)


def link_photos(photos: list[Path], folder: Path, ids: list[str]) -> None:
    """Link the photos under all image ids of the release."""
    copies = []
    for number, photo in enumerate(photos):
        copies.append(folder.parent / f"photo-{number}{photo.suffix}")
        copies[-1].write_bytes(photo.read_bytes())
    for number, image_id in enumerate(ids):
        path = folder / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(copies[number % len(copies)], path)


def sizes(release: Path, rows: int) -> dict[str, float]:
    """Measure the bytes per image of each configuration on disk."""
    found = {}
    for config_name in ("labels", "regions"):
        files = list((release / "data" / config_name).glob("*.parquet"))
        total = sum(file.stat().st_size for file in files)
        found[config_name] = total / rows
        print(f"{config_name:8s} {total / rows:7.1f} bytes per image, {len(files)} file(s), {total / 2**20:.1f} MB")
    return found


def speeds(folder: Path, ids: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure the items per second of each way to read, and the cost of labels; medians over turns."""
    release = str(folder / "run" / "release")
    cache = {"cache_dir": str(folder / "cache")}
    labels = load_relabel(release, VERSION, "labels", **cache)
    regions = load_relabel(release, VERSION, "regions", **cache)
    photos = str(folder / "images")
    opened = open_images(photos)
    training = TrainingDataset(labels, images=photos, target="soft")

    def random_rows(count: int) -> list[int]:
        return np.random.default_rng(0).integers(options.rows, size=count).tolist()

    def stream(config_name: str, count: int) -> Iterator[dict[str, Any]]:
        return islice(load_relabel(release, VERSION, config_name, streaming=True), count)

    def masks_at_random(count: int) -> None:
        for row in random_rows(count):
            for region in regions[row]["regions"]:
                decode_rle(region["segmentation"])

    rows, images = options.reads, max(1, options.reads // 20)
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "labels, random": (rows, lambda: [labels[row] for row in random_rows(rows)]),
        "labels, stream": (rows, lambda: list(stream("labels", rows))),
        "regions, random": (rows, lambda: [regions[row] for row in random_rows(rows)]),
        "regions, stream": (rows, lambda: list(stream("regions", rows))),
        "masks decoded, random": (images, lambda: masks_at_random(images)),
        "only images": (images, lambda: [opened[ids[row]] for row in random_rows(images)]),
        "images with labels, random": (images, lambda: [training[row] for row in random_rows(images)]),
        "images with labels, stream": (images, lambda: list(joined(stream("labels", images), photos))),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(1 + options.repeats):
        for name, (count, work) in works.items():
            spent = seconds(work) / count
            if turn:
                taken[name].append(spent)
    speed = {name: 1 / statistics.median(values) for name, values in taken.items()}
    for name, value in speed.items():
        print(f"{name:30s} {value:10.1f} per second")
    ratio, text = ratio_and_spread(taken["images with labels, random"], taken["only images"])
    print(f"images with labels / only images {text}", flush=True)
    return {"per_second": speed, "with_labels_to_only_images": ratio}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--rows", type=int, default=20_000, help="number of images in the release")
    parser.add_argument("--reads", type=int, default=2000, help="rows to read per turn; for images, a twentieth")
    parser.add_argument("--repeats", type=int, default=5, help="number of turns after the first")
    parser.add_argument("--json", help="file to write all numbers to")
    options = parser.parse_args()
    if options.rows < CLASSES:
        parser.error(f"--rows: {CLASSES} or more, so that every class has an image; got {options.rows}")
    return options


if __name__ == "__main__":
    main()
