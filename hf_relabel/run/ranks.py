"""Which process this is: rank, number of processes, device and threads.

The launcher's environment variables are read here and never changed. `accelerate.PartialState` would give the same
numbers, but only after joining a process group, which a run must not depend on: it blocks until every rank has been
started, so a rank that is started again alone, or later, would wait for half an hour and then fail; and under
`torchrun` on CPUs, without being told to use them, it gives every process rank 0 of 1. Ranks of a run share a folder
and nothing else. The rank only decides who reports and with which shards a process begins, so any number of plain
starts, or a Slurm array, works too.
"""

import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from hf_relabel.config import RunConfig
from hf_relabel.errors import UsageError

LAUNCHER_VARIABLES = (
    ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"),
    ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"),
    ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"),
    ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
"""Rank, number of ranks, and both on this machine: as torchrun and accelerate, Intel's MPI, Open MPI and Slurm's
`srun` set them. Slurm binds each of its tasks to the cores it may use, so it needs no number per machine."""

ARRAY_VARIABLES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
"""A job array's own number, the lowest number, and how many there are."""


@dataclass(frozen=True)
class Rank:
    """One process among those that share a run.

    Args:
        index: This process, from 0. Rank 0 is the main process.
        world: Number of processes.
        local_world: Number of processes on this machine.
        device: Where this process computes.
        threads: Images it computes at the same time on a CPU.
    """

    index: int
    world: int
    local_world: int
    device: torch.device
    threads: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports."""
        return self.index == 0


def current_rank(config: RunConfig, sets_threads: bool = True) -> Rank:
    """Read this process's rank from the environment and choose its device.

    Args:
        config: `threads` is read.
        sets_threads: Whether all of torch's operations in this process have one thread from now on.

    Raises:
        UsageError: The launcher's variables contradict each other.
    """
    check_launcher()
    index, world, local_index, local_world = (_from_launcher(names) for names in LAUNCHER_VARIABLES)
    if world is None and "MASTER_ADDR" in os.environ:
        print(
            "accelerate launch --cpu starts a single process unless it is given --mpirun_hostfile; this one uses all "
            "cores. For several processes: torchrun --nproc_per_node N -m hf_relabel ...",
            file=sys.stderr,
        )
    if (world or 1) == 1 and "SLURM_ARRAY_TASK_ID" in os.environ:
        task, lowest, count = (_from_launcher([name]) for name in ARRAY_VARIABLES)
        index, world, local_world = (task or 0) - (lowest or 0), max(count or 1, (task or 0) - (lowest or 0) + 1), 1
    is_slurm = not any(name in os.environ for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    local_world = local_world or (1 if is_slurm else world) or 1
    device = _device(local_index or 0)
    # A sum's last bits depend on how many threads share it, so one operation always has one thread; a rank computes
    # several images in parallel instead.
    if sets_threads:
        torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = config.threads or max(1, cores // local_world)
    return Rank(index or 0, world or 1, local_world, device, threads)


def _device(local_index: int) -> torch.device:
    """A CUDA device if there is one and it is allowed, else the CPU. MPS has no float64, which the fits need."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if on_cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_index % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def check_launcher() -> None:
    """Refuse variables of a launcher that contradict each other: processes would wait for each other forever.

    Raises:
        UsageError: One is not a whole number, or a rank is not below the number of ranks.
    """
    for ranks, worlds in zip(LAUNCHER_VARIABLES[::2], LAUNCHER_VARIABLES[1::2], strict=True):
        index, world = _from_launcher(ranks), _from_launcher(worlds)
        if world == 0 or (index is not None and world is not None and index >= world):
            names = [name for name in (*ranks, *worlds) if name in os.environ]
            shown = ", ".join(f"{name}={os.environ[name]}" for name in names)
            raise UsageError(
                f"{shown}: a rank must be below the number of ranks, and both start at 0 and 1; start the processes "
                "with torchrun, or unset these variables"
            )


def _from_launcher(names: Sequence[str]) -> int | None:
    """The first of these environment variables that is set.

    Raises:
        UsageError: It is not a whole number of 0 or more.
    """
    name = next((name for name in names if name in os.environ), None)
    if name is None:
        return None
    if not re.fullmatch(r"\d{1,9}", os.environ[name].strip(), re.ASCII):
        raise UsageError(
            f"{name}={os.environ[name]!a}: must be a whole number; start the processes with torchrun, or unset it"
        )
    return int(os.environ[name])


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each compute one image (or one chunk) at a time."""
    return ThreadPoolExecutor(threads, thread_name_prefix="compute", initializer=torch.set_num_threads, initargs=(1,))
