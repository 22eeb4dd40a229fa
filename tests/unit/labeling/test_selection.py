from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import make_job, write_proposals
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hf_relabel.config import ScoreConfig
from hf_relabel.errors import StageError
from hf_relabel.labeling.selection import Moments, PartialMoments, best_of_images, fit_bootstrap, fold_of
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import Fingerprint
from hf_relabel.stages import score


def bags(images: int, classes: int, dim: int = 16, seed: int = 0) -> tuple[list[int], list[np.ndarray], list[int]]:
    """Labels, region features, and the number of the region that shows the label, for images of 1 to 3 regions."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dim)) * 2
    labels, regions, right = [], [], []
    for _ in range(images):
        label = int(rng.integers(classes))
        shown = [label, *rng.integers(classes, size=rng.integers(0, 3)).tolist()]
        order = rng.permutation(len(shown))
        features = centres[np.array(shown)[order]] + rng.normal(size=(len(shown), dim))
        whole = features.mean(axis=0, keepdims=True)
        labels.append(label)
        regions.append(np.concatenate([whole, features])[:, None])
        right.append(int(np.flatnonzero(order == 0)[0]))
    return labels, regions, right


def kept(job) -> list[list[bool]]:
    folder, _ = job.finished("scores", "score")
    rows = [row for shard in job.shards for row in folder.read(shard.index).to_pylist()]
    return [[proposal["kept"] for proposal in row["proposals"]] for row in rows]


def test_discriminant_without_shrinkage_matches_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    y = rng.integers(0, 3, 300)
    x += rng.normal(size=(3, 6))[y]
    moments = Moments.zeros(2, 3, 6, torch.device("cpu"))
    fold = np.r_[np.zeros(200, int), np.ones(100, int)]
    moments.add(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(fold))
    weights, bias = moments.fit(1, 1e-12)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x[:200], y[:200])
    ours = torch.softmax(torch.from_numpy(x) @ weights + bias, dim=1).numpy()
    # Our discriminant adds one region at the overall mean to each class, so the two are not exactly equal.
    assert np.abs(ours - theirs.predict_proba(x)).max() < 0.02


def test_a_fold_is_fitted_only_on_the_other_folds():
    rng = np.random.default_rng(1)
    x, y = torch.from_numpy(rng.normal(size=(60, 4))), torch.from_numpy(rng.integers(0, 3, 60))
    fold = torch.arange(60) % 3
    both = Moments.zeros(3, 3, 4, torch.device("cpu"))
    both.add(x, y, fold)
    alone = Moments.zeros(3, 3, 4, torch.device("cpu"))
    alone.add(x[fold != 1], y[fold != 1], fold[fold != 1])
    for ours, theirs in zip(both.fit(1, 0.3), alone.fit(1, 0.3), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_a_class_without_regions_is_finite():
    moments = Moments.zeros(2, 5, 4, torch.device("cpu"))
    moments.add(torch.randn(20, 4, dtype=torch.float64), torch.zeros(20, dtype=torch.long), torch.arange(20) % 2)
    weights, bias = moments.fit(0, 0.3)
    assert torch.isfinite(weights).all()
    assert torch.isfinite(bias).all()


def test_a_shard_needs_memory_for_its_own_classes_only():
    """21,000 classes, as ImageNet-21k: 64 regions of a shard hold at most 64 sums, not folds x classes of them."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(64, 32)))
    labels, folds = torch.from_numpy(rng.integers(0, 21_000, 64)), torch.from_numpy(rng.integers(0, 5, 64))
    part = PartialMoments.of(features, labels, folds, 5)
    assert len(part.sums) <= 64
    total = Moments.zeros(5, 21_000, 32, torch.device("cpu"))
    total.merge(part)
    total.merge(part)
    assert total.counts.sum() == 128
    same = (folds == folds[0]) & (labels == labels[0])
    assert torch.allclose(total.sums[folds[0], labels[0]], 2 * features[same].sum(0))


def test_a_damaged_selection_is_made_again(tmp_path):
    labels, regions, _ = bags(60, 3)
    job = make_job(tmp_path, labels, 3)
    write_proposals(job, regions)
    score.run(job)
    weights = job.stage_folder("scores") / "bootstrap.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for path in job.stage_folder("scores").glob("*.parquet"):
        path.unlink()
    score.run(job)
    assert weights.read_bytes() == good


def test_every_table_is_read_once(tmp_path, monkeypatch):
    labels, regions, _ = bags(60, 3)
    job = make_job(tmp_path, labels, 3, shard_size=20)
    folder = write_proposals(job, regions)
    read, read_table = [], type(folder).read
    monkeypatch.setattr(
        type(folder), "read", lambda self, shard, *columns: read.append(shard) or read_table(self, shard, *columns)
    )
    with ThreadPoolExecutor(1) as threads:
        scores = ShardFolder(job.stage_folder("scores"), "scores", Fingerprint({}))
        fit_bootstrap(job, folder, scores, threads)
    assert sorted(read) == [0, 1, 2]


def test_best_of_images_takes_the_first_in_a_tie():
    probability = np.array([0.1, 0.9, 0.9, 0.5, 0.2, 0.2])
    image = np.array([0, 0, 0, 2, 3, 3])
    assert best_of_images(probability, image).tolist() == [False, True, False, True, True, False]
    assert best_of_images(np.zeros(0), np.zeros(0, int)).tolist() == []


def test_folds_depend_only_on_the_image_and_the_seed():
    folds = [fold_of(f"image-{k}", 5, 0) for k in range(1000)]
    assert fold_of("image-7", 5, 0) == folds[7]
    assert min(np.bincount(folds, minlength=5)) > 150
    assert [fold_of(f"image-{k}", 5, 1) for k in range(1000)] != folds


@pytest.mark.parametrize(("shard_size", "threads"), [(400, 1), (32, 2)])
def test_regions_that_show_the_label_are_kept(tmp_path, shard_size, threads):
    labels, regions, right = bags(400, 8)
    job = make_job(tmp_path, labels, 8, shard_size, threads)
    write_proposals(job, regions)
    score.run(job)
    found = [flags[index] for flags, index in zip(kept(job), right, strict=True)]
    assert np.mean(found) > 0.95
    total = sum(map(sum, kept(job)))
    assert sum(found) / total > 0.85  # a second region of the label's class may be kept too


def test_errors_and_images_without_proposals_have_rows(tmp_path):
    labels, regions, _ = bags(60, 3)
    regions[5], regions[7] = None, regions[7][:1]
    job = make_job(tmp_path, labels, 3, score=ScoreConfig(force_original=True))
    write_proposals(job, regions)
    object.__setattr__(job.config.run, "max_error_rate", 0.05)
    counters = score.run(job)["counters"]
    rows = [row for shard in job.shards for row in job.finished("scores", "score")[0].read(shard.index).to_pylist()]
    assert (rows[5]["error"], rows[5]["proposals"]) == ("cannot identify image file", [])
    assert (rows[7]["error"], rows[7]["whole_image"]) == (None, True)
    assert counters["images trained on as a whole"] == 1
    assert counters["errors"] == 1


def test_no_proposal_in_any_image(tmp_path):
    job = make_job(tmp_path, [0, 1, 0], 2)
    write_proposals(job, [np.zeros((1, 1, 4), np.float16)] * 3)
    with pytest.raises(StageError, match=r"no image has a proposal; propose\.tau"):
        score.run(job)
    assert not list(Path(tmp_path).glob("scores/shard-*"))
