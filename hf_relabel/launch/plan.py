"""What a launch starts: one job per stage, each after the one before."""

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from hf_relabel.config import Config, as_dict
from hf_relabel.errors import UsageError
from hf_relabel.launch.task import Task

STAGES = ("propose", "score", "train", "label", "build")

UNITS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class StageJob:
    """A stage as a job of the engine.

    Args:
        name: The stage.
        task: What each of its tasks does.
        tasks: Number of tasks.
    """

    name: str
    task: Task
    tasks: int


def plan(command: str, config: Config, tasks: int, task: Task) -> list[StageJob]:
    """List the jobs of a run, or of one stage.

    The last job of `run` is `run` itself as one task: it finds the other stages complete, builds the release and draws
    the pictures, so that nothing is missing that one process would have made.

    Args:
        command: `run` or a stage.
        config: The run's configuration.
        tasks: Number of tasks of the stages whose shards are shared.
        task: A task with the resources that each task of these stages has.
    """
    settings = yaml.safe_dump(as_dict(config), sort_keys=False)
    stages = [command]
    if command == "run":
        skipped = ("score", "train") if config.labeler else ()
        stages = [stage for stage in STAGES if stage not in skipped]
    jobs = []
    for stage in stages:
        is_last = command == "run" and stage == "build"
        shared = stage in ("propose", "label") or (stage == "score" and config.score.method == "label_map")
        made = dataclasses.replace(task, stage="run" if is_last else stage, settings=settings)
        if stage != "propose":  # the others compute little
            made = dataclasses.replace(made, gpus=min(made.gpus, 1))
        jobs.append(StageJob(stage, made, tasks if shared else 1))
    return jobs


def run_folder(config: Config) -> Path:
    """The run's folder as an absolute path."""
    return Path(config.run.dir).absolute()


def seconds_of(text: str, key: str) -> int:
    """Read a duration such as 45m, 12h or 2d.

    Raises:
        UsageError: It is not one.
    """
    found = re.fullmatch(r"(\d+)([mhd])", text)
    if not found or not int(found[1]):
        raise UsageError(f"{key}: must be a number of minutes, hours or days such as 45m, 12h or 2d, got {text!r}")
    return int(found[1]) * UNITS[found[2]]


def slurm_time(seconds: int) -> str:
    """A duration as Slurm writes it, days-hours:minutes:seconds."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"
