r"""Time of the whole propose stage compared with a plain forward pass of its backbone over the same images.

    python scripts/bench/propose.py --model .cache/demo-backbone --images PHOTOS
    python scripts/bench/propose.py --model .cache/demo-backbone --images PHOTOS --cores 2 --processes
    python scripts/bench/propose.py --model random-vitl16 --images PHOTOS --image-size 512 --dtype bfloat16 \
        --cores 16 --batch-size 64 --count 1024 --repeats 5

The stage reads, decodes and resizes the photos, runs the backbone and MaskCut, pools features, encodes masks and writes
shards. The plain forward pass is that of the transformers model, with all blocks, on tensors in memory, one image per
thread or in batches, whichever is faster. Both alternate in one process on the same cores. Wall-clock time and
processor time are reported; other processes on the machine hardly affect the latter. `--processes` also measures the
command with one process (one thread per core), started directly and by torchrun, and with one process per core, started
by torchrun. One more turn measures the share of MaskCut's solver in the stage, and the processor time that an image
takes outside of the backbone: on a GPU machine, this work must be done by as many cores as it takes longer than a
forward pass. The last example is for a GPU; `gpu.py` runs it, with other checks.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from timing import ROOT, copy_photos, ratio_and_spread, seconds, use_cores, use_one_thread, wall_and_cpu, write_report

use_one_thread()

import torch  # noqa: E402
from transformers import AutoModel  # noqa: E402

from hf_relabel.config import BackboneConfig, Config, FeatureConfig, ProposeConfig, RunConfig, SourceConfig  # noqa: E402
from hf_relabel.run.job import Job  # noqa: E402
from hf_relabel.run.ranks import current_rank, thread_pool  # noqa: E402
from hf_relabel.run.shard_folder import ShardFolder  # noqa: E402
from hf_relabel.run.shards import run_shards  # noqa: E402
from hf_relabel.run.store import Fingerprint  # noqa: E402
from hf_relabel.stages import propose  # noqa: E402
from hf_relabel.stages.propose import Proposer  # noqa: E402
from hf_relabel.vision.backbone import Backbone  # noqa: E402
from hf_relabel.vision.maskcut import start_maskcut  # noqa: E402

RANDOM = "random-vitl16"

SHARDS_PER_CORE = 4
"""Enough shards for two processes to finish at about the same time, as in a long run."""


def main() -> None:
    options = _options()
    use_cores(options.cores)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        copy_photos(options.images, options.count, photos)
        if options.model == RANDOM:
            options.model = random_model(Path(folder) / "model")
        report = measure_stage(photos, Path(folder), options)
        if options.processes:
            report["processes"] = measure_processes(photos, Path(folder), options)
    write_report(options.json, report)


def random_model(folder: Path) -> str:
    """Write a DINOv3 ViT-L/16 with random weights, which is as fast as a trained one and needs no Hub."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    DINOv3ViTModel(DINOv3ViTConfig(patch_size=16, num_register_tokens=4, **shape)).save_pretrained(folder)
    return str(folder)


def measure_stage(photos: Path, folder: Path, options: argparse.Namespace) -> dict:
    """Measure the stage and the plain forward pass alternately."""
    config = _config(photos, folder / "run", options, shards=options.cores)
    job = Job(config, current_rank(config.run))
    job.take_snapshot()
    with thread_pool(job.rank.threads) as threads:
        backbone = Backbone.load(config.backbone, job.rank.device)
        plain = AutoModel.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval().to(job.rank.device)
        pixels = torch.stack([backbone.preprocess(job.source.load(index).image) for index in range(len(job.source))])
        pixels = pixels.to(job.rank.device, plain.dtype)
        proposer = Proposer(job, backbone, threads)
        on_gpu = job.rank.device.type == "cuda"

        @torch.inference_mode()
        def forward(images: torch.Tensor) -> None:
            plain(pixel_values=images)

        def plain_forward(images_at_once: int) -> None:
            if on_gpu:
                for images in pixels.split(images_at_once):
                    forward(images)
                torch.cuda.synchronize()
            else:
                list(threads.map(forward, pixels.split(images_at_once)))

        def stage(turn: int) -> None:
            shards = ShardFolder(folder / f"turn-{turn}", "proposals", Fingerprint({"turn": turn}))
            run_shards(shards, job.shards, proposer.process, job.rank, config.run)

        works = {
            "stage": stage,
            "one image per thread": lambda turn: plain_forward(1),
            "batches": lambda turn: plain_forward(options.batch_size),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for turn in range(1 + options.repeats):
            for name, work in works.items():
                spent = wall_and_cpu(work, turn)
                if turn:  # the first turn is for warming up
                    taken[name].append(spent)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        last = 1 + options.repeats
        solver_share = measure_solver(partial(stage, last), job.rank.threads, on_gpu)
        peak = torch.cuda.max_memory_allocated() if on_gpu else None
        rest = 1000 * measure_rest(partial(stage, last + 1)) / len(pixels)
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    rate = len(pixels) / statistics.median(wall for wall, _ in taken["stage"])
    print(f"{device}, {len(pixels)} images, {job.rank.threads} threads")
    print(f"{rate:.1f} images per second; MaskCut's solver takes {solver_share:.1%} of the stage")
    print(f"{rest:.1f} ms of processor time per image outside of the backbone", flush=True)
    report: dict = {"device": device, "images": len(pixels), "threads": job.rank.threads}
    report |= {"images_per_second": rate, "solver_share": solver_share, "rest_ms": rest, "peak_gpu_bytes": peak}
    for index, clock in enumerate(("wall",) if on_gpu else ("wall", "processor")):
        values = {name: [spent[index] for spent in spents] for name, spents in taken.items()}
        medians = {name: statistics.median(times) / len(pixels) for name, times in values.items()}
        plain_name = min("one image per thread", "batches", key=medians.__getitem__)
        ratio, text = ratio_and_spread(values["stage"], values[plain_name])
        parts = ", ".join(f"{name} {1000 * median:.1f}" for name, median in medians.items())
        print(f"{clock:9s} stage / plain forward {text}; ms per image: {parts}", flush=True)
        report[clock] = {"ratio": ratio, "seconds": values}
    return report


def measure_solver(stage: Callable[[], None], threads: int, on_gpu: bool) -> float:
    """Measure the share of MaskCut in the time of all threads of a stage; on a GPU, all wait for the graphs."""
    spent = []

    def timed(work: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if on_gpu and work is start_maskcut:
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = work(*arguments, **keywords)
        if on_gpu and work is start_maskcut:
            torch.cuda.synchronize()
        weight = threads if on_gpu and work is start_maskcut else 1
        spent.append(weight * (time.perf_counter() - start))
        return result

    def start_timed(*arguments: Any, **keywords: Any) -> Any:
        cuts = timed(start_maskcut, *arguments, **keywords)
        return [cut and partial(timed, cut) for cut in cuts]

    with mock.patch.object(propose, "start_maskcut", start_timed):
        whole = seconds(stage)
    return sum(spent) / (whole * threads)


def measure_rest(stage: Callable[[], None]) -> float:
    """Measure the processor time of a stage outside of its backbone, in seconds.

    On a CPU the backbone computes in the thread that calls it; on a GPU that thread only waits.
    """
    spent = []
    call = Backbone.__call__

    def timed(backbone: Backbone, pixels: torch.Tensor) -> Any:
        start = time.thread_time()
        features = call(backbone, pixels)
        if features.region.is_cuda:
            torch.cuda.synchronize()
        spent.append(time.thread_time() - start)
        return features

    with mock.patch.object(Backbone, "__call__", timed):
        start = time.process_time()
        stage()
        whole = time.process_time() - start
    return whole - sum(spent)


def measure_processes(photos: Path, folder: Path, options: argparse.Namespace) -> dict:
    """Measure the command with one process and with one per core alternately, including start and model loading."""
    one, launched, several = "1 process", "1 process, launched", f"{options.cores} processes, launched"
    processes = {one: 0, launched: 1, several: options.cores}
    taken: dict[str, list[float]] = {name: [] for name in processes}
    for turn in range(1 + options.repeats):
        for name, count in processes.items():
            run = folder / f"processes-{list(processes).index(name)}-{turn}"
            config = _config(photos, run, options, SHARDS_PER_CORE * options.cores)
            launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m"]
            command = [sys.executable, "-m", *(launcher if count else [])]
            command += ["hf_relabel", "propose", *_arguments(config)]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
            spent = seconds(partial(subprocess.run, command, check=True, capture_output=True, env=environment))
            if turn:
                taken[name].append(spent)
    for name, values in taken.items():
        print(f"{name:24s} {statistics.median(values):8.2f} s")
    report: dict = {"seconds": taken}
    for name in (one, launched):
        report[f"{name} / {several}"], text = ratio_and_spread(taken[name], taken[several])
        print(f"{name} / {several} {text}", flush=True)
    return report


def _config(photos: Path, run: Path, options: argparse.Namespace, shards: int) -> Config:
    backbone = BackboneConfig(
        model=options.model,
        image_size=options.image_size,
        dtype=options.dtype,
        proposal_feature=FeatureConfig(kind="key", block=options.block),
        region_feature=FeatureConfig(kind="token", block=-1),  # all blocks are needed, as in the plain forward pass
    )
    shard_size = max(1, options.count // shards)
    return Config(
        source=SourceConfig(path=str(photos)),
        backbone=backbone,
        propose=ProposeConfig(tau=options.tau),
        run=RunConfig(dir=str(run), shard_size=shard_size, batch_size=options.batch_size),
    )


def _arguments(config: Config) -> list[str]:
    """Return the settings of `_config` as command-line arguments."""
    values = {
        "source.path": config.source.path,
        "backbone.model": config.backbone.model,
        "backbone.image_size": config.backbone.image_size,
        "backbone.dtype": config.backbone.dtype,
        "backbone.proposal_feature.kind": config.backbone.proposal_feature.kind,
        "backbone.proposal_feature.block": config.backbone.proposal_feature.block,
        "backbone.region_feature.kind": config.backbone.region_feature.kind,
        "backbone.region_feature.block": config.backbone.region_feature.block,
        "propose.tau": config.propose.tau,
        "run.dir": config.run.dir,
        "run.shard_size": config.run.shard_size,
        "run.batch_size": config.run.batch_size,
    }
    return [f"--{key}={value}" for key, value in values.items()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=".cache/demo-backbone", help=f"local folder, Hub id, or {RANDOM}")
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--count", type=int, default=4, help="number of photos")
    parser.add_argument("--repeats", type=int, default=15, help="number of turns after the first")
    parser.add_argument("--cores", type=int, default=1, help="number of cores and threads")
    parser.add_argument("--processes", action="store_true", help="also compare one process with one per core")
    parser.add_argument("--image-size", type=int, default=448, help="side of the resized photo in pixels")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--block", type=int, default=-2, help="block whose keys MaskCut uses")
    parser.add_argument("--tau", type=float, default=0.4, help="similarity above which patches are connected")
    parser.add_argument("--batch-size", type=int, default=4, help="batch size of the plain forward pass")
    parser.add_argument("--json", help="file to write all numbers to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
