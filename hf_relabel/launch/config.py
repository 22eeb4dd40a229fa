"""Settings of a launch: the engine, how many tasks, and what each task gets."""

from dataclasses import dataclass, field
from typing import Literal

from hf_relabel.errors import UsageError
from hf_relabel.launch.plan import seconds_of

MAX_ARRAY = 1000
"""Tasks of one Slurm array; clusters allow 1,001 by default."""

CPUS_PER_GPU = 8
"""Cores per GPU that most clusters have at least; the solver and the decoding of images need them."""

MIN_SECONDS = 600
"""Minimum time limit of a task of Slurm: a task that is signaled soon after its start would do little but start."""


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """Slurm.

    Args:
        partition: Partition.
        qos: Quality of service; null leaves it to the cluster.
        account: Account to charge.
        sbatch: Further options of sbatch, such as constraint=a100.
        setup: Shell command to run first in every task; by default the Python that launches is put on the PATH.
        max_array: Tasks of one job array; more tasks are several arrays, one after the other.
    """

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    sbatch: list[str] = field(default_factory=list)
    setup: str | None = None
    max_array: int = MAX_ARRAY


@dataclass(frozen=True, kw_only=True)
class JobsSettings:
    """Hugging Face Jobs.

    Args:
        bucket: The bucket, user/name, that has the run's folder; every job mounts it.
        mount: Where jobs mount it; not /data, which Jobs reserve. `run.dir` must be below.
        flavor: Hardware of a job, as `hf jobs hardware` lists it.
        image: Docker image with uv; null takes that of the Hub client.
        namespace: User or organization to charge; null is the user of the token.
        dependencies: What a job installs, as pip requirements: an address of this package, with its extra `cluster`.
    """

    bucket: str | None = None
    mount: str = "/mnt/run"
    flavor: str = "cpu-basic"
    image: str | None = None
    namespace: str | None = None
    dependencies: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """Launch.

    Args:
        command: After `--`: run or a stage, with its options.
        engine: Who starts the tasks: `local` is this machine, `ray` the cluster of RAY_ADDRESS (or else this machine).
        tasks: Parts that a stage's shards are cut into, each the work of one task; by default four per worker.
        workers: Tasks at the same time.
        cpus_per_task: Cores of a task; by default this machine's share per worker for `local`, else 8 per GPU, or 1.
        mem_per_cpu_gb: Memory per core in GB, for `slurm` and `ray`.
        gpus_per_task: GPUs of a task of `propose`, which starts one process per GPU; other stages use one at most.
        time: Time limit of a task, such as 45m, 12h or 2d. Slurm starts a task again that comes close to it.
        restarts: How often a task's process is started again after it was killed.
        dry_run: Print what would be started, and start nothing.
    """

    command: list[str] = field(default_factory=list, metadata={"metavar": "-- COMMAND...", "positional": True})
    engine: Literal["local", "slurm", "ray", "hf-jobs"] = "local"
    tasks: int | None = None
    workers: int = 1
    cpus_per_task: int | None = None
    mem_per_cpu_gb: int = 2
    gpus_per_task: int = 0
    time: str = "24h"
    restarts: int = 2
    dry_run: bool = False
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    jobs: JobsSettings = field(default_factory=JobsSettings)

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--tasks", self.tasks, 1),
            ("--workers", self.workers, 1),
            ("--cpus-per-task", self.cpus_per_task, 1),
            ("--mem-per-cpu-gb", self.mem_per_cpu_gb, 1),
            ("--gpus-per-task", self.gpus_per_task, 0),
            ("--restarts", self.restarts, 0),
            ("--max-array", self.slurm.max_array, 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"{flag}: must be {least} or more, got {value}")
        if seconds_of(self.time, "--time") < MIN_SECONDS and self.engine == "slurm":
            raise UsageError(
                f"--time: must be {MIN_SECONDS // 60}m or more for Slurm, got {self.time}; a task is queued again two "
                "minutes before the limit"
            )
        for option in self.slurm.sbatch:
            if not all(option.partition("=")[::2]) or any(letter in option for letter in "\n\r"):
                raise UsageError(f"--sbatch: must be NAME=VALUE such as constraint=a100, got {option!r}")

    def cpus_of(self, gpus: int) -> int:
        """Cores of a task with so many GPUs on a cluster."""
        return self.cpus_per_task or max(1, CPUS_PER_GPU * gpus)

    @property
    def seconds(self) -> int:
        """Time limit of a task in seconds."""
        return seconds_of(self.time, "--time")

    @property
    def number_of_tasks(self) -> int:
        """Tasks of a stage whose shards are shared."""
        return self.tasks or 4 * self.workers
