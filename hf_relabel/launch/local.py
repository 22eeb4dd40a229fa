"""datatrove's executor for this machine, with a quiet terminal."""

import contextlib
import os
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor

_QUIET = open(os.devnull, "w")  # noqa: SIM115  loguru keeps it
"""Where a task's copy of its log on the terminal goes; the log itself is in the launch's folder."""


class LocalExecutor(LocalPipelineExecutor):
    """Tasks in a pool of processes."""

    def _launch_run_for_rank(self, *arguments: Any, **more: Any) -> Any:
        with contextlib.redirect_stderr(_QUIET):
            return super()._launch_run_for_rank(*arguments, **more)
