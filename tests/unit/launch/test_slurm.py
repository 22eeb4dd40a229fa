"""Slurm: the job scripts, what is submitted in which order, and that arrays together start every task once."""

import json
import stat
import subprocess

import pytest

from hf_relabel.config import Config, RunConfig
from hf_relabel.errors import StageError, UsageError
from hf_relabel.launch.config import LaunchSettings, SlurmSettings
from hf_relabel.launch.engines import describe, launch, make_jobs

SBATCH = """#!/bin/bash
for script; do :; done
bash -n "$script" || exit 1
number=$(($(cat {folder}/number 2>/dev/null || echo 100) + 1))
echo $number > {folder}/number
cp "$script" {folder}/$number.slurm
echo "$number $*" >> {folder}/submitted
echo "Submitted batch job $number"
"""


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A program that checks a script's syntax as bash does, and writes down what it was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "sbatch"
    program.write_text(SBATCH.format(folder=folder))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    return folder


def start(tmp_path, **settings):
    config = Config(run=RunConfig(dir=str(tmp_path / "run")))
    asked = LaunchSettings(engine="slurm", **settings)
    jobs = make_jobs("run", config, asked)
    return jobs, config, asked


def test_stages_are_submitted_in_order_each_after_the_one_before(tmp_path, sbatch, capsys):
    slurm = SlurmSettings(partition="gpu", account="lab", sbatch=["constraint=a100"])
    asked = start(tmp_path, tasks=8, workers=2, cpus_per_task=4, gpus_per_task=2, time="30h", slurm=slurm)
    launch(*asked)
    submitted = (sbatch / "submitted").read_text().splitlines()
    assert len(submitted) == 5
    assert "--dependency" not in submitted[0]
    for number, line in enumerate(submitted[1:], start=102):
        assert line.startswith(f"{number} ")
        assert f"--dependency=afterok:{number - 1}" in line
    assert "propose: job 101" in capsys.readouterr().out
    options = set((sbatch / "101.slurm").read_text().splitlines())
    for option in ("array=0-7%2", "gpus=2", "cpus-per-task=4", "time=1-06:00:00", "partition=gpu", "account=lab"):
        assert f"#SBATCH --{option}" in options
    assert {"#SBATCH --constraint=a100", "#SBATCH --kill-on-invalid-dep=yes", "#SBATCH --requeue"} <= options
    assert "srun --cpus-per-task=4 " in (sbatch / "101.slurm").read_text(), "a step does not inherit it"
    score = (sbatch / "102.slurm").read_text()
    assert "--array=0-0" in score
    assert "--gpus=1" in score, "only propose shares its work among GPUs"


def test_the_dry_run_prints_the_scripts_and_writes_nothing(tmp_path, sbatch):
    jobs, config, asked = start(tmp_path, tasks=8)
    printed = describe(jobs, config, asked)
    assert printed.count("#!/bin/bash") == 5
    assert "#SBATCH --partition" not in printed
    assert str(tmp_path / "run" / "launch") in printed
    assert subprocess.run(["bash", "-n"], input=printed, text=True, check=False).returncode == 0
    assert not (tmp_path / "run").exists()
    assert not (sbatch / "submitted").exists()


def test_arrays_together_start_every_task_once(tmp_path, sbatch, monkeypatch):
    """Clusters limit an array to about 1,000 tasks."""
    import dill

    config = Config(run=RunConfig(dir=str(tmp_path / "run")))
    asked = LaunchSettings(engine="slurm", tasks=25, slurm=SlurmSettings(max_array=10))
    launch(make_jobs("propose", config, asked), config, asked)
    lines = (sbatch / "submitted").read_text().splitlines()
    [pickled] = (tmp_path / "run" / "launch").rglob("executor.pik")
    assert len(json.loads((pickled.parent / "ranks_to_run.json").read_text())) == 25
    started = []
    for line in lines:
        offset = line.partition("RUN_OFFSET=")[2].split()[0]
        script = (sbatch / f"{line.split()[0]}.slurm").read_text()
        last = int(script.partition("--array=0-")[2].partition("%")[0])
        for index in range(last + 1):
            executor = dill.loads(pickled.read_bytes())
            monkeypatch.setattr(executor, "_run_for_rank", lambda rank, **_: started.append(rank))
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
            monkeypatch.setenv("RUN_OFFSET", offset)
            executor.run()
    assert sorted(started) == list(range(25))


def test_the_dry_run_shows_what_is_submitted(tmp_path, sbatch):
    """Each line of the dry run is a submission of the launch, with names of jobs where the launch has numbers."""
    asked = start(tmp_path, tasks=25, slurm=SlurmSettings(max_array=10))
    shown = [line for line in describe(*asked).splitlines() if line.startswith("# sbatch ")]
    launch(*asked)
    made = (sbatch / "submitted").read_text().splitlines()
    assert len(shown) == len(made) == 3 + 1 + 1 + 3 + 1
    for line, submitted in zip(shown, made, strict=True):
        for option in ("RUN_OFFSET=0", "RUN_OFFSET=1", "RUN_OFFSET=2", "afterok:", "afterany:"):
            assert (option in line) == (option in submitted), (line, submitted)


def test_gpus_get_cores_that_prepare_their_images(tmp_path):
    jobs, config, asked = start(tmp_path, gpus_per_task=4)
    script = describe(jobs, config, asked)
    assert "#SBATCH --gpus=4" in script
    assert "#SBATCH --cpus-per-task=32" in script
    command = jobs[0].task.command("CONFIG", 0, 1)
    assert command[command.index("--num_processes") + 1] == "4"
    assert command[command.index("--run.threads") + 1] == "8", "four processes share the cores"


@pytest.mark.parametrize("name", ["my run", "a%A", "a'b", "a$(b)"])
def test_a_folder_that_a_job_script_cannot_name(tmp_path, sbatch, name):
    jobs, config, asked = start(tmp_path / name)
    for use in (describe, launch):
        with pytest.raises(UsageError, match=r"^run\.dir: .* which job scripts of Slurm cannot have"):
            use(jobs, config, asked)
    assert not (sbatch / "submitted").exists()


def test_a_refusal_names_the_stage(tmp_path, sbatch):
    (sbatch / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(StageError, match=r"^launch: sbatch refused the job of propose"):
        launch(*start(tmp_path, tasks=2))


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"^launch: sbatch is not installed here"):
        launch(*start(tmp_path, tasks=2))
