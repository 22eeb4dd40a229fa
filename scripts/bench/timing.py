"""Helpers shared by the benchmarks: cores and threads, timing, photos, the JSON report."""

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = (".jpg", ".jpeg", ".png")


def use_one_thread() -> None:
    """Limit numerical libraries to one thread. Call this before importing them."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def use_cores(count: int) -> None:
    """Restrict this process and its children to `count` cores, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    """Measure the wall-clock seconds of one call."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def wall_and_cpu(work: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Measure the wall-clock and processor seconds of one call; other processes hardly affect the latter."""
    start = time.process_time()
    wall = seconds(work, *arguments)
    return wall, time.process_time() - start


def ratio_and_spread(above: list[float], below: list[float]) -> tuple[float, str]:
    """Compute the median of the ratios of paired measurements, and a text with the median, minimum and maximum."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    median = statistics.median(ratios)
    return median, f"{median:.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} turns)"


def find_photos(folder: Path, count: int) -> list[Path]:
    """Find the first `count` photos below a folder, in the order of their paths."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not photos:
        raise SystemExit(f"{folder}: no photos (.jpg, .png) in it")
    return photos[:count]


def copy_photos(folder: Path, count: int, target: Path, classes: int = 1) -> None:
    """Copy `count` photos to an image folder with `classes` classes, repeating them if there are too few."""
    photos = find_photos(folder, count)
    for number in range(count):
        photo = photos[number % len(photos)]
        path = target / f"class-{number % classes:03d}" / f"{number:06d}{photo.suffix.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, path)


def write_report(path: str | None, report: Any) -> None:
    """Write all numbers as JSON, if a path is given."""
    if path:
        Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
