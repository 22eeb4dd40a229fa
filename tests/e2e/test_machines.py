"""A run shared by several machines: launched as on two of them, with a file system and nothing else in common."""

import socket
import subprocess
import sys

import pytest
from commands import ENVIRONMENT, ON_CPU, assert_equal_runs, config_of, hf_relabel


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_machines_under_accelerate_launch(image_folder, tiny_dinov3, tmp_path):
    """Two launches that meet at a port, each the only one of its machine: the tables are those of one process."""
    config = config_of(tmp_path, image_folder, tiny_dinov3, run={"shard_size": 1})
    alone = hf_relabel("run", "--config", config, "--run.dir", str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    run, port = tmp_path / "run", free_port()
    launches = []
    for machine in range(2):
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
        launcher += ["--num_processes", "2", "--machine_rank", str(machine), "--main_process_ip", "127.0.0.1"]
        launcher += ["--main_process_port", str(port), "--mixed_precision", "no", "--dynamo_backend", "no"]
        command = [*launcher, "-m", "hf_relabel", "run", "--config", config, "--run.dir", str(run)]
        with open(tmp_path / f"machine-{machine}.txt", "w") as output:
            launches.append(subprocess.Popen(command, env=ENVIRONMENT | ON_CPU, stdout=output, stderr=output))
    try:
        statuses = [process.wait(timeout=200) for process in launches]
    finally:
        for process in launches:
            process.terminate()
    printed = [(tmp_path / f"machine-{machine}.txt").read_text() for machine in range(2)]
    assert statuses == [0, 0], printed
    assert_equal_runs(tmp_path / "alone", run)
    assert "done in" in printed[0]  # rank 0 is the one that reports
    assert "done in" not in printed[1]
