"""Several processes on one run folder: under torchrun, started twice by hand, and one that ends early."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, ON_CPU, assert_equal_runs, error_line, hf_relabel

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]

SCRIPT = """
import os, sys
import torch
from hf_relabel.cli import main

config, folder, report = sys.argv[1:]
before, rank = dict(os.environ), os.environ["RANK"]
if rank == "1":  # finishes early, while the other one has two runs to do
    status = main(["propose", "--config", config, "--run.dir", f"{folder}/one"])
else:
    status = max(main(["run", "--config", config, "--run.dir", f"{folder}/{name}"]) for name in ("one", "two"))
changed = [key for key in sorted(before.keys() | os.environ) if before.get(key) != os.environ.get(key)]
changed = [key for key in changed if not key.startswith(("KMP_", "TORCHINDUCTOR_"))]  # torch's own, when imported
with open(f"{report}-{rank}", "w") as file:
    print(status, torch.distributed.is_initialized(), changed, file=file)
sys.exit(status)
"""


@pytest.fixture
def alone(finished_run) -> tuple[str, Path]:
    """A configuration, and a run by one process."""
    run, _ = finished_run
    return str(run.parent / "config.yaml"), run


@pytest.mark.slow
def test_a_rank_that_ends_early_ends_nobody_else_and_the_environment_stays(alone, tmp_path):
    """No process group is joined, so rank 0 continues alone, with two commands in one process."""
    config, run = alone
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [*TORCHRUN, str(tmp_path / "script.py"), config, str(tmp_path), str(tmp_path / "report")]
    done = subprocess.run(command, env=ENVIRONMENT | ON_CPU, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert (tmp_path / f"report-{rank}").read_text() == "0 False []\n"
    assert done.stdout.count("build: ") == 2
    for name in ("one", "two"):
        assert_equal_runs(run, tmp_path / name)


@pytest.mark.slow
def test_two_plain_starts_on_one_folder_share_the_run(alone, tmp_path):
    """Two users, or two entries of a job array, without a launcher: one makes what the other waits for."""
    config, run = alone
    command = [sys.executable, "-m", "hf_relabel", "run", "--config", config, "--run.dir", str(tmp_path / "run")]
    started = []
    for number in range(2):
        with open(tmp_path / f"log-{number}", "w") as log:
            started.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log))
    try:
        statuses = [process.wait(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    assert statuses == [0, 0], [(tmp_path / f"log-{number}").read_text() for number in range(2)]
    assert_equal_runs(run, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.claim"))


@pytest.mark.slow
def test_two_entries_of_a_slurm_array_share_the_run(alone, tmp_path):
    config, run = alone
    command = [sys.executable, "-m", "hf_relabel", "run", "--config", config, "--run.dir", str(tmp_path / "run")]
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"}
    started = []
    for task in (1, 2):
        with open(tmp_path / f"log-{task}", "w") as log:
            environment = ENVIRONMENT | array | {"SLURM_ARRAY_TASK_ID": str(task)}
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        assert [process.wait(timeout=200) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    assert_equal_runs(run, tmp_path / "run")
    assert "done in" in (tmp_path / "log-1").read_text()
    assert "done in" not in (tmp_path / "log-2").read_text()


@pytest.mark.slow
def test_fit_under_torchrun_on_cpus_is_one_group(tmp_path):
    """Without a GPU torchrun does not say that the processes belong together: once, both were the main process."""
    import tiny_data
    from release_folder import write_release

    rows = tiny_data.write_images(tmp_path, 16, seed=0)
    write_release(tmp_path / "release", tiny_data.NAMES, rows)
    model = tiny_data.write_model_config(tmp_path)
    arguments = ["--release", str(tmp_path / "release"), "--images", str(tmp_path / "images"), "--model", model]
    command = [*TORCHRUN, "-m", "hf_relabel", "fit", *arguments, "--out", str(tmp_path / "out"), "--epochs", "1"]
    done = subprocess.run(
        [*command, "--batch-size", "4"], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("16 images, 4 classes") == 1
    assert len(list((tmp_path / "out" / "checkpoints").glob("*/random_states_*"))) == 2
    assert json.loads((tmp_path / "out" / "training.json").read_text())["finished"]


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["hf_relabel", *sys.argv[2:]]
runpy.run_module("hf_relabel", run_name="__main__")
"""
"""Runs a command that may not write a file above a size, which takes the same path as a full disk."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize(
    ("stage", "size", "path"),
    [
        ("propose", 300, ".listing-"),
        ("propose", 3000, "proposals/shard-0000"),
        ("score", 500, "config.yaml"),
        ("train", 2500, "labeler"),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_finishes(alone, tmp_path, stage, size, path):
    config, run = alone
    folder = ["--config", config, "--run.dir", str(tmp_path / "run")]
    stages = ("propose", "score", "train")
    for before in stages[: stages.index(stage)]:
        assert hf_relabel(before, *folder).returncode == 0
    command = [sys.executable, "-c", LIMITED, str(size), stage, *folder]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200)
    line = error_line(done, 1)
    assert f"{tmp_path / 'run' / path}" in line
    assert "cannot be written (File too large); free disk space" in line
    done = hf_relabel("run", *folder)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(run, tmp_path / "run")
