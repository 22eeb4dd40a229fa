r"""Check and measure everything that needs a GPU, in one command; `scripts/gpu.sh` calls it.

    bash scripts/gpu.sh --out gpu
    bash scripts/gpu.sh --out /tmp/gpu --cpu --images 24 --count 4 --repeats 1 --size 224

1. The tests marked `gpu`.
2. `propose` compared with a plain forward pass in bfloat16 (`propose.py`): a ViT-L/16 with random weights, and the
   demo's ViT or, where it is not at hand, one of the same shape with random weights. Images per second, MaskCut's
   share of the time, and peak GPU memory.
3. The whole pipeline on the GPU and on the CPU: equal labels, scores equal up to rounding.
4. The whole pipeline by several processes on one GPU: equal to that of one process, and how long both take.

The photos are generated. Every part is run even if one before it fails; the exit status is 1 if any failed. `--parts
labels propose` runs only those whose names start so. `--cpu` tries the script itself on a machine without a GPU; its
figures say so.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from timing import ROOT, write_report

from hf_relabel.release.reader import Release

DEMO = ROOT / ".cache" / "demo-backbone"

CLASSES = {"circle": (220, 40, 40), "cross": (40, 60, 220), "square": (30, 170, 60), "triangle": (240, 200, 30)}
"""Shapes in the generated photos, and their colors."""

TAU = {"random-vitl16": 0.95}
"""With random weights all patches are alike: only far above the default of 0.4 is the graph incomplete."""

ROUNDING = 0.02
"""Largest difference of a score between a GPU and a CPU that counts as rounding."""

SECONDS_PER_PART = 3600


def main() -> int:
    options = _options()
    if not options.cpu and not torch.cuda.is_available():
        print("gpu.py: PyTorch finds no GPU here; --cpu tries the script on the CPU", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    photos = make_photos(options.out / "photos", options.images)
    models = {"random ViT-L/16": "random-vitl16", small_name(): small_model(options.out / "small-model")}
    parts: dict[str, Callable[[], dict[str, Any]]] = {"tests": lambda: run_tests(options)}
    for name, model in models.items():
        parts[f"propose, {name}"] = lambda model=model: measure_propose(model, photos, options)
    parts["labels of GPU and CPU"] = lambda: compare_devices(models[small_name()], photos, options)
    parts[f"{options.processes} processes on one GPU"] = lambda: compare_processes(
        models[small_name()], photos, options
    )
    report: dict[str, Any] = {"machine": describe_machine(options), "parts": {}}
    for name, work in parts.items():
        if not name.startswith(tuple(options.parts)):
            continue
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        try:
            result = work()
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            result = {"failed": str(error)[-2000:]}
        report["parts"][name] = {**result, "took_seconds": round(time.perf_counter() - start, 1)}
        print(f"    {json.dumps(report['parts'][name])}", flush=True)
        # After every part, so that a machine that is taken away leaves what was measured.
        write_report(str(options.out / "gpu.json"), report)
        (options.out / "gpu.md").write_text(to_markdown(report), encoding="utf-8")
    print(f"\n{to_markdown(report)}\nwritten to {options.out / 'gpu.json'} and gpu.md")
    return int(any("failed" in part for part in report["parts"].values()))


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    import transformers

    device = "none: CPU only" if options.cpu else torch.cuda.get_device_name()
    return {
        "gpu": device,
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def make_photos(folder: Path, count: int) -> Path:
    """Generate photos of one or two shapes on a noisy ground, in one folder per class."""
    rng, names = np.random.default_rng(0), list(CLASSES)
    for number in range(count):
        name = names[number % len(names)]
        path = folder / name / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        ground = rng.integers(60, 200, size=3) + rng.normal(0, 12, size=(480, 640, 3))
        image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        shown = [name, *([names[rng.integers(len(names))]] if rng.random() < 0.5 else [])]
        for place, shape in enumerate(shown):
            _draw_shape(draw, shape, 170 + 300 * place, int(rng.integers(150, 330)), int(rng.integers(70, 130)))
        image.save(path, quality=92)
    return folder


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int) -> None:
    color = CLASSES[shape]
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=color)
    else:
        draw.rectangle((x - r, y - r // 3, x + r, y + r // 3), fill=color)
        draw.rectangle((x - r // 3, y - r, x + r // 3, y + r), fill=color)


def small_name() -> str:
    """The small model's name in the table."""
    return "demo's ViT-S/14" if (DEMO / "config.json").is_file() else "random ViT-S/14"


def small_model(folder: Path) -> str:
    """The demo's backbone, or one of its shape with random weights."""
    if (DEMO / "config.json").is_file():
        return str(DEMO)
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
    Dinov2Model(Dinov2Config(**shape, image_size=518)).save_pretrained(folder)
    return str(folder)


def run_tests(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tests marked `gpu`."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_PER_PART)
    summary = (done.stdout.strip().splitlines() or ["no output"])[-1]
    if done.returncode or (" passed" not in summary and not options.cpu):
        return {"failed": f"{summary}\n{done.stdout[-1500:]}{done.stderr[-500:]}"}
    return {"summary": summary}


def measure_propose(model: str, photos: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run `propose.py` in one process."""
    report = options.out / "propose.json"
    cores = describe_machine(options)["cores"]
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "propose.py")]
    command += ["--model", model, "--images", str(photos), "--image-size", str(_size_for(model, options.size))]
    command += ["--dtype", "bfloat16", "--cores", str(cores), "--block", "-2"]
    command += ["--tau", str(TAU.get(model, 0.4)), "--batch-size", str(options.batch_size)]
    command += ["--count", str(options.count)]
    command += ["--repeats", str(options.repeats), "--json", str(report)]
    _call(command, options)
    values = json.loads(report.read_text(encoding="utf-8"))
    keys = ("images_per_second", "solver_share", "rest_ms", "peak_gpu_bytes")
    return {"ratio": values["wall"]["ratio"], **{key: values[key] for key in keys}}


def _size_for(model: str, size: int) -> int:
    """The image size rounded down to whole patches."""
    patch = 16 if model == "random-vitl16" else json.loads((Path(model) / "config.json").read_text())["patch_size"]
    return size // patch * patch


def compare_devices(model: str, photos: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the pipeline on the GPU and on the CPU, and compare the releases."""
    gpu = _run(model, photos, options.out / "run-gpu", options)
    cpu = _run(model, photos, options.out / "run-cpu", options, {"ACCELERATE_USE_CPU": "true"})
    result = compare_releases(cpu["release"], gpu["release"])
    if result["images_with_other_labels"] or result["largest_score_difference"] > ROUNDING:
        result["failed"] = "GPU and CPU differ by more than rounding"
    return {"gpu_seconds": gpu["seconds"], "cpu_seconds": cpu["seconds"], **result}


def compare_processes(model: str, photos: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the pipeline by one process and by several on the same GPU, and compare the releases."""
    one = _run(model, photos, options.out / "run-one", options)
    several = _run(model, photos, options.out / "run-several", options, processes=options.processes)
    result = compare_releases(one["release"], several["release"])
    if result["images_with_other_labels"] or result["largest_score_difference"]:
        result["failed"] = "one process and several differ"
    return {"one_seconds": one["seconds"], "several_seconds": several["seconds"], **result}


def _run(
    model: str, photos: Path, folder: Path, options: argparse.Namespace, variables: Any = None, processes: int = 1
) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "hf_relabel", "run"]
    command += ["--source.path", str(photos), "--backbone.model", model, "--run.dir", str(folder)]
    command += ["--backbone.image_size", str(_size_for(model, 224)), "--run.shard_size", str(-(-options.images // 8))]
    start = time.perf_counter()
    _call(command, options, variables)
    return {"seconds": round(time.perf_counter() - start, 2), "release": folder / "release"}


def compare_releases(old: Path, new: Path) -> dict[str, Any]:
    """Compare the labels and scores of two releases of the same images."""
    images = added = other = 0
    difference = 0.0
    for before, after in zip(Release.open(old).rows("regions"), Release.open(new).rows("regions"), strict=True):
        if before["image_id"] != after["image_id"]:
            raise ValueError(f"the releases have other images: {before['image_id']} and {after['image_id']}")
        images += 1
        added += len(before["labels"]) - 1
        scores = [dict(zip(row["labels"], row["scores"], strict=True)) for row in (before, after)]
        other += set(scores[0]) != set(scores[1])
        common = set(scores[0]) & set(scores[1])
        difference = max([difference, *(abs(scores[0][label] - scores[1][label]) for label in common)])
    counts = {"images": images, "labels_added": added}
    return {**counts, "images_with_other_labels": other, "largest_score_difference": difference}


def _call(command: list[str], options: argparse.Namespace, variables: Any = None) -> None:
    environment = os.environ | ({"ACCELERATE_USE_CPU": "true"} if options.cpu else {}) | (variables or {})
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS_PER_PART
    )
    if done.returncode:
        raise ValueError(f"exit status {done.returncode}: {done.stderr.strip()[-1500:]}")


def to_markdown(report: dict[str, Any]) -> str:
    """A table for the benchmarks' README."""
    machine = report["machine"]
    lines = [
        f"GPU: {machine['gpu']}; {machine['cores']} CPU cores ({machine['cpu_capability']}); "
        f"Python {machine['python']}, torch {machine['torch']}, transformers {machine['transformers']}.",
        "",
        "| what | result |",
        "|---|---|",
    ]
    for name, part in report["parts"].items():
        text = ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in part.items() if key != "failed")
        failure = "**failed**: " + part["failed"].strip().splitlines()[0] + "; " if "failed" in part else ""
        lines.append(f"| {name} | {(failure + text).replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for the results and all runs")
    parser.add_argument("--images", type=int, default=256, help="number of generated photos")
    parser.add_argument("--count", type=int, default=256, help="number of photos for the time of propose")
    parser.add_argument("--repeats", type=int, default=5, help="turns for the time of propose")
    parser.add_argument("--size", type=int, default=512, help="side of the resized photos in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="images per forward pass")
    parser.add_argument("--processes", type=int, default=2, help="processes on one GPU")
    parser.add_argument("--parts", nargs="+", default=[""], help="how the names of the parts to run start")
    parser.add_argument("--cpu", action="store_true", help="try the script on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
