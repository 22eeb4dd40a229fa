"""datatrove's executor for this machine, with a pool that notices a killed worker, and a quiet terminal."""

import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from datatrove.executor.local import LocalPipelineExecutor

from hf_relabel.launch.task import TaskError


class LocalExecutor(LocalPipelineExecutor):
    """Tasks in a pool of processes.

    datatrove's own pool waits for ever when one of its processes is killed, as `multiprocessing.Pool` does; the pool of
    `concurrent.futures` says so.
    """

    def run(self) -> None:
        """Run the tasks that are not done; after a failure, those that are running end, and no other starts.

        Raises:
            TaskError: A task has failed, or a process of the pool was killed.
        """
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, mp_context=context) as pool:
            tasks = [pool.submit(_run_task, self, rank) for rank in self.get_incomplete_ranks()]
            try:
                for task in as_completed(tasks):
                    task.result()
            except BrokenProcessPool as error:
                raise TaskError("a process that ran a task was killed") from error
            finally:
                pool.shutdown(cancel_futures=True)


def _run_task(executor: LocalExecutor, rank: int) -> None:
    """Run a task in a process of the pool; what it logs goes to its file only."""
    with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
        try:
            executor._run_for_rank(rank)
        finally:
            from datatrove.utils.logging import logger

            logger.remove()  # it would write to the closed file
