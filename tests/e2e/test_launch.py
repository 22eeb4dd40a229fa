"""`launch`: the tables are those of one process, on this machine, by Ray with a killed worker, and by a real Slurm."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import ENVIRONMENT, ON_CPU, assert_equal_runs, config_of, error_line, hf_relabel

SLURM = Path(__file__).parents[1] / "clusters" / "slurm.sh"


def proposals(run: Path) -> dict[str, object]:
    return {path.name: pq.read_table(path) for path in sorted((run / "proposals").glob("*.parquet"))}


@pytest.mark.slow
def test_a_local_launch(finished_run, tmp_path):
    run, config = finished_run[0], str(finished_run[0].parent / "config.yaml")
    options = ["--engine", "local", "--tasks", "2", "--workers", "2"]
    done = hf_relabel("launch", *options, "--", "run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "propose: done" in done.stdout
    assert done.stderr == ""
    assert_equal_runs(run, tmp_path / "run")
    assert (tmp_path / "run" / "overlays" / "sheet.png").exists(), "what one process would have made"


@pytest.mark.slow
def test_the_error_of_a_task_is_that_of_the_launch(image_folder, tiny_dinov3, tmp_path):
    (image_folder_copy := tmp_path / "images").mkdir()
    shutil.copytree(image_folder, image_folder_copy, dirs_exist_ok=True)
    broken = sorted(path for path in image_folder_copy.rglob("*") if path.is_file())[0]
    broken.write_bytes(b"no image")
    config = config_of(tmp_path, image_folder_copy, tiny_dinov3)
    command = ["launch", "--tasks", "1", "--", "propose", "--config", config, "--run.dir", str(tmp_path / "run")]
    error = error_line(hf_relabel(*command), 1)
    assert "propose: task 0" in error
    assert "run.max_error_rate" in error


def descendants(root: int) -> dict[int, str]:
    """The processes below one, with their command lines."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except (ValueError, OSError):
            continue
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: names[pid] for pid in below}


@pytest.mark.slow
def test_ray_replaces_a_killed_worker(finished_run, tmp_path):
    """Two workers; one is killed as soon as a shard is in work. Its part is given to a new one."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    run, config = finished_run[0], str(finished_run[0].parent / "config.yaml")
    made = tmp_path / "run"
    command = [sys.executable, "-m", "hf_relabel", "launch", "--engine", "ray", "--tasks", "2", "--workers", "2"]
    command += ["--mem-per-cpu-gb", "1", "--", "propose", "--config", config, "--run.dir", str(made)]
    environment = ENVIRONMENT | ON_CPU | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    with open(tmp_path / "out.txt", "w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        killed = None
        while killed is None and process.poll() is None:
            if list((made / "proposals").glob("shard-*.claim")):
                workers = [pid for pid, name in descendants(process.pid).items() if name.startswith("ray::RankWorker")]
                if workers:
                    killed = workers[0]
                    os.kill(killed, signal.SIGKILL)
            time.sleep(0.05)
        status = process.wait(200)
    finally:
        process.kill()
    printed = (tmp_path / "out.txt").read_text()
    assert status == 0, printed
    assert killed is not None, printed
    assert "propose: done" in printed
    expected, found = proposals(run), proposals(made)
    assert expected.keys() == found.keys()
    assert all(found[name].equals(table, check_metadata=True) for name, table in expected.items())


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))),
    reason="needs root, and Debian's slurm-wlm and munge",
)
def test_a_real_slurm_with_two_nodes(finished_run, tmp_path):
    run, config = finished_run[0], str(finished_run[0].parent / "config.yaml")
    made, folder = tmp_path / "run", tmp_path / "slurm"
    launch = f"{sys.executable} -m hf_relabel launch --engine slurm --tasks 2 --workers 2 --mem-per-cpu-gb 1 --"
    launch += f" propose --config {config} --run.dir {made}"
    wait = 'while [ -n "$(squeue --noheader)" ]; do sleep 0.5; done; scontrol show jobs --oneliner'
    command = ["bash", str(SLURM), str(folder), "bash", "-c", f"set -e; {launch}; {wait}"]
    done = subprocess.run(command, env=ENVIRONMENT | ON_CPU, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "JobState=FAILED" not in done.stdout
    assert {"one", "two"} <= {
        line.partition("BatchHost=")[2].split()[0] for line in done.stdout.splitlines() if "BatchHost=" in line
    }
    expected, found = proposals(run), proposals(made)
    assert expected.keys() == found.keys()
    assert all(found[name].equals(table, check_metadata=True) for name, table in expected.items())
