"""The local engine with tasks that need no images: logs, failures and killed processes."""

import os
import signal
from dataclasses import dataclass

import pytest

from hf_relabel.launch.task import Task, TaskError


@dataclass(frozen=True)
class Killed:
    """A task that is killed together with the process that runs it."""

    def __call__(self, data, rank=0, world_size=1):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Commands(Task):
    """A task with a command of the shell."""

    script: str = ""

    def command(self, config, rank, world_size):
        return ["bash", "-c", self.script.format(rank=rank)]


def executor(task, logs, tasks=2):
    from hf_relabel.launch.local import LocalExecutor

    return LocalExecutor(pipeline=[task], tasks=tasks, workers=2, logging_dir=str(logs))


def test_each_task_has_its_log(tmp_path, capfd):
    engine = executor(Commands("propose", "", script="echo hello from {rank}"), tmp_path)
    engine.run()
    assert engine.get_incomplete_ranks() == []
    assert "hello from 1" in (tmp_path / "logs" / "task_00001.log").read_text()
    assert capfd.readouterr() == ("", "")


def test_a_killed_command_starts_again(tmp_path):
    """It is killed by the system once, for instance because memory is short."""
    script = f"[ -e {tmp_path}/again ] || {{{{ touch {tmp_path}/again; kill -9 $$; }}}}"
    executor(Commands("propose", "", script=script), tmp_path / "logs", tasks=1).run()
    log = (tmp_path / "logs" / "logs" / "task_00000.log").read_text()
    assert "propose: task 0 was killed by SIGKILL; started again" in log


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -9 $$", "propose: task 0 was killed by SIGKILL"),
        ("echo 'hf-relabel: error: no such folder' >&2; exit 2", "propose: task 0 ended with status 2: no such folder"),
    ],
)
def test_a_task_that_fails(tmp_path, script, words):
    engine = executor(Commands("propose", "", restarts=1, script=script), tmp_path, tasks=1)
    with pytest.raises(TaskError, match=words):
        engine.run()
    assert engine.get_incomplete_ranks() == [0]


def test_a_killed_process_of_the_pool_is_an_error_and_no_endless_wait(tmp_path):
    with pytest.raises(TaskError, match="a process that ran a task was killed"):
        executor(Killed(), tmp_path).run()
