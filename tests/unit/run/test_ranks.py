"""A process's rank, from the environment of any launcher, which stays as it is."""

import os

import pytest
import torch

from hf_relabel.config import RunConfig
from hf_relabel.errors import UsageError
from hf_relabel.run.ranks import ARRAY_VARIABLES, LAUNCHER_VARIABLES, current_rank
from hf_relabel.training.inference import open_accelerator


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in {*(name for names in LAUNCHER_VARIABLES for name in names), *ARRAY_VARIABLES, "MASTER_ADDR"}:
        monkeypatch.delenv(name, raising=False)


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, (3, 4, 2)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, (1, 2, 1)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, (5, 8, 1)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4, 1)),
        # an array whose tasks are started by srun, one process each
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_NTASKS": "1"}, (2, 3, 1)),
    ],
)  # fmt: skip
def test_the_rank_of_every_launcher_twice_and_an_environment_as_before(monkeypatch, variables, expected):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    before = dict(os.environ)
    for _ in range(2):
        here = current_rank(RunConfig())
        assert (here.index, here.world, here.local_world) == expected
        assert here.is_main == (expected[0] == 0)
        assert here.device == torch.device("cpu")
        assert here.threads == max(1, CORES // expected[2])
    assert dict(os.environ) == before
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "abc"}, "RANK='abc': must be a whole number"),
        ({"RANK": ""}, "RANK='': must be a whole number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
        ({"RANK": "5", "WORLD_SIZE": "2"}, "RANK=5, WORLD_SIZE=2: a rank must be below"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "a rank must be below"),
        ({"RANK": "0", "WORLD_SIZE": "9" * 30}, "WORLD_SIZE='999"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK=2"),
        ({"SLURM_ARRAY_TASK_ID": "one"}, "SLURM_ARRAY_TASK_ID='one'"),
    ],
)  # fmt: skip
def test_variables_with_which_processes_would_wait_for_ever(monkeypatch, variables, words):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UsageError) as error:
        current_rank(RunConfig())
    assert words in str(error.value)
    if "SLURM_ARRAY_TASK_ID" not in variables:
        with pytest.raises(UsageError):
            open_accelerator("no")
