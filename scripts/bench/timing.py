"""What the benchmarks share: cores and threads, turns, medians, the photos of a folder, a report as JSON."""

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
    """Keep the numerical libraries to one thread; they read this when they are loaded."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def use_cores(count: int) -> None:
    """Keep this process, and all it starts, on so many of its cores; of no effect where the system cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def wall_and_cpu(work: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Wall-clock seconds of one call, and seconds of the processor: what others take of it does not count."""
    start = time.process_time()
    wall = seconds(work, *arguments)
    return wall, time.process_time() - start


def ratio_and_spread(above: list[float], below: list[float]) -> tuple[float, str]:
    """The median of the ratios of what was measured in the same turn, and a text with the least and the greatest."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    median = statistics.median(ratios)
    return median, f"{median:.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} turns)"


def find_photos(folder: Path, count: int) -> list[Path]:
    """The first photos below a folder, in the order of their paths."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not photos:
        raise SystemExit(f"{folder}: no photos (.jpg, .png) below it")
    return photos[:count]


def copy_photos(folder: Path, count: int, target: Path, classes: int = 1) -> None:
    """Lay photos out as an image folder, dealt to so many classes; where there are too few, all of them again."""
    photos = find_photos(folder, count)
    for number in range(count):
        photo = photos[number % len(photos)]
        place = target / f"class-{number % classes:03d}" / f"{number:06d}{photo.suffix.lower()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, place)


def write_report(path: str | None, report: Any) -> None:
    """Write all numbers as JSON, where a path was given."""
    if path:
        Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
