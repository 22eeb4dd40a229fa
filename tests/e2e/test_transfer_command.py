"""`hf-relabel transfer` with annotation files and datasets and a tiny ViT."""

import json

import pytest
import tiny_data
from commands import launch

from hf_relabel.cli import main
from hf_relabel.training.models import make_classifier, open_classifier, read_transform

NEW_CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """COCO train and test sets with three classes, and a classifier with other classes."""
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 90, 0), ("test", 40, 1)):
        rows = tiny_data.write_images(folder / split, count, seed, NEW_CLASSES)
        annotations = [
            {"image_id": number, "category_id": 10 * label}
            for number, row in enumerate(rows)
            for label in row["labels"]
        ]
        content = {
            "images": [{"id": number, "file_name": row["image_id"]} for number, row in enumerate(rows)],
            "categories": [{"id": 10 * label, "name": name} for label, name in enumerate(NEW_CLASSES)],
            "annotations": annotations,
        }
        (folder / split / "instances.json").write_text(json.dumps(content))
    model = folder / "model"
    classifier = make_classifier(tiny_data.write_model_config(model), None, ["ape", "elk"], True, True, False)
    classifier.save_pretrained(model)
    read_transform(str(model), tiny_data.SIDE).save(model)
    return folder


def _arguments(data, out, **settings):
    settings = {
        "model": data / "model",
        "out": out,
        "epochs": 25,
        "lr": 3e-3,
        "batch-size": 16,
        "crop-scale": 0.8,
        "checkpoint-every": 0,
        "resamples": 20,
        **settings,
    }
    return ["transfer", *(str(part) for key, value in settings.items() for part in (f"--{key}", value))]


def test_coco_annotation_files(data, tmp_path, capsys):
    settings = {"json": tmp_path / "r.json"}
    for split in ("train", "test"):
        settings |= {split: data / split / "instances.json", f"{split}-images": data / split / "images"}
    assert main(_arguments(data, tmp_path / "out", **settings)) == 0
    assert "mAP over classes" in capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["images"], found["classes"]) == (40, 3)
    assert found["metrics"]["map_over_classes"]["value"] > 0.75  # chance: 0.65
    model = open_classifier(str(tmp_path / "out"))[0]
    assert model.config.id2label == dict(enumerate(NEW_CLASSES))


@pytest.mark.slow
def test_two_processes_measure_the_same_as_one(data, tmp_path):
    settings = {"epochs": 1, "batch-size": 7, "json": tmp_path / "r.json"}  # 40 images do not divide evenly
    for split in ("train", "test"):
        settings |= {split: data / split / "instances.json", f"{split}-images": data / split / "images"}
    done = launch(2, *_arguments(data, tmp_path / "out", **settings))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mAP over classes") == 1
    by_two = json.loads((tmp_path / "r.json").read_text())
    arguments = ["--model", str(tmp_path / "out"), "--images", str(data / "test" / "images")]
    arguments += ["--truth", str(data / "test" / "truth.jsonl"), "--resamples", "20"]
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "one.json")]) == 0
    by_one = json.loads((tmp_path / "one.json").read_text())
    assert by_two["images"] == by_one["images"] == 40
    for name, estimate in by_one["metrics"].items():
        assert by_two["metrics"][name] == pytest.approx(estimate, abs=1e-6), name


def test_rows_by_image_path(data, tmp_path):
    settings = {"epochs": 1, "json": tmp_path / "r.json"}
    for split in ("train", "test"):
        settings |= {split: data / split / "truth.jsonl", f"{split}-images": data / split / "images"}
    assert main(_arguments(data, tmp_path / "out", **settings)) == 0
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 40


def test_a_dataset_with_objects(data, tmp_path):
    import datasets

    category = datasets.ClassLabel(names=NEW_CLASSES)
    features = datasets.Features({"image": datasets.Image(), "objects": {"category": datasets.List(category)}})
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (data / split / "truth.jsonl").read_text().splitlines()]
        columns = {
            "image": [
                {"bytes": (data / split / "images" / row["image_id"]).read_bytes(), "path": None} for row in rows
            ],
            "objects": [{"category": [item["class"] for item in row["objects"]]} for row in rows],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"))
    settings = {"train": tmp_path / "set", "labels-column": "objects", "epochs": 1, "json": tmp_path / "r.json"}
    assert main(_arguments(data, tmp_path / "out", **settings)) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["images"], found["classes"]) == (40, 3)


def test_bad_input(data, tmp_path, capsys):
    def error(status=1, **settings):
        assert main(_arguments(data, tmp_path / "out", **settings)) == status
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    train = {"train": data / "train" / "instances.json", "train-images": data / "train" / "images"}
    assert "--train: must name the training images" in error(2)
    assert "names the training images again" in error(2, **train)
    assert "no such annotation file, VOC folder or dataset" in error(train="nowhere")
    assert "90 of 90 images are not in" in error(**{**train, "train-images": tmp_path})
    (tmp_path / "more.jsonl").write_text('{"image_id": "red/0002.png", "labels": ["zebra"]}\n')
    test = {"test": tmp_path / "more.jsonl", "test-images": data / "train" / "images"}
    assert "1 labels are not among the 3 classes: 'zebra'" in error(**train, **test)
