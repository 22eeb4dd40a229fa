"""The propose stage in one process: the order of its rows, error rows, and the way that a GPU's batches take."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hf_relabel.config import BackboneConfig, Config, ProposeConfig, RunConfig, SourceConfig
from hf_relabel.errors import StageError
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank, thread_pool
from hf_relabel.run.shards import Shard, ShardResult
from hf_relabel.sources.loader import BatchLoader
from hf_relabel.stages import propose as stage
from hf_relabel.stages.propose import Proposer
from hf_relabel.vision.backbone import Backbone


@pytest.fixture(scope="module")
def job(image_folder, tiny_dinov3, tmp_path_factory) -> Job:
    """A job of twelve images, the second and the last of which are damaged."""
    folder = tmp_path_factory.mktemp("propose")
    shutil.copytree(image_folder, folder / "images")
    for name in ("circle/circle_1.png", "triangle/triangle_3.png"):
        (folder / "images" / name).write_bytes(b"no image")
    config = Config(
        source=SourceConfig(path=str(folder / "images")),
        backbone=BackboneConfig(model=str(tiny_dinov3), image_size=64),
        propose=ProposeConfig(tau=0.3, solver="krylov"),
        run=RunConfig(dir=str(folder / "run")),
    )
    job = Job(config, Rank(0, 1, 1, torch.device("cpu"), 2))
    job.take_snapshot()
    return job


def blank_job(folder, model, images: int, tau: float = 0.9999, **sections) -> Job:
    """A job of noise images, at a tau that leaves every patch alone."""
    (folder / "images" / "noise").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(images):
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "noise" / f"{number:03d}.png")
    config = Config(
        source=SourceConfig(path=str(folder / "images")),
        backbone=BackboneConfig(model=str(model), image_size=64),
        propose=ProposeConfig(tau=tau),
        run=RunConfig(dir=str(folder / "run"), **sections),
    )
    return Job(config, Rank(0, 1, 1, torch.device("cpu"), 2))


def without_masks(patches, grid, **_):
    return [np.zeros((0, *grid), bool) for _ in patches]


def test_settings_without_any_proposal_stop_after_64_images(tmp_path, tiny_dinov3, monkeypatch):
    monkeypatch.setattr(stage, "maskcut_batch", without_masks)
    job = blank_job(tmp_path, tiny_dinov3, 90)
    done = []
    describe = Proposer._describe
    monkeypatch.setattr(Proposer, "_describe", lambda self, *parts: done.append(1) or describe(self, *parts))
    with pytest.raises(
        StageError, match=r"none of the first 64 images has a proposal: propose\.tau 0\.9999.*--propose"
    ):
        stage.run(job)
    assert len(done) < 80
    assert not list(job.stage_folder("proposals").glob("shard-*"))  # no shard, and no claim


@pytest.mark.parametrize(("images", "shard_size", "stops"), [(40, 1024, True), (20, 1024, False), (40, 20, False)])
def test_a_few_images_without_proposals_prove_nothing(tmp_path, tiny_dinov3, monkeypatch, images, shard_size, stops):
    monkeypatch.setattr(stage, "maskcut_batch", without_masks)
    job = blank_job(tmp_path, tiny_dinov3, images, shard_size=shard_size)
    if stops:
        with pytest.raises(StageError, match="none of the first 40 images"):
            stage.run(job)
    else:
        assert stage.run(job)["counters"]["images without proposals"] == images


def test_a_finished_stage_loads_no_model_and_says_what_computed_it(tmp_path, tiny_dinov3, monkeypatch):
    job = blank_job(tmp_path, tiny_dinov3, 4, tau=0.3)
    manifest = stage.run(job)
    (machine,) = manifest["machines"]
    assert torch.backends.cpu.get_cpu_capability() in machine
    assert manifest["inputs"]["backbone"]["layers"] == 3
    monkeypatch.setattr(Backbone, "load", lambda *_: pytest.fail("the model was loaded"))
    again = Job(job.config, job.rank)
    assert stage.run(again) == manifest
    monkeypatch.setattr(stage, "ALGORITHM", 2)
    with pytest.raises(StageError, match="algorithm: 1 -> 2"):
        stage.run(Job(job.config, job.rank))


def propose(job: Job, shard: Shard, device_batches: int = 0) -> tuple[ShardResult, list[int]]:
    """A shard's proposals and the numbers of images that were told of; in a device's batches where a size is given."""
    ticks: list[int] = []
    with thread_pool(2) as threads:
        backbone = Backbone.load(job.config.backbone, job.rank.device)
        proposer = Proposer(job, backbone, threads)
        if device_batches:
            proposer._start = proposer._start_on_device
            proposer._loader = BatchLoader(job.source, backbone.preprocess, side=64, batch_size=device_batches)
        return proposer.process(shard, ticks.append), ticks


def test_rows_are_in_order_and_errors_among_them(job):
    result, ticks = propose(job, Shard(0, 0, 12))
    rows = result.table.to_pylist()
    assert [row["image_id"] for row in rows] == job.source.image_ids
    assert [row["error"] is not None for row in rows] == [index in (1, 11) for index in range(12)]
    assert result.errors == 2
    assert sum(ticks) == 12
    for row in rows:
        size = (row["width"], row["height"])
        assert (size == (0, 0)) == (row["error"] is not None)
    starts = [row["feature_row"] for row in rows if row["error"] is None]
    counts = [1 + len(row["proposals"]) for row in rows if row["error"] is None]
    assert starts == [0, *np.cumsum(counts)[:-1].tolist()]
    assert result.features.shape == (sum(counts), 3, 32)
    assert result.features.dtype == np.float16


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_of_a_device_give_the_same(job, batch_size):
    """Found by the same code as on a GPU, but on the CPU, where an image's numbers do not depend on its batch."""
    alone, _ = propose(job, Shard(0, 0, 12))
    batched, ticks = propose(job, Shard(0, 0, 12), batch_size)
    assert batched.table.equals(alone.table)
    assert np.array_equal(batched.features, alone.features)
    assert batched.counters == alone.counters
    assert sum(ticks) == 12
    assert any(row["proposals"] for row in alone.table.to_pylist())


def test_a_shard_of_damaged_images_alone(job):
    result, _ = propose(job, Shard(0, 11, 12))
    assert result.errors == 1
    assert result.features.shape == (0, 3, 32)
