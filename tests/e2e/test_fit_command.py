"""`hf-relabel fit` with a tiny ViT on images of colored squares."""

import json
from pathlib import Path

import pytest
import tiny_data
import torch
import yaml
from commands import error_line, hf_relabel, launch
from release_folder import write_release
from safetensors.torch import load_file

from hf_relabel.cli import main
from hf_relabel.training.models import open_classifier


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with images/, truth.jsonl, release/ and config.json of a tiny ViT."""
    folder = tmp_path_factory.mktemp("data")
    rows = tiny_data.write_images(folder, 96, seed=0)
    write_release(folder / "release", tiny_data.NAMES, rows)
    tiny_data.write_model_config(folder)
    return folder


def _arguments(data, out, **settings):
    settings = {
        "release": data / "release",
        "images": data / "images",
        "model": data / "config.json",
        "out": out,
        "epochs": 2,
        "batch-size": 16,
        "warmup-epochs": 1,
        **settings,
    }
    arguments = ["fit"]
    for key, value in settings.items():
        arguments += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return arguments


def _weights(out):
    return load_file(out / "model.safetensors")


def _same(one, other):
    a, b = _weights(one), _weights(other)
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_classifier_learns_and_opens_in_a_pipeline(data, tmp_path, capsys):
    from transformers import pipeline

    out = tmp_path / "out"
    assert main(_arguments(data, out, epochs=30, lr=3e-3, **{"crop-scale": 0.8, "checkpoint-every": 0})) == 0
    assert "96 images, 4 classes, target soft" in capsys.readouterr().out
    training = json.loads((out / "training.json").read_text())
    losses = [epoch["loss"] for epoch in training["history"]]
    assert losses[-1] < 0.7 * losses[0]
    classify = pipeline("image-classification", model=str(out))
    found = classify(str(data / "images" / "red" / "0002.png"))
    assert {item["label"] for item in found} == set(tiny_data.NAMES)
    assert sum(item["score"] for item in found) != pytest.approx(1)  # sigmoids do not sum to 1
    arguments = ["--model", str(out), "--images", str(data / "images"), "--truth", str(data / "truth.jsonl")]
    assert main(["evaluate", *arguments, "--resamples", "0", "--json", str(tmp_path / "r.json")]) == 0
    metrics = json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert metrics["map_over_images"]["value"] > 0.8  # 0.6 with untrained weights


def test_validation_per_epoch_and_the_best_weights(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(_arguments(data, out, epochs=4, lr=3e-2, holdout=0.25)) == 0
    printed = capsys.readouterr().err
    assert "72 images to train on, 24 to validate on; images of 32 px" in printed
    assert "epoch 4/4: loss" in printed
    assert " per epoch: 4 steps of " in printed
    training = json.loads((out / "training.json").read_text())
    best = max(training["history"], key=lambda row: row["val_map_over_images"])
    found = training["validation"]
    assert found["epoch"] == best["epoch"]
    for key in ("val_map_over_images", "val_map_over_classes", "val_f1", "val_threshold"):
        assert found[key] == pytest.approx(best[key], abs=1e-6), "the saved weights are those of the best epoch"
    assert set(found["per_class"]) == set(tiny_data.NAMES)
    assert sum(entry["images"] for entry in found["per_class"].values()) >= 24
    everything = tmp_path / "all"
    assert main(_arguments(data, everything, epochs=1, holdout=0)) == 0
    assert "validation" not in json.loads((everything / "training.json").read_text())
    assert "96 images to train on; images" in capsys.readouterr().err


def test_validation_on_a_split_of_its_own(data, tmp_path, capsys):
    rows = tiny_data.write_images(tmp_path, 12, seed=5)
    release = write_release(tmp_path / "release", tiny_data.NAMES, rows)
    out = tmp_path / "out"
    split = {"val-split": "train", "val-images": tmp_path / "images"}
    assert main(_arguments(tmp_path, out, release=release, model=data / "config.json", epochs=1, **split)) == 0
    assert "12 images to train on, 12 to validate on" in capsys.readouterr().err
    assert "has the split 'train', not 'val'" in _error(
        capsys, _arguments(data, tmp_path / "x", **{"val-split": "val"})
    )
    assert "--val-split" in _error(capsys, _arguments(data, tmp_path / "x", **{"val-images": "somewhere"}), 2)


def test_scores_below_the_threshold_are_explained(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(_arguments(data, out, epochs=1, lr=1e-6)) == 0
    capsys.readouterr()
    arguments = ["--model", str(out), "--images", str(data / "images"), "--truth", str(data / "truth.jsonl")]
    assert main(["evaluate", *arguments, "--resamples", "0", "--threshold", "0.999"]) == 0
    hint = capsys.readouterr().out.splitlines()[-1]
    assert hint.startswith("note: every score is below the threshold 0.999 (the highest is 0.")
    threshold = hint.split("at the threshold ")[1].split(":")[0]
    assert main(["evaluate", *arguments, "--resamples", "0", "--threshold", str(float(threshold) - 0.001)]) == 0
    assert "note:" not in capsys.readouterr().out


@pytest.mark.slow
def test_settings_from_a_file(data, tmp_path):
    settings = {
        "loss": "asymmetric",
        "target": "threshold",
        "threshold": 0.7,
        "include_original": True,
        "crop_aware": True,
        "randaugment": 2,
        "mixup": 0.2,
        "cutmix": 1.0,
        "optimizer": "sgd",
        "lr": 0.01,
        "ema": 0.9,
        "accumulation": 2,
        "workers": 1,
        "class_weights": "balanced",
        "holdout": 0.2,
        "keep": "last",
        "floor": 0.01,
        "cap": 0.95,
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    assert main([*_arguments(data, out, config=tmp_path / "fit.yaml"), "--lr", "0.02"]) == 0
    used = json.loads((out / "training.json").read_text())["settings"]
    assert {**settings, "lr": 0.02}.items() <= {**used, "workers": 1}.items()


def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, monkeypatch):
    from hf_relabel.training import loop

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extra = {"mixup": 0.2, "ema": 0.9}
    assert main(_arguments(data, whole, epochs=3, **extra)) == 0
    save = loop._save_checkpoint

    def save_and_stop(accelerator, folder, epoch):
        save(accelerator, folder, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save_checkpoint", save_and_stop)
    assert main(_arguments(data, stopped, epochs=3, **extra)) == 130
    monkeypatch.undo()
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["epoch-00002"]
    assert main(_arguments(data, stopped, epochs=3, resume=True, **extra)) == 0
    assert _same(whole, stopped)
    one, other = (json.loads((out / "training.json").read_text())["history"] for out in (whole, stopped))
    assert one == other
    assert [epoch["epoch"] for epoch in one] == [1, 2, 3]


@pytest.mark.slow
def test_workers_do_not_change_the_result(data, tmp_path):
    for workers in (0, 2):
        assert main(_arguments(data, tmp_path / str(workers), epochs=1, workers=workers, randaugment=1)) == 0
    assert _same(tmp_path / "0", tmp_path / "2")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(tmp_path, capsys, workers):
    rows = tiny_data.write_images(tmp_path, 8, seed=0)
    write_release(tmp_path / "release", tiny_data.NAMES, rows)
    tiny_data.write_model_config(tmp_path)
    (tmp_path / "images" / rows[3]["image_id"]).write_bytes(b"junk")
    message = _error(capsys, _arguments(tmp_path, tmp_path / "out", workers=workers))
    assert message.startswith(f"hf-relabel: error: {rows[3]['image_id']}: ")


@pytest.fixture
def tracker(monkeypatch):
    """Replaces a tracker of accelerate with one that records its calls; returns the record."""
    from accelerate import tracking
    from accelerate.utils import LoggerType

    calls = []

    class Tracker(tracking.GeneralTracker):
        name, requires_logging_directory = "tensorboard", True
        tracker = None

        def __init__(self, run_name, logging_dir):
            super().__init__()
            Path(logging_dir, run_name).mkdir(parents=True)  # like the TensorBoard tracker
            calls.append(run_name)

        def store_init_configuration(self, values):
            calls.append(values)

        def log(self, values, step=None):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    return calls


@pytest.mark.slow
def test_a_tracker_receives_every_epoch(data, tmp_path, tracker):
    out = tmp_path / "out"
    assert main(_arguments(data, out, **{"log-with": "tensorboard"})) == 0
    name, settings, first, second, end = tracker
    assert (name, end) == ("hf_relabel", "finished")
    assert settings["epochs"] == 2
    history = json.loads((out / "training.json").read_text())["history"]
    assert [first, second] == [(row.pop("epoch"), row) for row in history]
    assert {"loss", "lr", "val_map_over_images"} <= history[0].keys()


@pytest.fixture
def fresh_precision():
    """accelerate fixes the precision once per process; calling the returned function resets it."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield AcceleratorState._reset_state
    AcceleratorState._reset_state()


def test_mixed_precision_saves_full_precision(data, tmp_path, fresh_precision):
    assert main(_arguments(data, tmp_path / "bf16", epochs=1, **{"mixed-precision": "bf16"})) == 0
    fresh_precision()
    assert main(_arguments(data, tmp_path / "full", epochs=1)) == 0
    assert {weight.dtype for weight in _weights(tmp_path / "bf16").values()} == {torch.float32}
    assert not _same(tmp_path / "bf16", tmp_path / "full")


@pytest.mark.slow
def test_two_processes_under_accelerate_launch(data, tmp_path):
    from transformers import Dinov2Config

    # DINOv2 has a weight that classifiers do not use; several processes must not wait for its gradient.
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    Dinov2Config(**shape).save_pretrained(tmp_path / "dinov2")
    out = tmp_path / "out"
    done = launch(2, *_arguments(data, out, model=tmp_path / "dinov2" / "config.json", **{"batch-size": 8}))
    assert done.returncode == 0, done.stderr
    assert "96 images, 4 classes" in done.stdout
    assert done.stdout.count("\n") == 2  # only one process prints
    model, _ = open_classifier(str(out))
    assert model.config.id2label == dict(enumerate(tiny_data.NAMES))
    assert len(json.loads((out / "training.json").read_text())["history"]) == 2
    # each process saves its own random state, so two files show that two processes trained
    assert len(list((out / "checkpoints" / "epoch-00002").glob("random_states_*"))) == 2


def test_fine_tuning_keeps_the_head_for_the_same_classes_and_freeze_keeps_the_rest(data, tmp_path):
    single, tuned = tmp_path / "single", tmp_path / "tuned"
    assert main(_arguments(data, single, target="single", loss="cross_entropy")) == 0
    assert open_classifier(str(single))[0].config.problem_type == "single_label_classification"
    assert main(_arguments(data, tuned, model=single, freeze=True, epochs=1, lr=1e-5)) == 0
    before, after = _weights(single), _weights(tuned)
    changed = sorted(key for key in before if not torch.equal(before[key], after[key]))
    assert changed == ["classifier.bias", "classifier.weight"]
    assert (before["classifier.weight"] - after["classifier.weight"]).abs().max() < 1e-3
    fresh = tmp_path / "fresh"
    assert main(_arguments(data, fresh, model=single, freeze=True, epochs=1, lr=1e-5, **{"new-head": True})) == 0
    assert (before["classifier.weight"] - _weights(fresh)["classifier.weight"]).abs().max() > 1e-3


def test_a_frozen_model_sees_each_image_once(data, tmp_path, monkeypatch, capsys):
    """The same weights as when it sees the whole images in every epoch, in one pass over the images."""
    from hf_relabel.training import fit, loop
    from hf_relabel.training.features import Trunk

    torch.manual_seed(0)
    single = tmp_path / "single"
    assert main(_arguments(data, single, epochs=1)) == 0
    seen = []
    run = Trunk.__call__

    def count(self, pixels):
        seen.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(Trunk, "__call__", count)
    frozen = {"model": single, "freeze": True, "views": 1, "new-head": True, "epochs": 4, "lr": 0.01, "ema": 0.5}
    once, resumed, always = tmp_path / "once", tmp_path / "resumed", tmp_path / "always"
    assert main(_arguments(data, once, **frozen)) == 0
    assert sum(seen) == 96, "to train and to validate on"
    assert "features of 86 images are computed once, in 1 view each: 0.0 MB" in capsys.readouterr().err
    assert not (once / "features").exists()

    save = loop._save_checkpoint

    def save_and_stop(accelerator, folder, epoch):
        save(accelerator, folder, epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save_checkpoint", save_and_stop)
    assert main(_arguments(data, resumed, **frozen)) == 130
    monkeypatch.setattr(loop, "_save_checkpoint", save)
    seen.clear()
    assert main(_arguments(data, resumed, resume=True, **frozen)) == 0
    assert not seen, "the features of the interrupted run are used"
    assert _same(once, resumed)

    monkeypatch.setattr(fit.Trunk, "of", lambda model, side: None)
    assert main(_arguments(data, always, **frozen, flip="false", **{"crop-scale": 1})) == 0
    assert "the model's head is not one module" in capsys.readouterr().err
    a, b = _weights(once), _weights(always)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-4)
    history = [json.loads((out / "training.json").read_text())["history"] for out in (once, always)]
    for one, other in zip(*history, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def _error(capsys, arguments, status=1):
    assert main(arguments) == status
    message = capsys.readouterr().err.splitlines()
    lines = [line for line in message if line.startswith("hf-relabel: error: ")]
    assert len(lines) == 1, message
    return lines[0]


def test_bad_input(data, tmp_path, capsys):
    out = tmp_path / "out"
    # a release with other images, and one with other classes
    rows = [{"image_id": f"red/x{i}.png", "label": 2, "labels": [2], "scores": [1.0]} for i in range(5)]
    other = write_release(tmp_path / "other", tiny_data.NAMES, [{**rows[0], "image_id": "blue/0000.png"}, *rows])
    message = _error(capsys, _arguments(data, out, release=other))
    assert "5 of 6 image ids" in message
    assert "'red/x0.png', 'red/x1.png', 'red/x2.png'" in message
    pets = write_release(tmp_path / "pets", ["cat", "dog"], [{**rows[0], "label": 1, "labels": [1]}])
    message = _error(capsys, _arguments(data, out, release=pets))
    assert "has 2 classes" in message
    assert "['cat', 'dog']" in message
    # settings
    assert "--limit: fit trains on all" in _error(capsys, _arguments(data, out, limit=5), 2)
    assert "--labels-column: fit takes" in _error(capsys, _arguments(data, out, **{"labels-column": "labels"}), 2)
    assert "--lr: must be above 0" in _error(capsys, _arguments(data, out, lr=0), 2)
    message = _error(capsys, _arguments(data, out, **{"image-size": 64}))
    assert "--image-size 64: this vit takes other sizes" in message
    assert "for 32 px" in message
    message = _error(capsys, _arguments(data, out, **{"log-with": "wandb"}), 2)
    assert "the tracker 'wandb' is not installed" in message
    if not torch.cuda.is_available():
        message = _error(capsys, _arguments(data, out, **{"mixed-precision": "fp16"}), 2)
        assert "--mixed-precision: fp16 needs a GPU" in message
    assert "no tracker 'paper'" in _error(capsys, _arguments(data, out, **{"log-with": "paper"}), 2)
    (tmp_path / "fit.yaml").write_text("epoch: 3\n")
    message = _error(capsys, _arguments(data, out, config=tmp_path / "fit.yaml"), 2)
    assert "'epochs'" in message
    (tmp_path / "fit.yaml").write_text("epochs: many\n")
    assert "epochs: must be a whole number, got 'many'" in _error(
        capsys, _arguments(data, out, config=tmp_path / "fit.yaml"), 2
    )
    assert not out.exists()


def test_checkpoints_with_another_architecture(data, tmp_path, capsys):
    from transformers import ResNetConfig, pipeline

    out = tmp_path / "out"
    assert main(_arguments(data, out, epochs=1)) == 0
    assert "is not empty; choose another --out, or --resume or --overwrite" in _error(capsys, _arguments(data, out))
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]).save_pretrained(tmp_path / "resnet")
    resnet = tmp_path / "resnet" / "config.json"
    message = _error(capsys, _arguments(data, out, model=resnet, resume=True, epochs=1))
    assert "cannot resume, its checkpoint is from a run with other settings (architecture.parameters" in message
    # weights of a ViT with the configuration of a ResNet
    (tmp_path / "resnet" / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes())
    message = _error(capsys, _arguments(data, tmp_path / "x", model=tmp_path / "resnet"))
    assert "the checkpoint has another architecture than its config.json" in message
    assert main(_arguments(data, out, model=resnet, overwrite=True, epochs=1)) == 0
    assert open_classifier(str(out))[0].config.model_type == "resnet"
    assert len(pipeline("image-classification", model=str(out))(str(data / "images" / "red" / "0002.png"))) == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    message = _error(capsys, _arguments(data, tmp_path / "mine", overwrite=True))
    assert "contains files that are not from a training run" in message


def test_help(tmp_path):
    for command in ("fit", "evaluate", "transfer", "audit"):
        done = hf_relabel(command, "--help")
        assert done.returncode == 0
        assert f"usage: hf-relabel {command}" in done.stdout
    assert "--release" in error_line(hf_relabel("fit", "--model", "m", "--out", str(tmp_path)), 2)
