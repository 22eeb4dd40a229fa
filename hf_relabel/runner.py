"""Who does which shard: ranks, claims, resume, progress.

Ranks never talk to each other. Each finds its place in the environment that `accelerate launch` sets, and they share
work through the file system: a shard is done when its file is there with the right fingerprint, and being done when a
living process holds a claim on it. So the number of processes never changes what is written, a rank that dies can be
started again by itself, and ranks of unequal speed do not wait: one that has finished its own shards takes those that
nobody has claimed.

A stage gives a `process(shard) -> ShardResult`; it does no I/O of results and knows no rank.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from hf_relabel.config import RunConfig
from hf_relabel.errors import StageError
from hf_relabel.manifest import ShardFolder, clock

LEASE_SECONDS = 60.0
"""A claim that its owner has not renewed for so long is void."""

NAMING_SECONDS = 5.0
"""Time a rank has to write its name into a claim it has made; a claim still empty after it is void."""

POLL_SECONDS = 0.5

LAUNCHER_VARIABLES = (
    ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"),
    ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"),
    ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
"""Rank, number of ranks, and both on this machine: as torchrun and accelerate, Intel's MPI and Open MPI tell them."""


@dataclass(frozen=True)
class Rank:
    """One process among those that share a run.

    Args:
        index: This process, from 0. Rank 0 is the main process.
        world: Processes in all.
        local_world: Processes on this machine.
        device: Where this process computes.
        threads: Images it computes side by side on a CPU.
    """

    index: int
    world: int
    local_world: int
    device: torch.device
    threads: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports and writes manifests."""
        return self.index == 0


def current_rank(config: RunConfig) -> Rank:
    """This process's place, as `accelerate launch` (or any torchrun-like launcher) tells it in the environment.

    The launcher's variables are taken out of the environment: ranks share work through the file system alone, and
    what runs inside one of them must not wait for the others to join a process group.
    """
    index, world, local_index, local_world = (_from_launcher(names) for names in LAUNCHER_VARIABLES)
    if world is None and "MASTER_ADDR" in os.environ:
        print(
            "accelerate launch --cpu starts a single process unless it is given --mpirun_hostfile; this one uses all "
            "cores. For several: torchrun --nproc_per_node N -m hf_relabel ...",
            file=sys.stderr,
        )
    index, world, local_index = index or 0, world or 1, local_index or 0
    local_world = local_world or world
    for name in itertools.chain(*LAUNCHER_VARIABLES):
        os.environ.pop(name, None)
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if torch.cuda.is_available() and not on_cpu:
        device = torch.device("cuda", local_index % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    # accelerate reads this one: the labeler trains where the rest of this process computes.
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    # A sum's last bits depend on how many threads share it, so one operation always has one thread; a rank is
    # parallel over images instead.
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = config.threads or max(1, cores // local_world)
    return Rank(index, world, local_world, device, threads)


def _from_launcher(names: Sequence[str]) -> int | None:
    """The first of these environment variables that is set."""
    return next((int(os.environ[name]) for name in names if name in os.environ), None)


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each compute one image (or one chunk) at a time."""
    return ThreadPoolExecutor(threads, thread_name_prefix="compute", initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True)
class Shard:
    """A run of consecutive images in the order of their ids."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def make_shards(images: int, size: int) -> list[Shard]:
    """Cut `images` images into shards of `size`; the last may be shorter."""
    return [Shard(i, start, min(start + size, images)) for i, start in enumerate(range(0, images, size))]


@dataclass
class ShardResult:
    """What a stage makes of a shard: one row an image, how many of them are errors, counts to report, features."""

    table: pa.Table
    errors: int = 0
    features: np.ndarray | None = None
    counters: dict[str, int] = field(default_factory=dict)


class Claims:
    """Claims on shards as files that outlive no process.

    A claim is made by creating a file that must not exist, and renewed by touching it. It is void when its owner's
    process is gone (same machine) or has not renewed it for `LEASE_SECONDS`. Two ranks that race for a void claim may,
    at worst, both do the shard: they write the same file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.owner = {"host": socket.gethostname(), "pid": os.getpid()}

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"shard-{shard.index:05d}.claim"

    @contextlib.contextmanager
    def hold(self, shard: Shard) -> Iterator[bool]:
        """Claim a shard for the length of the block; gives False where another living process holds it."""
        path = self._path(shard)
        if not self._take(path):
            yield False
            return
        done = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(path, done), daemon=True)
        renewer.start()
        try:
            yield True
        finally:
            done.set()
            renewer.join()
            path.unlink(missing_ok=True)

    def _take(self, path: Path) -> bool:
        for _ in range(2):
            try:
                with open(path, "x", encoding="utf-8") as file:
                    json.dump(self.owner, file)
                return True
            except FileExistsError:
                try:
                    is_void = self._is_void(path)
                except FileNotFoundError:  # given back a moment ago; what is there now would be another's
                    continue
                if not is_void:
                    return False
                path.unlink(missing_ok=True)
        return False

    def _is_void(self, path: Path) -> bool:
        age = clock(self.folder) - path.stat().st_mtime
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:  # its owner is about to write it, or died before it could
            return age > NAMING_SECONDS
        if owner["host"] == self.owner["host"] and not _is_alive(owner["pid"]):
            return True
        return age > LEASE_SECONDS

    def _renew(self, path: Path, done: threading.Event) -> None:
        while not done.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def make_folder(folder: Path) -> None:
    """Create a folder to write in, or raise a one-line StageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StageError(
            f"run.dir: cannot write in {folder} ({error.strerror}); choose another --run.dir or mend its permissions"
        ) from error


def run_shards(
    folder: ShardFolder,
    shards: list[Shard],
    process: Callable[[Shard, Callable[[int], None]], ShardResult],
    rank: Rank,
    config: RunConfig,
) -> dict[str, Any]:
    """Do every shard that is not done, together with the other ranks; returns the stage's manifest.

    Args:
        folder: Where the shards lie and under which fingerprint.
        shards: All shards of the run, the same list in every rank.
        process: Makes a shard's table; is given the shard and a function to call with each number of images done.
        rank: This process.
        config: `overwrite` and `max_error_rate` are read.

    Raises:
        StageError: Work of another configuration is in the way; too many images are errors.
    """
    manifest = folder.manifest()
    if manifest is not None:
        return manifest
    make_folder(folder.folder)
    if not config.overwrite:
        folder.refuse_other_work(len(shards))
    images = sum(len(shard) for shard in shards)
    with progress_bar(images, folder.stage, "images", rank) as bar:
        errors = _work_off(folder, shards, process, rank, config, bar)
    _refuse_too_many_errors(folder, errors, images, config)
    if rank.is_main:
        manifest = folder.write_manifest(lambda index: len(shards[index]), len(shards))
        _refuse_too_many_errors(folder, manifest["counters"].get("errors", 0), images, config)
        return manifest
    return wait_for(folder.manifest)


def _work_off(
    folder: ShardFolder,
    shards: list[Shard],
    process: Callable[[Shard, Callable[[int], None]], ShardResult],
    rank: Rank,
    config: RunConfig,
    bar: tqdm,
) -> int:
    """Take shards, this rank's own first, until all are done by somebody. Returns this rank's count of errors."""
    claims = Claims(folder.folder)
    images = sum(len(shard) for shard in shards)
    errors = 0
    own = shards[rank.index :: rank.world]
    others = [shard for shard in reversed(shards) if shard.index % rank.world != rank.index]
    pending = own + others
    with _Writer(folder) as writer:
        while pending:
            left, worked = [], False
            for shard in pending:
                if folder.is_done(shard.index):
                    bar.update(len(shard))
                    continue
                with contextlib.ExitStack() as claim:
                    if not claim.enter_context(claims.hold(shard)):
                        left.append(shard)
                        continue
                    if folder.is_done(shard.index):  # by the rank whose claim ended a moment ago
                        bar.update(len(shard))
                        continue
                    result = process(shard, bar.update)
                    writer.write(shard, result, claim)
                worked = True
                errors += result.errors
                _refuse_too_many_errors(folder, errors, images, config)
            pending = left
            if pending and not worked:
                time.sleep(POLL_SECONDS)
    return errors


class _Writer:
    """Writes shards in a thread, so that the next one is computed meanwhile; at most one waits to be written.

    Leaving the block waits for the last one and raises what went wrong with it.
    """

    def __init__(self, folder: ShardFolder):
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._last: Future | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self._wait()

    def write(self, shard: Shard, result: ShardResult, claim: contextlib.ExitStack) -> None:
        """Write a shard's result; its claim is taken over, and given back when the shard is there."""
        self._wait()
        self._last = self._thread.submit(self._write, shard, result, claim.pop_all())

    def _wait(self) -> None:
        """Until the last shard is written; raises what went wrong with it."""
        if self._last is not None:
            self._last.result()

    def _write(self, shard: Shard, result: ShardResult, claim: contextlib.ExitStack) -> None:
        with claim:
            counters = {"images": len(shard), "errors": result.errors, **result.counters}
            self._folder.write(shard.index, result.table, counters, result.features)


def _refuse_too_many_errors(folder: ShardFolder, errors: int, images: int, config: RunConfig) -> None:
    if errors > config.max_error_rate * images:
        raise StageError(
            f"{folder.folder}: {errors} of {images} images are errors, more than run.max_error_rate "
            f"{config.max_error_rate:g} allows; see the column `error` of its shards, mend the images or raise the rate"
        )


def progress_bar(total: int, name: str, unit: str, rank: Rank) -> tqdm:
    """A progress bar with rate and time left, shown by the main process; in a log, a line a minute at most."""
    interval = 0.1 if sys.stderr.isatty() else 60.0
    return tqdm(total=total, desc=name, unit=f" {unit}", disable=not rank.is_main, mininterval=interval, smoothing=0.05)


def wait_for(ready: Callable[[], Any]) -> Any:
    """Wait until `ready()` gives something, and return it: how other ranks wait for what the main process makes."""
    while (found := ready()) is None:
        time.sleep(POLL_SECONDS)
    return found
