"""The examples that heads are trained on by gradient descent: which regions, with which features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jobs import easy_regions, make_job, rows_of, write_empty_label_maps, write_proposals
from scenes import make_scenes

from hf_relabel.config import BootstrapConfig, ScoreConfig, TrainConfig
from hf_relabel.errors import StageError
from hf_relabel.labeling.examples import Examples, gather_examples, is_held_out, map_examples, training_regions
from hf_relabel.run.job import Job
from hf_relabel.stages import score

CLASSES = 4


def scored_job(folder, score_config=ScoreConfig(), images=80, views=2, **train) -> Job:
    labels = [k % CLASSES for k in range(images)]
    job = make_job(folder, labels, CLASSES, score=score_config, train=TrainConfig(**train))
    write_proposals(job, easy_regions(labels, CLASSES, views))
    if score_config.label_maps:
        write_empty_label_maps(job, Path(score_config.label_maps))
    score.run(job)
    return job


def gather(job: Job) -> Examples:
    folder = job.stage_folder("labeler")
    folder.mkdir(exist_ok=True)
    proposals, scores = job.finished("proposals", "propose")[0], job.finished("scores", "score")[0]
    return gather_examples(
        job.shards, proposals, scores, folder, job.config, CLASSES, lambda ids: np.arange(len(ids)) % 5
    )


def test_examples_are_the_regions_with_a_target_and_are_split_by_image(tmp_path):
    job = scored_job(tmp_path)
    examples = gather(job)
    assert examples.features.shape[1:] == (3, 8)
    rows = rows_of(job, "scores", "score")
    targets = [item["target"] for row in rows for item in row["proposals"] if item["target"] != -1]
    assert sorted(examples.targets.tolist()) == sorted(CLASSES if target == -2 else target for target in targets)
    assert np.count_nonzero(examples.targets == CLASSES) > 60  # the proposals that show nothing
    held = [is_held_out(row["sha256"], job.config) for row in rows_of(job, "proposals", "propose")]
    assert examples.held_out.sum() == 2 * sum(held) > 0
    assert np.bincount(examples.fold).tolist() == [40, 30, 30, 30, 30]  # 16 images per shard, two regions each


def test_without_a_background_class_only_regions_of_a_class_are_examples(tmp_path):
    with_background, without = gather(scored_job(tmp_path / "a")), gather(scored_job(tmp_path / "b", background=False))
    assert without.targets.max() < CLASSES
    assert len(without.targets) == np.count_nonzero(with_background.targets < CLASSES)


def test_windows_and_merged_regions_are_examples_of_background(tmp_path):
    """Each region is found with its own row of features."""
    scenes = make_scenes(60, 6)
    job = make_job(tmp_path, scenes.labels, 6)
    write_proposals(job, scenes.regions)
    score.run(job)
    proposals, scores = job.finished("proposals", "propose")[0], job.finished("scores", "score")[0]
    rows = scores.read(1).to_pylist()
    _, found = training_regions(1, proposals, scores, 6, job.config.train, merge=False)
    features = proposals.features(1)
    for number, (row, regions) in enumerate(zip(rows, scenes.regions[16:32], strict=True)):
        parts = [feature[0] for _, _, feature in regions.proposals] + list(regions.windows)
        targets = [item["target"] for kind in ("proposals", "windows") for item in row[kind]]
        expected = [(part, target) for part, target in zip(parts, targets, strict=True) if target != -1]
        mine = [region for region in found if region.image == number]
        wanted = sorted((tuple(part.astype(np.float16)), 6 if target == -2 else target) for part, target in expected)
        assert sorted((tuple(features[region.rows[0]]), region.target) for region in mine) == wanted
    assert any(item["target"] == -2 for row in rows for item in row["windows"])


def test_merging_is_the_mean_over_the_union_of_patches(tmp_path):
    """Both proposals train as the given label: 1 patch and 2 patches, so the merged feature is (a + 2 b) / 3."""
    both = ScoreConfig(bootstrap=BootstrapConfig(confident=1e-9))
    merged = gather(scored_job(tmp_path / "merged", replace(both, merge=True)))
    apart = gather(scored_job(tmp_path / "apart", both))
    assert (len(merged.features), len(apart.features)) == (80, 160)
    pairs = np.array(apart.features).astype(np.float32).reshape(80, 2, 3, 8)
    assert np.allclose(merged.features, (pairs[:, 0] + 2 * pairs[:, 1]) / 3, atol=4e-3)


def test_force_original_trains_on_the_whole_image(tmp_path):
    nothing = ScoreConfig("label_map", str(tmp_path / "maps"), keep="original", force_original=True)
    job = scored_job(tmp_path / "run", nothing, images=8, background=False)
    examples = gather(job)
    assert examples.targets.tolist() == [k % CLASSES for k in range(8)]
    whole = job.finished("proposals", "propose")[0].features(0)[0]
    assert (np.array(examples.features[0]) == whole).all()  # in all of its views


def test_no_region_that_trains_is_an_error(tmp_path):
    job = scored_job(tmp_path / "run", ScoreConfig("label_map", str(tmp_path / "maps"), keep="original"), images=8)
    with pytest.raises(StageError, match=r"no region was kept.*score\.tau_label.*score\.force_original"):
        gather(job)


def mapped_megabytes() -> float:
    """Pages of mapped files that this process holds now."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_all_examples_does_not_keep_their_file_in_memory(tmp_path):
    path, count = tmp_path / "examples.npy", 32_000
    path.write_bytes(bytes(count * 3 * 512 * 2))  # 94 MB
    zeros = np.zeros(count, np.int64)
    with open(path, "rb") as file:
        examples = map_examples(file, zeros, zeros.astype(bool), zeros, np.arange(count), (3, 512))
    before = mapped_megabytes()
    for rows in np.random.default_rng(0).permutation(count).reshape(-1, 2000):
        assert not examples.take(rows, 1).any()
    assert mapped_megabytes() < before + 8


def test_rows_are_taken_in_their_views(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_relabel.labeling.examples.ROWS_AT_ONCE", 3)
    examples = gather(scored_job(tmp_path))
    rows, views = np.array([5, 0, 7, 7, 31, 2, 3]), np.array([0, 1, 2, 1, 0, 2, 2])
    assert np.array_equal(examples.take(rows, views), examples.features[rows, views])
    assert np.array_equal(examples.take(rows, 1), examples.features[rows, 1])
    assert examples.take(rows[:0], 0).shape == (0, 8)
