"""MaskCut compared with the dense reference from the tests: speed, and agreement of the masks.

    python scripts/bench/maskcut.py
    python scripts/bench/maskcut.py --speed-images 0 --images PHOTOS --model CHECKPOINT --block -2

Speed: the reference and MaskCut alternate on the same features with one thread; each ratio compares the times for
one image. Agreement: the share of images whose masks are all identical, and the mean IoU of the masks with the same
number (0 for a missing mask). For context, the reference with LAPACK's signs, as published, is compared with the
reference with the sign rule.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from timing import ROOT, find_photos, seconds, use_one_thread, write_report

use_one_thread()
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from dense_maskcut import dense_maskcut  # noqa: E402
from patch_scenes import scene  # noqa: E402
from PIL import Image  # noqa: E402

from hf_relabel.config import BackboneConfig, FeatureConfig  # noqa: E402
from hf_relabel.vision.backbone import Backbone  # noqa: E402
from hf_relabel.vision.maskcut import maskcut_batch  # noqa: E402

UNSEEN = 1000
"""First seed of the scenes that were not used while the solver was written."""

FAST_RUNS = 3
"""Number of runs of MaskCut before and again after each run of the reference."""


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    report: dict[str, list[dict]] = {"speed": [], "agreement": []}
    if options.speed_images:
        for channels in options.d:
            for n in options.n:
                report["speed"].append(measure_speed(n, channels, options))
    if options.agreement_images:
        grid = (options.side, options.side)
        seeds = range(UNSEEN, UNSEEN + options.agreement_images)
        scenes = (scene(seed, grid, options.d[0]) for seed in seeds)
        report["agreement"] += measure_agreement("scenes", scenes, grid, options)
    if options.images:
        backbone = _backbone(options)
        report["agreement"] += measure_agreement("photos", _photos(backbone, options), backbone.grid, options)
    write_report(options.json, report)


def measure_speed(n: int, channels: int, options: argparse.Namespace) -> dict:
    """Return medians over the images of the seconds and of the ratio."""
    grid = (round(n**0.5),) * 2
    dense: list[float] = []
    fast: list[float] = []
    for seed in range(options.speed_images):
        features = scene(seed, grid, channels)
        runs: list[float] = []
        for reference in (True, False):
            _cut("maskcut", features, grid, options)  # refill the caches
            runs += [seconds(_cut, "maskcut", features, grid, options) for _ in range(FAST_RUNS)]
            if reference:
                dense.append(seconds(_cut, "dense", features, grid, options))
        fast.append(statistics.median(runs))
    ratios = [slow / quick for slow, quick in zip(dense, fast, strict=True)]
    row = {
        "n": grid[0] * grid[1],
        "d": channels,
        "images": len(ratios),
        "dense_seconds": statistics.median(dense),
        "seconds": statistics.median(fast),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    print(
        f"n {row['n']:5d}  d {channels:4d}  reference {row['dense_seconds']:7.3f} s  MaskCut {row['seconds']:7.4f} s  "
        f"ratio {row['ratio']:5.1f}  ({min(ratios):.1f} to {max(ratios):.1f}, {len(ratios)} images)",
        flush=True,
    )
    return row


def measure_agreement(
    name: str, images: Iterable[torch.Tensor], grid: tuple[int, int], options: argparse.Namespace
) -> list[dict]:
    """Return a row for MaskCut and one for the reference with LAPACK's signs, each compared with the reference."""
    identical: dict[str, list[bool]] = {kind: [] for kind in ("maskcut", "raw signs")}
    overlap: dict[str, list[float]] = {kind: [] for kind in identical}
    for features in images:
        expected = _cut("dense", features, grid, options)
        for kind in identical:
            masks = _cut(kind, features, grid, options)
            same_place = [(a & b).sum() / (a | b).sum() for a, b in zip(expected, masks, strict=False)]
            places = max(len(expected), len(masks))
            identical[kind].append(np.array_equal(expected, masks))
            overlap[kind].append(sum(same_place) / places if places else 1.0)
    rows = []
    for kind, same in identical.items():
        row = {
            "images": name,
            "count": len(same),
            "n": grid[0] * grid[1],
            "masks": kind,
            "identical": sum(same),
            "mean_iou": statistics.mean(overlap[kind]),
        }
        rows.append(row)
        print(
            f"{name}, n {row['n']}, {kind:9s}  identical {sum(same)}/{len(same)} ({sum(same) / len(same):.1%})  "
            f"mean IoU {row['mean_iou']:.4f}",
            flush=True,
        )
    return rows


def _cut(kind: str, features: torch.Tensor, grid: tuple[int, int], options: argparse.Namespace) -> np.ndarray:
    settings = {"tau": options.tau, "max_masks": options.masks}
    if kind in ("dense", "raw signs"):
        return dense_maskcut(features.numpy(), grid, raw=kind == "raw signs", **settings)
    (masks,) = maskcut_batch(features[None], grid, **settings)
    return masks


def _backbone(options: argparse.Namespace) -> Backbone:
    feature = FeatureConfig(kind=options.feature, block=options.block)
    config = BackboneConfig(model=options.model, image_size=options.image_size, proposal_feature=feature)
    return Backbone.load(config, torch.device("cpu"))


def _photos(backbone: Backbone, options: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Yield the features [n, C] of the first photos in a folder, in the order of their paths."""
    for path in find_photos(options.images, options.agreement_images):
        with Image.open(path) as image:
            pixels = backbone.preprocess(image.convert("RGB"))
        yield backbone(pixels[None]).proposal[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--n", type=int, nargs="+", default=[1024, 2304, 4096], help="numbers of patches; square numbers"
    )
    parser.add_argument("--d", type=int, nargs="+", default=[384, 1024], help="numbers of channels")
    parser.add_argument("--speed-images", type=int, default=5, help="images per n and d; 0 to skip")
    parser.add_argument("--agreement-images", type=int, default=60, help="images for comparing masks; 0 to skip")
    parser.add_argument(
        "--side", type=int, default=32, help="patches per side of the generated images for comparing masks"
    )
    parser.add_argument("--images", type=Path, help="folder of photos for comparing masks too")
    parser.add_argument("--model", help="backbone for the photos: Hub id or local folder")
    parser.add_argument("--image-size", type=int, default=448, help="side of the resized photo in pixels")
    parser.add_argument("--feature", default="key", choices=["key", "query", "value", "token"])
    parser.add_argument("--block", type=int, default=-1, help="block of the feature")
    parser.add_argument("--tau", type=float, default=0.4, help="similarity above which patches are connected")
    parser.add_argument("--masks", type=int, default=4, help="rounds of MaskCut")
    parser.add_argument("--json", help="file to write all numbers to")
    options = parser.parse_args()
    if options.images and not options.model:
        parser.error("--images needs --model")
    return options


if __name__ == "__main__":
    main()
