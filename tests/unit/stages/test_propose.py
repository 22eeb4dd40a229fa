"""The propose stage in one process: its rows and features, error rows, and the way of a GPU's batches."""

import shutil
from dataclasses import replace

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
from hf_relabel.vision import masks
from hf_relabel.vision.backbone import Backbone
from hf_relabel.vision.families import resolve
from hf_relabel.vision.windows import window_masks

DAMAGED = (1, 11)


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
        propose=ProposeConfig(tau=0.3, merge_masks=4, windows=2),
        run=RunConfig(dir=str(folder / "run"), max_error_rate=0.2),
    )
    job = Job(resolve(config), Rank(0, 1, 1, torch.device("cpu"), 2))
    job.take_snapshot()
    return job


def with_settings(job: Job, **settings) -> Job:
    return Job(replace(job.config, propose=replace(job.config.propose, **settings)), job.rank)


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
        propose=ProposeConfig(generators=["maskcut"], tau=tau),
        run=RunConfig(dir=str(folder / "run"), **sections),
    )
    return Job(config, Rank(0, 1, 1, torch.device("cpu"), 2))


def without_masks(patches, grid, **_):
    return [lambda: np.zeros((0, *grid), bool) for _ in patches]


def test_settings_without_any_proposal_stop_after_64_images(tmp_path, tiny_dinov3, monkeypatch):
    monkeypatch.setattr(stage, "start_maskcut", without_masks)
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
    monkeypatch.setattr(stage, "start_maskcut", without_masks)
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
    monkeypatch.setattr(stage, "ALGORITHM", stage.ALGORITHM + 1)
    with pytest.raises(StageError, match=f"algorithm: {stage.ALGORITHM - 1} -> {stage.ALGORITHM}"):
        stage.run(Job(job.config, job.rank))


def propose(job: Job, shard: Shard, device_batches: int = 0) -> tuple[ShardResult, list[int]]:
    """A shard's proposals and the reported numbers of images; in a device's batches where a size is given."""
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
    assert [row["error"] is not None for row in rows] == [index in DAMAGED for index in range(12)]
    assert result.errors == 2
    assert sum(ticks) == 12
    for row in rows:
        is_error = row["error"] is not None
        assert ((row["width"], row["height"]) == (0, 0)) == is_error
        assert (row["feature_row"] < 0) == (row["window_row"] < 0) == is_error
        assert (row["grid"], row["windows"]) == (([], 0) if is_error else ([8, 8], 4))


def test_features_are_the_means_over_the_patches_of_their_regions(job):
    """Each region finds its own row: the patches of an image are pooled again under the stored masks."""
    result, _ = propose(job, Shard(0, 0, 12))
    backbone = Backbone.load(job.config.backbone, job.rank.device)
    next_row = 0
    kinds = set()
    for number, row in enumerate(result.table.to_pylist()):
        if row["error"] is not None:
            continue
        pixels = backbone.preprocess(job.source.load(number).image)[None]
        patches = backbone(pixels).region[0].numpy()
        assert row["feature_row"] == next_row
        regions = [(row["feature_row"], np.ones((8, 8), bool))]
        for proposal in row["proposals"]:
            (mask,) = masks.unpack([proposal["grid_mask"]], (8, 8))
            assert proposal["patches"] == mask.sum() > 0
            assert proposal["views"] == (2 if proposal["generator"] == "maskcut" else 0)
            regions.append((proposal["feature_row"], mask))
            kinds.add(proposal["generator"])
        regions += [(row["window_row"] + k, mask) for k, mask in enumerate(window_masks(2, (8, 8)))]
        for at, mask in regions:
            expected = patches[mask.ravel()].mean(axis=0)
            assert np.allclose(result.features[at], expected, atol=5e-3)
        next_row = row["window_row"] + 4
    assert result.features.shape == (next_row, 32)
    assert result.features.dtype == np.float16
    assert kinds == {"maskcut", "merge"}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_of_a_device_give_the_same(job, batch_size):
    """The code that runs on a GPU, but on the CPU, where an image's numbers do not depend on its batch."""
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
    assert result.features.shape == (0, 32)


def test_merging_alone_needs_no_tau_and_its_proposals_have_views(job):
    result, _ = propose(with_settings(job, generators=["merge"], tau=None), Shard(0, 0, 3))
    proposals = [proposal for row in result.table.to_pylist() for proposal in row["proposals"]]
    assert {proposal["generator"] for proposal in proposals} == {"merge"}
    assert {proposal["views"] for proposal in proposals} == {2}
    assert result.counters["proposals by merge"] == len(proposals) == result.counters["proposals"] > 0
    assert "proposals by maskcut" not in result.counters


def test_maskcut_alone_is_as_in_the_paper(job):
    """No merged regions and no windows; MaskCut's are the same as with them."""
    alone, _ = propose(with_settings(job, generators=["maskcut"], windows=0), Shard(0, 0, 12))
    both, _ = propose(job, Shard(0, 0, 12))
    keys = ("proposal_id", "generator", "views", "patches", "grid_mask")
    for a, b in zip(alone.table.to_pylist(), both.table.to_pylist(), strict=True):
        cut = [proposal for proposal in b["proposals"] if proposal["generator"] == "maskcut"]
        assert [[p[key] for key in keys] for p in a["proposals"]] == [[p[key] for key in keys] for p in cut]
        assert a["windows"] == 0


def test_the_stage_of_a_run_is_recorded_with_its_generators(job):
    manifest = stage.run(with_settings(job, windows=3))
    counters = manifest["counters"]
    assert counters["proposals"] == counters["proposals by maskcut"] + counters["proposals by merge"] > 0
    assert manifest["inputs"]["propose"]["generators"] == ["maskcut", "merge"]
