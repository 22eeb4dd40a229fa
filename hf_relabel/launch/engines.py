"""The engines: each starts the tasks of one stage after the other and waits for them; Slurm gets all stages at once."""

import importlib.util
import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hf_relabel.config import Config
from hf_relabel.errors import HubError, StageError, UsageError
from hf_relabel.hub.answers import reason, transport_error
from hf_relabel.launch.config import LaunchSettings
from hf_relabel.launch.plan import StageJob, plan, run_folder
from hf_relabel.launch.task import Task, TaskError

LOGS = "launch"
"""Folder of the run that has one folder of logs per launch."""

NAMED_TASKS = 5
"""Failed tasks that a message names."""


def require_engine(engine: str) -> None:
    """Refuse an engine whose package is not installed, before anything is started.

    Raises:
        UsageError: It is not installed.
    """
    for package in ("datatrove", *(["ray"] if engine == "ray" else [])):
        if importlib.util.find_spec(package) is None:
            extra = "cluster" if package == "datatrove" else "ray"
            raise UsageError(f"launch: {package} is not installed; pip install 'hf_relabel[{extra}]'")


def make_jobs(command: str, config: Config, settings: LaunchSettings) -> list[StageJob]:
    """The stages as jobs with their resources.

    Raises:
        UsageError: The settings do not fit together.
    """
    if config.run.part is not None:
        raise UsageError(f"run.part: {config.run.part}, but launch gives every task its part; leave it out")
    cpus, local_gpus = settings.cpus_per_task, 0
    if settings.engine == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cpus = cpus or max(1, cores // settings.workers)
        local_gpus = _local_gpus(settings)
    elif settings.engine == "hf-jobs":
        _check_jobs(config, settings)
    else:
        cpus = settings.cpus_of(settings.gpus_per_task)
    # A task's processes, one per GPU, share its cores.
    threads = config.run.threads or (cpus and max(1, cpus // max(1, settings.gpus_per_task)))
    task = Task("", "", os.getcwd(), threads, settings.gpus_per_task, restarts=settings.restarts, local_gpus=local_gpus)
    return plan(command, config, settings.number_of_tasks, task)


def _local_gpus(settings: LaunchSettings) -> int:
    if not settings.gpus_per_task:
        return 0
    import torch

    found, wanted = torch.cuda.device_count(), settings.workers * settings.gpus_per_task
    if wanted > found:
        raise UsageError(
            f"--gpus-per-task: {settings.workers} workers with {settings.gpus_per_task} each need {wanted} GPUs, this "
            f"machine has {found}; use fewer"
        )
    return found


def _check_jobs(config: Config, settings: LaunchSettings) -> None:
    jobs = settings.jobs
    if not jobs.bucket or not re.fullmatch(r"[\w.-]+/[\w.-]+", jobs.bucket):
        raise UsageError(f"--bucket: must be user/name of the bucket with the run's folder, got {jobs.bucket!r}")
    if not jobs.dependencies:
        raise UsageError(
            "--dependencies: name what installs this package in a job, such as "
            "'hf_relabel[cluster] @ git+https://HOST/OWNER/hf_relabel'"
        )
    mount = Path(jobs.mount)
    if not mount.is_absolute() or mount not in Path(config.run.dir).parents:
        raise UsageError(
            f"run.dir: {config.run.dir} is not below {jobs.mount}, where jobs mount the bucket; set --run.dir to "
            f"{mount / 'runs' / 'name'}, or --mount"
        )


def launch(jobs: list[StageJob], config: Config, settings: LaunchSettings) -> None:
    """Start all jobs, and wait for them unless the engine is Slurm.

    Raises:
        StageError: Tasks of a stage have failed; the later stages are not started.
    """
    logs = log_folder(config, settings)
    _quiet_engine()
    if settings.engine == "slurm":
        from hf_relabel.launch.slurm import check_folder, submit

        check_folder(Path(logs))
        for stage, job_id in submit(jobs, settings, Path(logs)).items():
            print(f"{stage}: job {job_id}")
        print(f"logs: {logs}\nsqueue --me shows the jobs; run the same command again if one of them fails", flush=True)
        return
    if settings.engine == "ray":
        _start_ray()
    elif settings.engine == "hf-jobs":
        _require_token()
    for job in jobs:
        # One executor after the other, not datatrove's `depends`: it waits for ever where a task before has failed.
        executor = _executor(job, settings, f"{logs}/{job.name}")
        print(f"{job.name}: {job.tasks} task{'s' if job.tasks > 1 else ''}; logs: {logs}/{job.name}/logs", flush=True)
        try:
            executor.run()
        except TaskError as error:
            raise StageError(f"launch: {error}; run the same command again to resume") from error
        except Exception as raised:
            if settings.engine != "hf-jobs" or (refusal := transport_error(raised)) is None:
                raise
            raise HubError(f"launch: the Hub refused the jobs of {job.name} ({reason(refusal)})") from raised
        if failed := executor.get_incomplete_ranks(skip_completed=True):
            raise StageError(_describe_failure(job, executor, failed, f"{logs}/{job.name}/logs"))
        print(f"{job.name}: done", flush=True)


def _start_ray() -> None:
    """Connect to the cluster of RAY_ADDRESS, or else start one on this machine."""
    import ray

    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS", "not set")
        raise UsageError(
            f"launch: no Ray cluster answers (RAY_ADDRESS is {address}; {str(error).splitlines()[0]}); start one with "
            "`ray start --head`, or unset RAY_ADDRESS to use this machine"
        ) from error


def _require_token() -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise UsageError("launch: no token: set HF_TOKEN or run `hf auth login`; jobs need it for the bucket")


def _quiet_engine() -> None:
    """Let datatrove write only its warnings to the terminal."""
    from datatrove.utils.logging import logger  # its import sets the logger up

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level}: {message}")


def log_folder(config: Config, settings: LaunchSettings) -> str:
    """The folder of this launch's logs; a new one each time, as datatrove skips tasks that are marked as done there."""
    name = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
    if settings.engine == "hf-jobs":
        below = Path(config.run.dir).relative_to(settings.jobs.mount)
        return f"hf://buckets/{settings.jobs.bucket}/{below}/{LOGS}/{name}"
    return str(run_folder(config) / LOGS / name)


def _executor(job: StageJob, settings: LaunchSettings, logs: str) -> Any:
    workers = min(settings.workers, job.tasks)
    if settings.engine == "hf-jobs":
        from hf_relabel.launch.jobs import make_executor

        return make_executor(job, settings, logs)
    if settings.engine == "ray":
        from hf_relabel.launch.ray import RayExecutor

        return RayExecutor(
            pipeline=[job.task],
            tasks=job.tasks,
            workers=workers,
            logging_dir=logs,
            cpus_per_task=settings.cpus_of(job.task.gpus),
            mem_per_cpu_gb=settings.mem_per_cpu_gb,
            gpus_per_task=job.task.gpus,
            time=settings.seconds,
        )
    from hf_relabel.launch.local import LocalExecutor

    return LocalExecutor(pipeline=[job.task], tasks=job.tasks, workers=workers, logging_dir=logs)


def _describe_failure(job: StageJob, executor: Any, failed: list[int], logs: str) -> str:
    """What went wrong, from the first failed task's log."""
    named = ", ".join(map(str, failed[:NAMED_TASKS])) + (", ..." if len(failed) > NAMED_TASKS else "")
    why = ""
    name = f"logs/task_{failed[0]:05d}.log"
    if executor.logging_dir.isfile(name):
        with executor.logging_dir.open(name, "r") as file:
            errors = [line for line in file if "hf-relabel: error: " in line]
        why = f": {errors[-1].partition('hf-relabel: error: ')[2].strip()}" if errors else ""
    return (
        f"launch: {len(failed)} of {job.tasks} tasks of {job.name} failed (task {named}){why}; see {logs}, then run "
        "the same command again: what is done stays"
    )


def describe(jobs: list[StageJob], config: Config, settings: LaunchSettings) -> str:
    """What `launch` would start: Slurm's job scripts, or each stage's command and resources."""
    logs = log_folder(config, settings)
    if settings.engine == "slurm":
        from hf_relabel.launch.slurm import check_folder, scripts

        check_folder(Path(logs))
        return scripts(jobs, settings, Path(logs))
    lines = []
    if settings.engine == "hf-jobs":
        jobs_of = settings.jobs
        lines.append(f"every job: flavor {jobs_of.flavor}, at most {settings.time}, {settings.restarts} more tries")
        lines.append(f"volume: bucket {jobs_of.bucket} at {jobs_of.mount}")
        lines.append(f"image: {jobs_of.image or 'that of the Hub client'}, with {', '.join(jobs_of.dependencies)}")
    for job in jobs:
        shown = job.task.command("CONFIG", 0, job.tasks)
        workers = min(settings.workers, job.tasks)
        tasks = f"{job.tasks} task{'s' if job.tasks > 1 else ''}"
        lines.append(f"{job.name}: {tasks}, {workers} at a time: {' '.join(shown[1:])}")
    return "\n".join([f"engine: {settings.engine}", *lines, f"logs: {logs}"])
