"""Which process this is: rank, number of processes, device and threads."""

import itertools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from hf_relabel.config import RunConfig

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
