"""datatrove's Ray executor, with a worker whose death is noticed."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from datatrove.executor import ray as engine
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.utils.stats import PipelineStats


class RankWorker:
    """The actor that runs a task.

    datatrove's own runs it in a pool of one process. When that process is killed the pool waits for ever, as Python's
    pools do; when this actor is killed Ray says so, and the executor gives its task to another.
    """

    def get_node_ip(self) -> str:
        """The address of the actor's machine."""
        import ray

        return str(ray.util.get_node_ip_address())

    def run_for_rank(self, executor: Any, ranks: list[int], node_ips: list[str], node_index: int) -> PipelineStats:
        """Run tasks, one after the other."""
        os.environ |= {"RAY_NODELIST": ",".join(node_ips), "RAY_NODEID": str(node_index)}
        for rank in ranks:
            executor._run_for_rank(rank, 1)  # 1: the task's log goes to its file only
        return PipelineStats()


class RayExecutor(RayPipelineExecutor):
    """Tasks on a Ray cluster; a task whose worker is killed is started again, three times at most."""

    def run(self) -> None:
        """Run the tasks that are not done, and wait for them."""
        with _own_worker():
            super().run()


@contextlib.contextmanager
def _own_worker() -> Iterator[None]:
    """datatrove takes its worker by name from its module, and offers no other way to choose one."""
    theirs = engine.RankWorker
    engine.RankWorker = RankWorker
    try:
        yield
    finally:
        engine.RankWorker = theirs
