"""The labeler, trained and applied on generated features; no image is judged by a head that was trained on it."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs import BACKBONE, easy_regions, make_job, rows_of, write_proposals
from safetensors.torch import load_file
from scenes import make_scenes

from hf_relabel.config import BootstrapConfig, ScoreConfig, TrainConfig
from hf_relabel.errors import LabelerError, StageError
from hf_relabel.labeling import gradient
from hf_relabel.labeling.labeler import Labeler
from hf_relabel.run.job import Job
from hf_relabel.run.store import read_record, write_record
from hf_relabel.stages import build, label, score, train

CLASSES = 4
MLP = {"head": "mlp", "hidden": 16, "lr": 1e-2, "epochs": 6, "batch_size": 16}


def scored_job(folder, views=2, images=80, **config) -> Job:
    labels = [k % CLASSES for k in range(images)]
    job = make_job(folder, labels, CLASSES, train=TrainConfig(**MLP | config))
    write_proposals(job, easy_regions(labels, CLASSES, views))
    score.run(job)
    return job


def labeled_rows(job: Job) -> list[dict]:
    train.run(job)
    label.run(job)
    return rows_of(job, "regions", "label")


def weights_of(job: Job) -> bytes:
    return (job.stage_folder("labeler") / "model.safetensors").read_bytes()


@pytest.mark.parametrize("head", ["discriminant", "linear", "mlp"])
def test_the_labeler_learns_and_then_names_every_region(tmp_path, head):
    job = scored_job(tmp_path, head=head, epochs=40 if head == "linear" else 12)
    training = train.run(job)
    assert training["head"] == head
    if head != "discriminant":
        assert training["history"][training["best_epoch"]]["top1"] > 0.9
    label.run(job)
    rows = rows_of(job, "regions", "label")
    named = [row["proposals"][0]["top_labels"][0] for row in rows]
    assert np.mean(np.array(named) == job.snapshot.labels) > 0.95
    assert np.mean([row["proposals"][1]["background_score"] > 0.5 for row in rows]) > 0.95
    assert all(len(proposal["top_labels"]) == CLASSES for row in rows for proposal in row["proposals"])
    sums = [sum(item["top_scores"]) + item["background_score"] for row in rows for item in row["proposals"]]
    assert np.allclose(sums, 1, atol=1e-5)
    assert len(rows[0]["global_labels"]) == CLASSES


@pytest.mark.parametrize("head", ["discriminant", pytest.param("mlp", marks=pytest.mark.slow)])
def test_only_a_labeler_with_a_background_class_can_leave_regions_unnamed(tmp_path, head):
    """Regions of unknown objects and of surroundings: without background, each is surely one of the classes."""
    scenes = make_scenes(240, 6)
    unknown = {}
    for background in (True, False):
        settings = TrainConfig(**MLP | {"head": head, "background": background, "folds": 5})
        job = make_job(tmp_path / str(background), scenes.labels, 6, train=settings)
        write_proposals(job, scenes.regions)
        score.run(job)
        rows = labeled_rows(job)
        pairs = [
            (proposal["top_scores"][0], name)
            for row, shown in zip(rows, scenes.shown, strict=True)
            for proposal, name in zip(row["proposals"], shown, strict=False)
        ]
        known = np.mean([score for score, name in pairs if name >= 0])
        unknown[background] = np.mean([score > 0.5 for score, name in pairs if name < 0])
        assert known > 0.7
        if not background:
            assert {item["background_score"] for row in rows for item in row["proposals"]} == {0.0}
    assert unknown[True] < 0.2
    assert unknown[False] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("head", ["discriminant", "mlp"])
def test_an_image_is_labeled_by_a_head_that_was_not_trained_on_it(tmp_path, head):
    """Only the label of one image differs between two runs: with folds, what its regions show does not depend on it."""
    labels = [k % CLASSES for k in range(60)]
    changed = [*labels]
    changed[7] = 2  # its regions show class 3
    for folds in (3, 0):
        rows, targets = [], []
        for name, given in (("right", labels), ("wrong", changed)):
            config = TrainConfig(**MLP | {"head": head, "folds": folds, "val_fraction": 0.0})
            job = make_job(
                tmp_path / f"{name}-{folds}",
                given,
                CLASSES,
                train=config,
                score=ScoreConfig(bootstrap=BootstrapConfig(rounds=1, unsure=1.0)),
            )
            write_proposals(job, easy_regions(labels, CLASSES, noise=1.5))
            score.run(job)
            found = rows_of(job, "scores", "score")
            targets.append([[item["target"] for item in row["proposals"]] for row in found])
            rows.append(labeled_rows(job))
        assert targets[0][7] != targets[1][7]
        assert targets[0][:7] + targets[0][8:] == targets[1][:7] + targets[1][8:]
        top = [run[7]["proposals"][0]["top_scores"] for run in rows]
        assert np.allclose(*top, atol=1e-6) == (folds > 0)


def test_auto_takes_a_discriminant_for_few_regions_and_an_mlp_for_many(tmp_path, monkeypatch):
    few = train.run(scored_job(tmp_path / "few", head="auto"))
    assert (few["head"], few["regions_per_class"], few["folds"]) == ("discriminant", 20.0, 20)
    monkeypatch.setattr(train, "FEW_REGIONS", 20)
    many = train.run(scored_job(tmp_path / "many", head="auto"))
    assert (many["head"], many["folds"]) == ("mlp", 5)


def test_without_folds_there_is_one_head_and_no_calibration(tmp_path):
    """As in the paper: the heads would be judged on the images that they were trained on."""
    job = scored_job(tmp_path, folds=0, background=False)
    rows = labeled_rows(job)
    labeler = Labeler.load(job.stage_folder("labeler"), BACKBONE)
    assert (labeler.heads.count, labeler.scores.calibration, labeler.scores.adds) == (1, None, False)
    assert {row["label_score"] for row in rows} == {None}
    assert [[item["label"] for item in row["labels"]] for row in rows] == [[k % CLASSES] for k in range(80)]
    named = [row["proposals"][0]["top_labels"][0] for row in rows]
    assert np.mean(np.array(named) == job.snapshot.labels) > 0.95


@pytest.mark.parametrize("head", ["discriminant", "mlp"])
def test_the_same_seed_gives_the_same_heads_bit_for_bit(tmp_path, head):
    jobs = [scored_job(tmp_path / name, head=head, folds=3) for name in ("a", "b")]
    records = [train.run(job) for job in jobs]
    assert weights_of(jobs[0]) == weights_of(jobs[1])
    assert records[0]["scores"] == records[1]["scores"]


def test_an_interrupted_training_ends_in_the_same_heads(tmp_path, monkeypatch):
    straight = scored_job(tmp_path / "straight", folds=2, dropout=0.3)
    train.run(straight)
    job = scored_job(tmp_path / "cut", folds=2, dropout=0.3)
    monkeypatch.setattr(gradient, "CHECKPOINT_SECONDS", -1.0)
    trainer = gradient.GradientTrainer
    real, calls = trainer._train_epoch, []

    def cut_at_the_fourth(self, epoch):
        calls.append(epoch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, epoch)

    monkeypatch.setattr(trainer, "_train_epoch", cut_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train.run(job)
    assert (job.stage_folder("labeler") / "checkpoint.pt").exists()
    train.run(job)
    assert calls == [0, 1, 2, 3, 3, 4, 5]
    assert weights_of(straight) == weights_of(job)
    assert sorted(path.name for path in job.stage_folder("labeler").iterdir()) == ["config.json", "model.safetensors"]


def test_without_views_the_full_region_is_trained_on(tmp_path):
    job = scored_job(tmp_path, views=0)
    training = train.run(job)
    assert training["history"][training["best_epoch"]]["top1"] > 0.9


def test_the_temperature_softens_the_discriminant(tmp_path):
    states = []
    for temperature in (1.0, 4.0):
        bootstrap = BootstrapConfig(temperature=temperature, confident=1.0, other_class=1.0, rounds=1)
        labels = [k % CLASSES for k in range(80)]
        config = TrainConfig(head="discriminant", folds=2)
        job = make_job(
            tmp_path / str(temperature), labels, CLASSES, train=config, score=ScoreConfig(bootstrap=bootstrap)
        )
        write_proposals(job, easy_regions(labels, CLASSES))
        score.run(job)
        train.run(job)
        states.append(load_file(job.stage_folder("labeler") / "model.safetensors"))
    for name in ("weights.0", "biases.0"):
        assert torch.allclose(states[0][name], 4 * states[1][name], rtol=1e-4, atol=1e-5)


def test_another_training_configuration_is_refused_until_overwritten(tmp_path):
    train.run(scored_job(tmp_path))
    other = scored_job(tmp_path, hidden=8)
    with pytest.raises(StageError, match=r"train\.hidden: 16 -> 8.*--run\.overwrite true"):
        train.run(other)
    again = Job(replace(other.config, run=replace(other.config.run, overwrite=True)), other.rank)
    train.run(again)
    assert Labeler.load(other.stage_folder("labeler"), BACKBONE).heads.shape.hidden == 8


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
    monkeypatch.setattr(gradient, "CHECKPOINT_SECONDS", -1.0)
    real = gradient.GradientTrainer._train_epoch
    monkeypatch.setattr(
        gradient.GradientTrainer, "_train_epoch", lambda self, epoch: real(self, epoch) if epoch < 3 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        train.run(job)
    monkeypatch.setattr(gradient.GradientTrainer, "_train_epoch", real)
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
    monkeypatch.setattr(gradient.GradientTrainer, "_train_epoch", lambda self, epoch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(other)
    for stage, error in ((label, LabelerError), (build, StageError)):
        with pytest.raises(error, match=r"run `hf-relabel (train|label)`"):
            stage.run(job)


def test_scores_of_other_proposals_are_refused(tmp_path):
    job = scored_job(tmp_path)
    write_proposals(job, easy_regions([k % CLASSES for k in range(80)], CLASSES, 2), backbone={"model": "test/other"})
    with pytest.raises(StageError, match=r"scores: was made from a different proposals.*hf-relabel score"):
        train.run(job)


def test_two_processes_train_one_labeler(tmp_path, monkeypatch):
    """Each is the main process of its own run; one trains, the other waits and has the same labeler."""
    job = scored_job(tmp_path)
    trained, results = [], []
    fit = gradient.GradientTrainer.fit
    monkeypatch.setattr(gradient.GradientTrainer, "fit", lambda self, *file: trained.append(1) or fit(self, *file))
    threads = [threading.Thread(target=lambda: results.append(train.run(Job(job.config, job.rank)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert trained == [1]
    assert results[0] == results[1]
    assert sorted(path.name for path in job.stage_folder("labeler").iterdir()) == ["config.json", "model.safetensors"]


def test_few_images_per_class_promise_no_gain(tmp_path, monkeypatch):
    """Three images per class, each with one class only: the labeler's mistakes are not taken for missing labels."""
    scenes = make_scenes(60, 20, extra=0.0, noise=2.0, dim=96)
    gains = {}
    for careful in (True, False):
        if not careful:
            monkeypatch.setattr(train, "SHRINKAGE_PER_DIMENSION", 0.0)
            monkeypatch.setattr(train, "MIN_FOLDS_TO_HALVE", 100)
        job = make_job(tmp_path / str(careful), scenes.labels, 20)
        write_proposals(job, scenes.regions)
        score.run(job)
        estimates = train.run(job)["scores"]["estimates"]
        gains[careful] = max(expected["gain"] for expected in estimates.values())
    assert gains[True] < 1
    assert gains[False] > 5


@pytest.mark.parametrize("folds", [4, 5, 20])
def test_each_fold_is_left_out_by_one_head_of_each_way_to_halve_them(folds):
    of_fold = train.halve_folds(folds, 4)
    assert of_fold.shape == (4, folds)
    for way, heads in enumerate(of_fold):
        assert set(heads.tolist()) == {2 * way, 2 * way + 1}
        assert abs(np.bincount(heads)[-2:] - folds / 2).max() <= 0.5
    assert len({tuple(heads % 2) for heads in of_fold}) > 1
