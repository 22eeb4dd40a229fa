"""Loaders with worker processes: they inherit no locks, and read images of every kind."""

import json

import locking
import numpy as np
import pytest
import torch

from hf_relabel.config import SourceConfig
from hf_relabel.errors import StageError
from hf_relabel.evaluation.datasets import from_dataset, from_rows, from_source
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.data import AugmentedImages, batches, make_loader
from hf_relabel.training.targets import SetTargets
from hf_relabel.training.transform import ClassifierTransform


@pytest.mark.timeout(60)
def test_workers_do_not_inherit_a_lock_that_a_thread_holds():
    """They start while a lock is held, as by a running thread of a library; a forked worker would wait forever."""
    with locking.LOCK:
        (batch,) = batches(make_loader(locking.LockedItems(), 4, workers=1))
    assert batch[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_killed_worker_is_an_error_of_one_line():
    with pytest.raises(StageError, match=r"a worker process .* was killed, .* fewer --workers or more memory"):
        list(batches(make_loader(locking.KilledWorker(), 4, workers=1)))


def of_files(folder, tmp_path):
    rows = [{"image_id": f"circle/circle_{number}.png", "labels": ["circle"]} for number in range(4)]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return from_rows(str(tmp_path / "truth.jsonl"), str(folder))


@pytest.mark.parametrize(
    "open_images",
    [
        lambda folder, _: from_source(SourceConfig(path=str(folder))),
        lambda folder, _: from_dataset(str(folder), "train", labels_column="label"),
        of_files,
    ],
    ids=["source", "dataset", "files"],
)
def test_a_worker_reads_the_same_images(image_folder, tmp_path, open_images):
    images = open_images(image_folder, tmp_path)
    augmentation = Augmentation(ClassifierTransform(16), crop_scale=0.5, flip=True, operations=1, magnitude=5)
    items = AugmentedImages(images, np.arange(4), SetTargets(images.multi_hot), augmentation, seed=0)
    ((pixels, targets),) = batches(make_loader(items, 4, workers=1))
    expected = [items[number] for number in range(4)]
    assert torch.equal(pixels, torch.stack([item[0] for item in expected]))
    assert torch.equal(targets, torch.stack([item[1] for item in expected]))
