"""One task of a stage: a command in its own process, started again when something kills it.

datatrove's executors call a task as a pipeline step, with its rank and the number of tasks. The claims and fingerprints
of the run's folder decide what is left to do, so a task that is started twice, or again, does nothing twice.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_relabel.errors import RelabelError

LAUNCHER_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    *("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
)
"""A task says by `run.part` which shards are its own; what started it must not say so a second time."""

LAST_LINES = 20
"""Lines of output that are kept to explain a failure."""


class TaskError(RelabelError):
    """A task has failed, or was killed too often."""


@dataclass(frozen=True)
class Task:
    """A stage's command, called with a rank.

    Args:
        stage: The command.
        settings: The run's configuration as YAML; a task needs no other file of the machine that launched it.
        folder: Where relative paths start, if there is such a folder; else where the task is started.
        threads: Images that are computed in parallel on a CPU; None leaves it to the configuration.
        gpus: Processes that share the task's part through `accelerate launch`, one per GPU; 0 or 1 is one process.
        restarts: How often a killed process is started again.
        local_gpus: GPUs of this machine for tasks that nothing else assigns GPUs to; 0 leaves the choice to the engine.
    """

    stage: str
    settings: str = field(repr=False)
    folder: str = "."
    threads: int | None = None
    gpus: int = 0
    restarts: int = 2
    local_gpus: int = 0

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Run the command for one rank.

        Args:
            data: What a previous step made; there is none.
            rank: This task, from 0.
            world_size: Number of tasks.

        Raises:
            TaskError: The command failed, or was killed more than `restarts` times.
        """
        with tempfile.TemporaryDirectory(prefix="hf-relabel-") as folder:
            config = Path(folder, "config.yaml")
            config.write_text(self.settings, encoding="utf-8")
            command = self.command(str(config), rank, world_size)
            for _ in range(1 + self.restarts):
                status, lines = self._run(command)
                if status == 0:
                    return
                if status > 0:
                    break
                _log(f"{self.stage}: task {rank} was killed by {signal.Signals(-status).name}; started again")
        failed = [line for line in lines if "hf-relabel: error: " in line] or list(lines)[-1:]
        ended = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        reason = failed[-1].partition("hf-relabel: error: ")[2] or failed[-1] if failed else "it printed nothing"
        raise TaskError(f"{self.stage}: task {rank} {ended}: {reason}")

    def command(self, config: str, rank: int, world_size: int) -> list[str]:
        """The command line of a rank, with the configuration in a file."""
        start = [sys.executable, "-m"]
        if self.gpus > 1:
            start += ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
            start += ["--num_processes", str(self.gpus), "--mixed_precision", "no", "--dynamo_backend", "no"]
            start += ["--main_process_port", "0", "-m"]
        command = [*start, "hf_relabel", self.stage, "--config", config]
        if world_size > 1:
            command += ["--run.part", f"{rank}/{world_size}"]
        if self.threads is not None and self.stage in ("propose", "score", "train", "run"):
            command += ["--run.threads", str(self.threads)]
        return command

    def _run(self, command: Sequence[str]) -> tuple[int, deque[str]]:
        """Run a command and log its output; returns its status (negative: a signal) and its last lines."""
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
        if self.local_gpus and self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._own_gpus()))
        lines: deque[str] = deque(maxlen=LAST_LINES)
        process = subprocess.Popen(
            command,
            cwd=self.folder if Path(self.folder).is_dir() else None,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        try:
            with _ends_too(process):
                for line in process.stdout:
                    lines.append(line.rstrip())
                    _log(line.rstrip())
                return process.wait(), lines
        finally:
            process.terminate()
            process.wait()

    def _own_gpus(self) -> list[int]:
        """GPUs of this worker: workers of a pool have consecutive numbers, and no two have the same GPUs."""
        identity = multiprocessing.current_process()._identity  # type: ignore[attr-defined]
        slots = max(self.local_gpus // self.gpus, 1)
        first = (identity[0] if identity else 0) % slots * self.gpus
        return list(range(first, first + self.gpus))


@contextlib.contextmanager
def _ends_too(process: subprocess.Popen[str]) -> Iterator[None]:
    """During the block, a SIGTERM that would end this process ends the given one first."""
    before = signal.getsignal(signal.SIGTERM)
    if before != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        process.terminate()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _log(line: str) -> None:
    """Write a line to the task's log, which datatrove has opened."""
    importlib.import_module("loguru").logger.info("{}", line)
