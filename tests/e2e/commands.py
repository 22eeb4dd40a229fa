"""Run the real commands and compare what they write."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import yaml

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_OFFLINE": "1"}


def hf_relabel(*arguments: str, **kwargs) -> subprocess.CompletedProcess:
    """`python -m hf_relabel ...` to its end."""
    return _run([sys.executable, "-m", "hf_relabel", *arguments], **kwargs)


def launch(processes: int, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
    """`accelerate launch --cpu --num_processes N -m hf_relabel ...` to its end."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
    return _run([*launcher, "--num_machines", "1", "--mixed_precision", "no", "-m", "hf_relabel", *arguments], **kwargs)


def _run(command: Sequence[str], **kwargs) -> subprocess.CompletedProcess:
    kwargs.setdefault("timeout", 300)
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, **kwargs)


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
