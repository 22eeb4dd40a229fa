"""`hf-relabel evaluate` with stored predictions and with a tiny classifier."""

import json

import numpy as np
import pytest
import tiny_data
import torch
import yaml

from hf_relabel.cli import main
from hf_relabel.evaluation.predictions import Predictions, load_predictions, save_predictions
from hf_relabel.training.models import make_classifier, read_transform


def _by_hand(scores, truth):
    """ReaL accuracy and mAP over images, computed per image from the definitions in the papers."""
    right, precisions = [], []
    for row, true in zip(scores, truth, strict=True):
        if not true:
            continue
        right.append(int(row.argmax()) in true)
        places = sorted(1 + np.count_nonzero(row > row[c]) for c in true)
        precisions.append(sum(found / place for found, place in enumerate(places, start=1)) / len(true))
    return len(right), np.mean(right), np.mean(precisions)


@pytest.mark.slow
def test_real_labels_from_stored_predictions(shared_data, tmp_path, capsys):
    file = shared_data / "real.json"
    truth = json.loads(file.read_text())
    assert len(truth) == 50_000
    assert any(not labels for labels in truth)
    rng = np.random.default_rng(0)
    scores = rng.random((len(truth), 1000), dtype=np.float32)
    for row, labels in zip(scores, truth, strict=True):
        row[labels] += rng.normal(0.4, 0.3, len(labels))
    np.save(tmp_path / "scores.npy", scores)
    results = tmp_path / "results.json"
    arguments = ["--predictions", str(tmp_path / "scores.npy"), "--truth", str(file)]
    assert main(["evaluate", *arguments, "--resamples", "0", "--json", str(results)]) == 0
    found = json.loads(results.read_text())
    images, accuracy, mean_precision = _by_hand(scores, truth)
    assert found["images"] == images
    assert found["left_out"] == len(truth) - images
    assert found["metrics"]["top1"]["value"] == pytest.approx(accuracy)
    assert found["metrics"]["map_over_images"]["value"] == pytest.approx(mean_precision)
    assert f"{found['left_out']} images without a true label left out" in capsys.readouterr().out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    tiny_data.write_images(folder, 24, seed=1)
    return folder


def _save_classifier(folder, names):
    """Save an untrained classifier with these classes, and its processor."""
    torch.manual_seed(0)  # with some weights, the best threshold or a metric is the same by chance
    model = make_classifier(tiny_data.write_model_config(folder), None, names, True, True, False)
    model.save_pretrained(folder)
    read_transform(str(folder), tiny_data.SIDE).save(folder)
    return model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    _save_classifier(folder, tiny_data.NAMES)
    return folder


def test_model_on_an_image_folder_with_truth(images, classifier, tmp_path, capsys):
    stored, card = tmp_path / "scores.parquet", tmp_path / "README.md"
    common = ["--images", str(images / "images"), "--truth", str(images / "truth.jsonl"), "--resamples", "20"]
    results = ["--json", str(tmp_path / "a.json"), "--save", str(stored), "--model-index", str(card)]
    assert main(["evaluate", "--model", str(classifier), *common, *results]) == 0
    printed = capsys.readouterr().out
    assert "mAP over images" in printed
    assert "true labels" in printed
    from_model = json.loads((tmp_path / "a.json").read_text())
    assert from_model["images"] == 24
    assert sum(group["images"] for group in from_model["groups"].values()) == 24
    assert load_predictions(stored).class_names == tiny_data.NAMES
    index = yaml.safe_load(card.read_text().split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert {"type": "top1", "name": "top-1 (in the list)"}.items() <= index[0].items()
    assert index[0]["value"] == pytest.approx(from_model["metrics"]["top1"]["value"], abs=1e-6)
    # an existing card keeps its text and other metadata; only the results are replaced
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1) + "\nTrained on squares.\n")
    predictions = ["--predictions", str(stored), "--truth", str(images / "truth.jsonl"), "--resamples", "0"]
    assert main(["evaluate", *predictions, "--threshold", "0.9", "--model-index", str(card)]) == 0
    metadata = yaml.safe_load(card.read_text().split("---")[1])
    assert metadata["license"] == "mit"
    (results_now,) = metadata["model-index"][0]["results"]
    assert results_now["metrics"][0] == index[0]
    assert results_now["metrics"] != index
    assert card.read_text().endswith("Trained on squares.\n")
    # the stored scores give the same metrics, with and without the images
    for more in (["--images", str(images / "images")], []):
        arguments = ["--predictions", str(stored), "--truth", str(images / "truth.jsonl"), "--resamples", "20", *more]
        assert main(["evaluate", *arguments, "--json", str(tmp_path / "b.json")]) == 0
        from_stored = json.loads((tmp_path / "b.json").read_text())
        assert from_stored["metrics"] == from_model["metrics"]


def test_single_labels_are_the_default_truth(images, classifier, tmp_path):
    arguments = ["--model", str(classifier), "--images", str(images / "images"), "--resamples", "0"]
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "r.json")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["groups"]["1"]["images"] == 24
    assert found["groups"]["2"] == {"images": 0, "top1": None, "map_over_images": None}


def test_a_dataset_with_a_list_of_labels(images, classifier, tmp_path):
    import datasets

    label = datasets.ClassLabel(names=tiny_data.NAMES)
    features = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string"), "all": [label]})
    rows = [json.loads(line) for line in (images / "truth.jsonl").read_text().splitlines()]
    columns = {
        "image": [{"bytes": (images / "images" / row["image_id"]).read_bytes(), "path": None} for row in rows],
        "name": [row["image_id"] for row in rows],
        "all": [[item["class"] for item in row["objects"]] for row in rows],
    }
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(str(tmp_path / "set" / "data" / "val-00000-of-00001.parquet"))
    columns_of = ["--labels-column", "all", "--id-column", "name"]
    of_folder = ["--images", str(images / "images"), "--truth", str(images / "truth.jsonl")]
    for name, data in {"a": ["--dataset", "--images", str(tmp_path / "set"), *columns_of], "b": of_folder}.items():
        arguments = ["--model", str(classifier), *data, "--resamples", "0", "--json", str(tmp_path / f"{name}.json")]
        assert main(["evaluate", *arguments]) == 0
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    for name, estimate in other["metrics"].items():
        assert one["metrics"][name] == pytest.approx(estimate), name  # the images are in another order
    assert one["groups"]["2"]["images"] == other["groups"]["2"]["images"] > 0


def test_imagenet_v2_with_folders_named_by_class_index_and_a_truth_keyed_by_file_name(tmp_path):
    classes, images = 12, tmp_path / "images"
    rng = np.random.default_rng(3)
    labels = {}
    for index in range(classes):
        (images / str(index)).mkdir(parents=True)
        name = f"{rng.integers(1 << 32):08x}.jpeg"
        tiny_data.draw([], rng)[0].save(images / str(index) / name)
        labels[name] = [str(index)] + [str(c) for c in rng.permutation(classes)[:2] if c != index]
    labels[name] = []
    (tmp_path / "refined_labels.json").write_text(json.dumps(labels))
    model, stored, results = tmp_path / "model", tmp_path / "scores.parquet", tmp_path / "r.json"
    _save_classifier(model, [f"class {index}" for index in range(classes)])
    common = ["--model", str(model), "--images", str(images), "--match-classes", "index", "--resamples", "0"]
    assert main(["evaluate", *common, "--save", str(stored), "--json", str(results)]) == 0
    predictions = load_predictions(stored)
    single = [[int(image_id.split("/")[0])] for image_id in predictions.image_ids]
    several = [[int(c) for c in labels[image_id.split("/")[1]]] for image_id in predictions.image_ids]
    for truth, more in ((single, []), (several, ["--truth", str(tmp_path / "refined_labels.json")])):
        assert main(["evaluate", *common, *more, "--json", str(results)]) == 0
        found = json.loads(results.read_text())
        images_with_labels, accuracy, mean_precision = _by_hand(predictions.scores, truth)
        assert (found["images"], found["left_out"]) == (images_with_labels, classes - images_with_labels)
        assert found["metrics"]["top1"]["value"] == pytest.approx(accuracy)
        assert found["metrics"]["map_over_images"]["value"] == pytest.approx(mean_precision)


def _error(capsys, *arguments):
    capsys.readouterr()  # what the test itself printed, such as the progress of saving a model
    status = main(["evaluate", *map(str, arguments)])
    message = capsys.readouterr().err
    assert status in (1, 2)
    assert message.startswith("hf-relabel: error: ")
    assert message.count("\n") == 1
    return message


def test_bad_input(images, classifier, tmp_path, capsys):
    folder, truth = images / "images", images / "truth.jsonl"
    assert "either --model or --predictions" in _error(capsys, "--images", folder)
    assert "--model needs --images" in _error(capsys, "--model", classifier)
    for more in ([], ["--dataset"], ["--dataset", "--labels-column", "labels"]):
        message = _error(capsys, "--model", classifier, "--images", tmp_path / "gone", *more)
        assert f"{tmp_path / 'gone'}: no such folder" in message
        assert "set --images to " in message
    # a model with other classes
    other = tmp_path / "other"
    model = _save_classifier(other, ["ape", "red", "cow", "elk"])
    message = _error(capsys, "--model", other, "--images", folder)
    assert "lacks 3 of the 4 classes of the images: 'blue', 'green', 'yellow'" in message
    # predictions for other classes or other images
    ids = [json.loads(line)["image_id"] for line in truth.read_text().splitlines()]
    zeros = np.zeros((24, 4), np.float32)
    save_predictions(tmp_path / "other.parquet", Predictions(zeros, ids, ["ape", "red", "cow", "elk"]))
    message = _error(capsys, "--predictions", tmp_path / "other.parquet", "--images", folder, "--truth", truth)
    assert "lacks 3 of the 4 classes of the images: 'blue', 'green', 'yellow'" in message
    message = _error(capsys, "--predictions", tmp_path / "other.parquet", "--truth", truth)
    assert "labels are not among the 4 classes: 'blue'" in message
    strangers = [f"x/{number}.png" for number in range(20)]
    save_predictions(tmp_path / "some.parquet", Predictions(zeros, ids[:4] + strangers, tiny_data.NAMES))
    message = _error(capsys, "--predictions", tmp_path / "some.parquet", "--images", folder)
    assert "20 of 24 image ids have no prediction" in message
    assert message.count(".png'") == 4  # three ids, and an example of the known ids
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).random((24, 7)).astype(np.float32))
    message = _error(capsys, "--predictions", tmp_path / "wide.npy", "--images", folder, "--truth", truth)
    assert "scores 7 classes, the images have 4" in message
    np.save(tmp_path / "short.npy", np.zeros((9, 4), np.float32))
    message = _error(capsys, "--predictions", tmp_path / "short.npy", "--images", folder, "--truth", truth)
    assert "has 9 rows, but there are 24 images" in message
    (tmp_path / "few.jsonl").write_text('{"image_id": "blue/0000.png", "labels": ["blue"]}\n')
    message = _error(capsys, "--model", classifier, "--images", folder, "--truth", tmp_path / "few.jsonl")
    assert "23 of 24 image ids have no entry" in message
    assert "'blue/0004.png', 'blue/0008.png', 'blue/0012.png'" in message
    # checkpoints without a classifier
    model.base_model.save_pretrained(tmp_path / "trunk")
    assert "a backbone without a trained head" in _error(capsys, "--model", tmp_path / "trunk", "--images", folder)
    assert "no such folder" in _error(capsys, "--model", tmp_path / "nowhere", "--images", folder)


def test_predictions_along_a_hierarchy(tmp_path, capsys):
    names = ["poodle", "dog", "cat"]
    scores = np.array([[0.1, 0.9, 0.2], [0.2, 0.1, 0.8], [0.9, 0.9, 0.9]], np.float32)
    save_predictions(tmp_path / "scores.parquet", Predictions(scores, ["a.jpg", "b.jpg", "c.jpg"], names))
    (tmp_path / "truth.json").write_text(json.dumps({"a.jpg": ["poodle"], "b.jpg": ["cat"], "c.jpg": []}))
    (tmp_path / "parents.tsv").write_text("poodle\tdog\ndog\tanimal\ncat\tanimal\n")
    arguments = ["--predictions", str(tmp_path / "scores.parquet"), "--truth", str(tmp_path / "truth.json")]
    arguments += [
        "--parents",
        str(tmp_path / "parents.tsv"),
        "--resamples",
        "0",
        "--json",
        str(tmp_path / "found.json"),
    ]
    assert main(["evaluate", *arguments]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["rolled_up"]
    assert [found["by_depth"][depth]["f1"] for depth in ("0", "1", "2")] == [1, 1, 0], "dog counts above poodle"
    assert found["conflicts"] == 0, "an image without a true label is left out"
    assert "depth 2" in capsys.readouterr().out
