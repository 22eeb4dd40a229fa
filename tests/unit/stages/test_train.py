import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import BACKBONE, make_job, write_proposals

from hf_relabel.config import ScoreConfig, TrainConfig
from hf_relabel.errors import LabelerError, StageError
from hf_relabel.labeling.examples import gather_examples, is_held_out, map_examples
from hf_relabel.labeling.labeler import Labeler
from hf_relabel.run.job import Job
from hf_relabel.run.store import read_record, write_record
from hf_relabel.stages import build, label, score, train

CLASSES = 4


def regions_of(labels: list[int], views: int = 2, seed: int = 0) -> list[np.ndarray]:
    """One proposal an image that shows its label, and a second that shows nothing; features [3, 1 + views, 8]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, 8)) * 3
    found = []
    for name in labels:
        features = np.stack([centres[name] / 2, centres[name], np.zeros(8)])
        found.append(features[:, None] + rng.normal(size=(3, 1 + views, 8)) * 0.3)
    return found


NOTHING = ScoreConfig(keep="original", tau_label=1.0)  # with blank regions


def scored_job(folder, images=80, views=2, score_config=ScoreConfig(), blank=False, **config):
    labels = [k % CLASSES for k in range(images)]
    settings = {"hidden": 16, "lr": 1e-2, "epochs": 6, "batch_size": 16} | config
    job = make_job(folder, labels, CLASSES, train=TrainConfig(**settings), score=score_config)
    regions = regions_of(labels, views)
    for region in regions:
        region[1:] *= not blank
    write_proposals(job, regions)
    score.run(job)
    return job


def gather(job):
    job.stage_folder("labeler").mkdir(exist_ok=True)
    proposals, scores = job.finished("proposals", "propose")[0], job.finished("scores", "score")[0]
    return gather_examples(job.shards, proposals, scores, job.stage_folder("labeler"), job.config)


def test_the_labeler_learns_and_then_names_every_region(tmp_path):
    job = scored_job(tmp_path)
    training = train.run(job)
    assert training["history"][training["best_epoch"]]["top1"] > 0.9
    label.run(job)
    rows = [row for shard in job.shards for row in job.finished("regions", "label")[0].read(shard.index).to_pylist()]
    named = [row["proposals"][0]["top_labels"][0] for row in rows]
    assert np.mean(np.array(named) == job.snapshot.labels) > 0.95
    assert all(len(proposal["top_labels"]) == CLASSES for row in rows for proposal in row["proposals"])
    sums = [sum(proposal["top_scores"]) for row in rows for proposal in row["proposals"]]
    assert np.allclose(sums, 1, atol=1e-5)
    assert len(rows[0]["global_labels"]) == CLASSES


def test_examples_are_the_kept_regions_and_are_split_by_image(tmp_path):
    job = scored_job(tmp_path)
    examples = gather(job)
    assert examples.features.shape[1:] == (3, 8)
    assert len(examples.features) >= 80
    held = [is_held_out(image_id, job.config) for image_id in job.snapshot.image_ids]
    assert examples.held_out.sum() >= sum(held) > 0


def test_merging_is_the_mean_over_the_union_of_patches(tmp_path):
    """Both proposals kept (tau 0): 1 patch and 2 patches, so the merged feature is (a + 2 b) / 3."""
    keep_all = ScoreConfig(keep="original", tau_label=0.0)
    merged = gather(scored_job(tmp_path / "merged", images=4, score_config=keep_all))
    apart = gather(scored_job(tmp_path / "apart", images=4, score_config=replace(keep_all, merge=False)))
    assert (len(merged.features), len(apart.features)) == (4, 8)
    pairs = np.array(apart.features).astype(np.float32).reshape(4, 2, 3, 8)
    assert np.allclose(merged.features, (pairs[:, 0] + 2 * pairs[:, 1]) / 3, atol=2e-3)


def test_force_original_trains_on_the_whole_image(tmp_path):
    job = scored_job(tmp_path, images=8, score_config=replace(NOTHING, force_original=True), blank=True)
    examples = gather(job)
    assert len(examples.features) == 8
    whole = job.finished("proposals", "propose")[0].features(0)[0]
    assert np.array_equal(examples.features[0], whole)


def test_nothing_kept_is_said(tmp_path):
    job = scored_job(tmp_path, images=8, score_config=NOTHING, blank=True)
    with pytest.raises(StageError, match=r"no region was kept.*score\.tau_label.*score\.force_original"):
        train.run(job)


def test_the_same_seed_gives_the_same_head_bit_for_bit(tmp_path):
    heads = []
    for name in ("a", "b"):
        job = scored_job(tmp_path / name)
        train.run(job)
        heads.append((job.stage_folder("labeler") / "model.safetensors").read_bytes())
    assert heads[0] == heads[1]


def test_an_interrupted_training_ends_in_the_same_head(tmp_path, monkeypatch):
    straight = scored_job(tmp_path / "straight")
    train.run(straight)
    job = scored_job(tmp_path / "cut")
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -1.0)
    real, calls = train.Trainer._train_epoch, []

    def cut_at_the_fourth(self, epoch):
        calls.append(epoch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, epoch)

    monkeypatch.setattr(train.Trainer, "_train_epoch", cut_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train.run(job)
    train.run(job)
    assert calls == [0, 1, 2, 3, 3, 4, 5]
    files = [run.stage_folder("labeler") / "model.safetensors" for run in (straight, job)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(path.name for path in job.stage_folder("labeler").iterdir()) == ["config.json", "model.safetensors"]


def test_the_best_epoch_is_kept_not_the_last():
    history = [{"top1": 0.5, "loss": 1.0}, {"top1": 0.7, "loss": 0.9}, {"top1": 0.7, "loss": 0.9}]
    assert train.Trainer._is_best(history[:1])
    assert train.Trainer._is_best(history[:2])
    assert not train.Trainer._is_best(history)
    assert train.Trainer._is_best([*history, {"top1": 0.7, "loss": 0.8}])


def test_without_views_the_full_region_is_trained_on(tmp_path):
    job = scored_job(tmp_path, views=0)
    training = train.run(job)
    assert training["history"][training["best_epoch"]]["top1"] > 0.9


def test_another_training_configuration_is_refused_until_overwritten(tmp_path):
    train.run(scored_job(tmp_path))
    other = scored_job(tmp_path, hidden=8)
    with pytest.raises(StageError, match=r"train\.hidden: 16 -> 8.*--run\.overwrite true"):
        train.run(other)
    object.__setattr__(other.config.run, "overwrite", True)
    train.run(other)
    assert Labeler.load(other.stage_folder("labeler"), BACKBONE).head.shape.hidden == 8


def test_label_refuses_a_labeler_of_another_backbone(tmp_path):
    job = scored_job(tmp_path)
    train.run(job)
    path = job.stage_folder("labeler") / "config.json"
    config = read_record(path)
    config["backbone"]["model"] = "other/backbone"
    write_record(path, config)
    with pytest.raises(LabelerError, match="other/backbone"):
        label.run(job)


def test_label_refuses_a_labeler_of_other_classes(tmp_path):
    job = scored_job(tmp_path)
    train.run(job)
    path = job.stage_folder("labeler") / "config.json"
    config = read_record(path)
    config["class_names"] = ["class 1", "class 0", *config["class_names"][2:]]
    write_record(path, config)
    with pytest.raises(LabelerError, match=r"other classes.*class 0 is 'class 1', in the source it is 'class 0'"):
        label.run(job)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_labeler_is_noticed_and_trained_again(tmp_path, name):
    job = scored_job(tmp_path)
    train.run(job)
    path = job.stage_folder("labeler") / name
    good = path.read_bytes()
    content = bytearray(good)
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(LabelerError, match=rf"{name}: .*(damaged|not valid JSON)"):
        label.run(job)
    object.__setattr__(job.config.run, "overwrite", name == "config.json")  # whose inputs cannot be known
    train.run(job)
    assert path.read_bytes() == good


def test_a_damaged_checkpoint_is_not_resumed(tmp_path, monkeypatch):
    straight = scored_job(tmp_path / "straight")
    train.run(straight)
    job = scored_job(tmp_path / "cut")
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -1.0)
    real = train.Trainer._train_epoch
    monkeypatch.setattr(train.Trainer, "_train_epoch", lambda self, epoch: real(self, epoch) if epoch < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(job)
    monkeypatch.setattr(train.Trainer, "_train_epoch", real)
    path = job.stage_folder("labeler") / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    train.run(job)
    files = [run.stage_folder("labeler") / "model.safetensors" for run in (straight, job)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_interrupted_overwrite_leaves_no_labeler_to_trust(tmp_path, monkeypatch):
    job = scored_job(tmp_path)
    train.run(job)
    label.run(job)
    other = scored_job(tmp_path, hidden=8)
    object.__setattr__(other.config.run, "overwrite", True)
    monkeypatch.setattr(train.Trainer, "_train_epoch", lambda self, epoch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(other)
    for stage, error in ((label, LabelerError), (build, StageError)):
        with pytest.raises(error, match=r"run `hf-relabel (train|label)`"):
            stage.run(job)


def test_scores_of_other_proposals_are_refused(tmp_path):
    job = scored_job(tmp_path)
    write_proposals(job, regions_of([k % CLASSES for k in range(80)], seed=1), backbone={"model": "test/other"})
    with pytest.raises(StageError, match=r"scores: was made from a different proposals.*hf-relabel score"):
        train.run(job)


def test_two_processes_train_one_labeler(tmp_path, monkeypatch):
    """Each is the main process of its own run; one trains, the other waits and has the same labeler."""
    job = scored_job(tmp_path)
    trained, results = [], []
    fit = train.Trainer.fit
    monkeypatch.setattr(train.Trainer, "fit", lambda self, path: trained.append(1) or fit(self, path))
    threads = [threading.Thread(target=lambda: results.append(train.run(Job(job.config, job.rank)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert trained == [1]
    assert results[0] == results[1]
    assert sorted(path.name for path in job.stage_folder("labeler").iterdir()) == ["config.json", "model.safetensors"]


def test_moments_in_chunks_are_numpys(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROWS_AT_ONCE", 16)
    examples = gather(scored_job(tmp_path))
    rows = np.arange(3, 53)
    mean, deviation = train._moments(examples, rows)
    expected = np.array(examples.features)[rows, 0].astype(np.float64)
    assert torch.allclose(mean, torch.from_numpy(expected.mean(0)).float(), atol=1e-5)
    assert torch.allclose(deviation, torch.from_numpy(expected.std(0)).float(), atol=1e-5)


def mapped_megabytes() -> float:
    """Pages of mapped files that this process holds now."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_all_examples_does_not_keep_their_file_in_memory(tmp_path):
    path, count = tmp_path / "examples.npy", 32_000
    path.write_bytes(bytes(count * 3 * 512 * 2))  # 94 MB
    with open(path, "rb") as file:
        examples = map_examples(file, np.zeros(count, np.int64), np.zeros(count, bool), (3, 512))
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
