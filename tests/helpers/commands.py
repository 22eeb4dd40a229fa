"""Run the real commands and compare what they write."""

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import yaml

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_OFFLINE": "1"}


def hf_relabel(*arguments: str, **kwargs) -> subprocess.CompletedProcess:
    """`python -m hf_relabel ...` to its end."""
    return _run([sys.executable, "-m", "hf_relabel", *arguments], **kwargs)


def launch(processes: int, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
    """`accelerate launch --num_processes N -m hf_relabel ...` to its end, all N >= 2 processes on the CPU."""
    return _run([*launcher(processes), *arguments], environment=ON_CPU, **kwargs)


ON_CPU = {"ACCELERATE_USE_CPU": "true"}


def launcher(processes: int) -> list[str]:
    """The command line that starts N >= 2 processes, to be run with the environment `ON_CPU`.

    It is `--multi_gpu` that makes the launcher start several; with `--cpu` it starts one, whatever their number.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    with socket.socket() as free:  # port 0 would do, but for accelerate 1.0
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    return [*command, *settings, "-m", "hf_relabel"]


def _run(
    command: Sequence[str], timeout: float = 240, environment: Mapping[str, str] | None = None, **kwargs
) -> subprocess.CompletedProcess:
    """Run to the end or to the timeout, which raises TimeoutExpired.

    Output goes to files: a process that has been left behind would keep a pipe open, and reading it would never end.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env={**ENVIRONMENT, **(environment or {})}, **kwargs
        )
        try:
            status = process.wait(timeout)
        except BaseException:
            process.terminate()  # the launcher ends its processes too
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())


def write_config(path: Path, **sections: dict) -> str:
    """A YAML configuration file; returns its path."""
    path.write_text(yaml.safe_dump(sections))
    return str(path)


def tables(run: Path) -> dict[str, object]:
    """Everything a run has written that must not depend on how it was carried out."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*.parquet")):
        # The footer names the source by its fingerprint and is part of what must be equal.
        found[str(path.relative_to(run))] = pq.read_table(path)
    for path in sorted([*run.rglob("*.npy"), *run.rglob("*.safetensors"), *run.rglob("excluded.jsonl")]):
        found[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def assert_equal_runs(one: Path, other: Path) -> None:
    """Two runs wrote the same files with the same content."""
    a, b = tables(one), tables(other)
    assert sorted(a) == sorted(b)
    assert len(a) >= 6
    for name, content in a.items():
        same = content.equals(b[name], check_metadata=True) if hasattr(content, "equals") else content == b[name]
        assert same, f"{name} differs"


def error_line(done: subprocess.CompletedProcess, status: int) -> str:
    """The one line of a command that the user made fail: no traceback, the right status."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("hf-relabel: error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


SMALL = {"max_error_rate": 0.0, "batch_size": 4, "shard_size": 4}


def config_of(tmp_path: Path, images: Path, model: Path, name: str = "config.yaml", **sections) -> str:
    """A run small enough for a test; its images are too few to calibrate, so labels have their softmax scores."""
    settings = {
        "source": {"path": str(images)},
        "backbone": {"model": str(model), "image_size": 64},
        "propose": {"tau": 0.3},
        "train": {"head": "mlp", "folds": 2, "hidden": 16, "epochs": 3, "batch_size": 8},
        "build": {"calibrated": False, "threshold": 0.2},
        "run": SMALL,
    }
    for section, values in sections.items():
        settings[section] = settings.get(section, {}) | values
    return write_config(tmp_path / name, **settings)
