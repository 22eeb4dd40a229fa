"""datatrove's Slurm executor, as this package's stages need it."""

import math
import re
import shlex
import sys
import tempfile
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from hf_relabel.errors import StageError, UsageError
from hf_relabel.launch.config import LaunchSettings
from hf_relabel.launch.plan import StageJob, slurm_time

SIGNAL = "USR1@120"
"""Two minutes before the time limit Slurm signals a task, which then asks to be queued again."""


class SlurmExecutor(SlurmPipelineExecutor):
    """An array of tasks; the next stage starts when all of them have succeeded."""

    def launch_merge_stats(self) -> None:
        """Start no job that merges datatrove's statistics: the stages' manifests have the counts."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """The options of sbatch; without a partition, the cluster's default."""
        options: dict[str, Any] = super().get_sbatch_args(max_array)
        return {name: value for name, value in options.items() if value or name != "partition"}

    def script(self) -> str:
        """The job script of this stage, as `run` submits it for each of its arrays."""
        entries = min(self.tasks, self.max_array_size)
        options = " ".join(f"--{name}={value}" for name, value in self.srun_args.items())
        runs = f"srun {options} -l -n 1 launch_pickled_pipeline {self.logging_dir.resolve_paths('executor.pik')}"
        return str(self.get_launch_file_contents(self.get_sbatch_args(entries), runs))

    def submissions(self, before: str | None) -> list[str]:
        """The options of sbatch with which `run` submits the script: once per array, each after the one before.

        Args:
            before: The stage that this one waits for.
        """
        made = []
        for number in range(math.ceil(self.tasks / min(self.tasks, self.max_array_size))):
            waits = [f"afterok:<{before}>"] if before else []
            waits += [f"afterany:<array {number} of {self.job_name}>"] if number else []
            made.append(f"--export=ALL,RUN_OFFSET={number}" + (f" --dependency={','.join(waits)}" if waits else ""))
        return made


def check_folder(logs: Path) -> None:
    """Refuse a folder whose name a job script would read as something else.

    Raises:
        UsageError: It has spaces, or characters that sbatch or the shell replace.
    """
    if odd := re.search(r"[^\w./@+=:,-]", str(logs)):
        raise UsageError(
            f"run.dir: {str(logs.parent.parent)!a} contains {odd[0]!a}, which job scripts of Slurm cannot have; choose "
            "a --run.dir of letters, digits and . / _ -"
        )


def make_executor(job: StageJob, settings: LaunchSettings, logs: Path, before: SlurmExecutor | None) -> SlurmExecutor:
    """The executor of a stage that waits for the one before it.

    Args:
        job: The stage.
        settings: Resources and Slurm's own options.
        logs: Folder of the stage's logs, on a file system that all nodes share.
        before: The stage before.
    """
    slurm = settings.slurm
    cpus = settings.cpus_of(job.task.gpus)
    # Where a stage before fails, the later ones are canceled; without this they would be pending for ever.
    extra: dict[str, Any] = {"kill-on-invalid-dep": "yes", "signal": SIGNAL, "open-mode": "append"}
    extra |= {"account": slurm.account} if slurm.account else {}
    extra |= dict(option.partition("=")[::2] for option in slurm.sbatch)
    executor = SlurmExecutor(
        pipeline=[job.task],
        tasks=job.tasks,
        workers=min(settings.workers, job.tasks),
        time=slurm_time(settings.seconds),
        partition=slurm.partition or "",
        cpus_per_task=cpus,
        srun_args={"cpus-per-task": cpus},  # since Slurm 22.05 a step does not inherit it from its job
        mem_per_cpu_gb=settings.mem_per_cpu_gb,
        gpus_per_task=job.task.gpus,
        job_name=f"hf-relabel-{job.name}",
        qos=slurm.qos or "",
        env_command=slurm.setup or f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        sbatch_args=extra,
        max_array_size=slurm.max_array,
        depends=before,
        logging_dir=str(logs),
        slurm_logs_folder=str(logs / "slurm"),
    )
    return executor


def scripts(jobs: list[StageJob], settings: LaunchSettings, logs: Path) -> str:
    """The job script of each stage and how it is submitted, without writing anything below `logs`."""
    made, before = [], None
    with tempfile.TemporaryDirectory() as folder:  # datatrove makes the folder of its logs
        for job in jobs:
            executor = make_executor(job, settings, Path(folder) / job.name, None)
            submitted = [
                f"# sbatch {options} {folder}/{job.name}/launch_script.slurm"
                for options in executor.submissions(before)
            ]
            made.append("\n".join([f"# ---- {job.name} ----", *submitted, executor.script()]))
            before = job.name
    return "\n".join(made).replace(folder, str(logs))


def submit(jobs: list[StageJob], settings: LaunchSettings, logs: Path) -> dict[str, str]:
    """Submit all stages at once, each after the one before; returns the id of each stage's last job.

    Raises:
        UsageError: There is no Slurm here.
        StageError: Slurm refused a job.
    """
    executor: SlurmExecutor | None = None
    ids: dict[str, str] = {}
    for job in jobs:
        executor = make_executor(job, settings, logs / job.name, executor)
        try:
            executor.run()
        except FileNotFoundError as error:
            raise UsageError("launch: sbatch is not installed here; launch from a login node of the cluster") from error
        except CalledProcessError as error:
            submitted = f"; submitted before: {', '.join(ids.values())} (scancel removes them)" if ids else ""
            raise StageError(
                f"launch: sbatch refused the job of {job.name}, for the reason above{submitted}"
            ) from error
        ids[job.name] = str(executor.job_id)
    return ids
