"""What a launch starts: the jobs of a run, the command of each task, and the settings that are refused."""

import pytest
import yaml

from hf_relabel.config import Config, RunConfig, ScoreConfig
from hf_relabel.errors import UsageError
from hf_relabel.launch.config import JobsSettings, LaunchSettings, SlurmSettings
from hf_relabel.launch.engines import describe, make_jobs
from hf_relabel.launch.plan import plan, seconds_of, slurm_time
from hf_relabel.launch.task import Task

TASK = Task("", "", gpus=4)


def jobs_of(config: Config, command: str = "run") -> list[tuple[str, str, int, int]]:
    return [(job.name, job.task.stage, job.tasks, job.task.gpus) for job in plan(command, config, 8, TASK)]


def test_the_jobs_of_a_run():
    """Only stages that share shards have several tasks; the last job is the whole run, as a check of all others."""
    assert jobs_of(Config()) == [
        ("propose", "propose", 8, 4),
        ("score", "score", 1, 1),
        ("train", "train", 1, 1),
        ("label", "label", 8, 1),
        ("build", "run", 1, 1),
    ]
    assert jobs_of(Config(), "label") == [("label", "label", 8, 1)]
    assert jobs_of(Config(), "build") == [("build", "build", 1, 1)]
    teacher = Config(score=ScoreConfig(method="label_map", label_maps="maps"))
    assert jobs_of(teacher)[1] == ("score", "score", 8, 1)
    assert [name for name, *_ in jobs_of(Config(labeler="runs/other"))] == ["propose", "label", "build"]


def test_a_task_carries_the_whole_configuration():
    job = plan("run", Config(), 8, TASK)[0]
    assert yaml.safe_load(job.task.settings)["propose"]["max_masks"] == 4
    command = job.task.command("c.yaml", 3, 8)
    assert command[command.index("--run.part") + 1] == "3/8"
    assert command[command.index("--num_processes") + 1] == "4", "one process per GPU"
    assert "--run.part" not in job.task.command("c.yaml", 0, 1)


@pytest.mark.parametrize(("text", "seconds", "slurm"), [("45m", 2700, "0-00:45:00"), ("30h", 108_000, "1-06:00:00")])
def test_durations(text, seconds, slurm):
    assert seconds_of(text, "--time") == seconds
    assert slurm_time(seconds) == slurm


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": 0}, "--tasks: must be 1 or more, got 0"),
        ({"workers": 0}, "--workers: must be 1 or more, got 0"),
        ({"time": "30"}, "--time: must be a number of minutes, hours or days"),
        ({"time": "0h"}, "--time: must be"),
        ({"time": "3m", "engine": "slurm"}, "--time: must be 10m or more for Slurm"),
        ({"slurm": SlurmSettings(sbatch=["exclusive"])}, "--sbatch: must be NAME=VALUE"),
        ({"slurm": SlurmSettings(sbatch=["a=b\n#SBATCH --uid=0"])}, "--sbatch: must be NAME=VALUE"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(UsageError, match=f"^{words}"):
        LaunchSettings(**settings)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ({}, "--bucket: must be user/name"),
        ({"bucket": "a/b"}, "--dependencies: name what installs this package"),
        ({"bucket": "a/b", "dependencies": ["x"]}, "run.dir: runs/relabel is not below /mnt/run"),
    ],
)
def test_jobs_that_could_not_share_a_folder_are_refused(jobs, words):
    with pytest.raises(UsageError, match=f"^{words}"):
        make_jobs("run", Config(), LaunchSettings(engine="hf-jobs", jobs=JobsSettings(**jobs)))


def test_the_dry_run_of_jobs_shows_what_is_asked_for():
    jobs = JobsSettings(bucket="a/b", flavor="a10g-largex4", dependencies=["hf_relabel[cluster] @ https://x/y"])
    asked = LaunchSettings(engine="hf-jobs", tasks=3, gpus_per_task=4, time="6h", jobs=jobs)
    config = Config(run=RunConfig(dir="/mnt/run/a"))
    shown = describe(make_jobs("run", config, asked), config, asked)
    for words in ("flavor a10g-largex4, at most 6h", "bucket a/b at /mnt/run", "hf_relabel[cluster] @ https://x/y"):
        assert words in shown
    assert "score: 1 task, 1 at a time" in shown
