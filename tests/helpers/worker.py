"""Run several commands in one process, so that imports are needed only once.

`Worker` starts `python worker.py`, which reads one command per line (a JSON list of arguments), runs `hf_relabel` with
it and captures the output, and answers with a line of JSON. The process sets the environment, with HF_ENDPOINT.
"""

import contextlib
import io
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Done:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    def error(self) -> str:
        """The one-line error; fails if the command did anything else."""
        assert self.status in (1, 2), (self.status, self.out, self.err)
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("hf-relabel: error: ")]
        assert len(lines) == 1, self.err
        return lines[0]

    def ok(self) -> str:
        """The output of a successful command."""
        assert self.status == 0, self.err
        return self.out


class Worker:
    """A process that runs one command after the other; it is killed if one takes longer than `timeout` seconds."""

    def __init__(self, environment: dict[str, str], secrets: list[str], timeout: float):
        self.secrets = secrets
        self.timeout = timeout
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *arguments: object) -> Done:
        """Run `hf-relabel` with these arguments; its output must contain no token."""
        timer = threading.Timer(self.timeout, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert answer, f"the worker died, or did not answer within {self.timeout} s"
        done = Done(**json.loads(answer))
        for secret in self.secrets:
            assert secret not in done.out + done.err
        return done

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        finally:
            self._process.kill()


def _serve() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from hf_relabel.cli import main

    answers = sys.stdout
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(json.loads(line))
        answers.write(json.dumps({"status": status, "out": out.getvalue(), "err": err.getvalue()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
