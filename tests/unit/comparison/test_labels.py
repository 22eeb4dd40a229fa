"""Ways to label images, compared on generated features with known truth."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from jobs import make_job, write_proposals
from PIL import Image
from scenes import make_scenes

from hf_relabel.cli import main
from hf_relabel.comparison.crops import GRAY, masked_crop
from hf_relabel.comparison.labels import LabelComparison, compare_labels
from hf_relabel.comparison.single_positive import predict_single_positive
from hf_relabel.comparison.whole_image import WholeImageClassifier, write_label_map
from hf_relabel.errors import SourceError, StageError
from hf_relabel.evaluation.ground_truth import Truth, read_truth
from hf_relabel.evaluation.metrics import average_precision
from hf_relabel.labeling.label_maps import label_map_path, read_label_map, score_under_mask
from hf_relabel.review.photos import photos_in_folder
from hf_relabel.training.transform import ClassifierTransform

CLASSES = 6

WITHOUT_CROPS = [
    *("bootstrap", "label maps", "label map, no labeler"),
    *("assume negative", "assume negative, calibrated", "EM + APL", "EM + APL, calibrated"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose `propose` stage is complete, with its truth in `truth.jsonl` and gray photos in `photos`."""
    folder = tmp_path_factory.mktemp("run")
    scenes = make_scenes(160, CLASSES, noise=0.8)
    job = make_job(folder, scenes.labels, CLASSES, shard_size=64)
    write_proposals(job, scenes.regions)
    names = job.snapshot.class_names
    with open(folder / "truth.jsonl", "w") as file:
        for image_id, labels in zip(job.snapshot.image_ids, scenes.truth, strict=True):
            file.write(json.dumps({"image_id": image_id, "labels": [names[label] for label in labels]}) + "\n")
    (folder / "photos").mkdir()
    for number, image_id in enumerate(job.snapshot.image_ids):
        Image.new("RGB", (48, 48), (scenes.labels[number] * 40, 90, 120)).save(folder / "photos" / image_id)
    return folder


def encode(images: Sequence[Image.Image]) -> np.ndarray:
    """The mean color of an image as its global feature."""
    noise = np.random.default_rng(0).normal(size=(len(images), 3))
    return np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]).astype(np.float32) + noise


@pytest.fixture(scope="module")
def found(run: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelComparison:
    before = sorted(str(path) for path in run.rglob("*"))
    truth = read_truth(str(run / "truth.jsonl"))
    work = tmp_path_factory.mktemp("work")
    compared = compare_labels(run, truth, work, photos=photos_in_folder(run / "photos"), encoder=encode)
    assert sorted(str(path) for path in run.rglob("*")) == before, "a comparison changes nothing in the run"
    return compared


def test_all_ways_are_compared(found: LabelComparison):
    assert sorted(found.rows) == sorted([*WITHOUT_CROPS, "masked crops"])
    assert not found.left_out
    assert (found.images, found.classes) == (160, CLASSES)
    for name, row in found.rows.items():
        assert 0 <= row.f1 <= row.best_f1 + 1e-9 <= 1 + 1e-9 or row.added == 0, name
        assert 0 <= row.coverage <= 1, name
        assert row.seconds > 0, name


def test_where_objects_have_masks_the_pipeline_is_better_than_whole_images(found: LabelComparison):
    ours = found.rows["bootstrap"]
    assert ours.f1 > found.given_f1 + 0.1
    assert ours.precision > 0.85
    assert ours.f1 > max(found.rows[name].f1 for name in WITHOUT_CROPS[2:])


def test_the_numbers_are_those_of_the_added_labels(found: LabelComparison):
    row = found.rows["bootstrap"]
    true = round(row.precision * row.added)
    assert row.coverage == pytest.approx(true / found.missing)
    listed = found.images + row.added
    assert row.f1 == pytest.approx(2 * (found.images + true) / (listed + found.images + found.missing))


@pytest.mark.slow
def test_given_label_maps_are_used(run: Path, tmp_path: Path):
    """Maps that know nothing: no label can be added from them."""
    maps = tmp_path / "maps"
    for line in (run / "truth.jsonl").read_text().splitlines():
        write_label_map(maps, json.loads(line)["image_id"], np.zeros((3, 3, CLASSES)))
    compared = compare_labels(run, read_truth(str(run / "truth.jsonl")), tmp_path / "work", label_maps=maps)
    assert compared.rows["label map, no labeler"].added == 0
    assert compared.left_out == {"masked crops": "the images cannot be read; name their folder with --images"}


@pytest.mark.slow
def test_the_command_prints_all_ways_and_why_one_is_left_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    arguments = [str(run), "--truth", str(run / "truth.jsonl"), "--no-crops", "--json", str(tmp_path / "found.json")]
    assert main(["compare", "labels", *arguments]) == 0
    printed = capsys.readouterr().out
    assert list(json.loads((tmp_path / "found.json").read_text())["rows"]) == WITHOUT_CROPS
    assert all(f"\n{name} " in printed for name in WITHOUT_CROPS)
    assert "left out: masked crops: not wanted (--no-crops)" in printed


@pytest.mark.slow
def test_a_classifier_can_tell_crops_apart(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """`--crop-model` replaces the run's backbone, which this run does not even name."""
    torch.manual_seed(0)
    settings = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**settings)).save_pretrained(tmp_path / "model")
    ClassifierTransform(32, (0.5,) * 3, (0.5,) * 3).save(tmp_path / "model")
    arguments = [str(run), "--truth", str(run / "truth.jsonl"), "--images", str(run / "photos"), "--crop-size", "32"]
    arguments += ["--json", str(tmp_path / "found.json"), "--crop-model"]
    (run / "config.yaml").write_text("source: {path: nowhere}\n")
    try:
        assert main(["compare", "labels", *arguments, str(tmp_path / "model")]) == 0
        assert "masked crops" in json.loads((tmp_path / "found.json").read_text())["rows"]
        capsys.readouterr()
        assert main(["compare", "labels", *arguments, str(tmp_path / "none")]) == 1
        assert "none: no such folder" in capsys.readouterr().err
    finally:
        (run / "config.yaml").unlink()


def test_a_run_without_proposals_and_a_truth_of_other_images_are_refused(run: Path, tmp_path: Path):
    with pytest.raises(StageError, match="`propose` stage is not complete"):
        compare_labels(tmp_path, Truth("truth", {}), tmp_path / "work")
    with pytest.raises(SourceError, match="have no entry in truth"):
        compare_labels(run, Truth("truth", {"other.jpg": []}), tmp_path / "other")


def mixtures(images: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of images of two classes of four, one of them given; the given labels and the true sets."""
    rng = np.random.default_rng(seed)
    looks = 2 * rng.normal(size=(4, 16))
    pairs = np.stack([rng.permutation(4)[:2] for _ in range(images)])
    truth = np.zeros((images, 4), bool)
    truth[np.arange(images)[:, None], pairs] = True
    return truth @ looks + rng.normal(size=(images, 16)), pairs[:, 0], truth


@pytest.mark.parametrize("method", ["assume negative", "EM + APL"])
def test_labels_that_were_not_given_are_ranked_above_false_ones(method):
    features, given, truth = mixtures()
    folds = np.arange(len(given)) % 3
    logits = predict_single_positive(features, given, folds, 4, method)
    assert average_precision(logits, truth).mean() > 0.9
    again = predict_single_positive(features, given, folds, 4, method)
    assert np.array_equal(logits, again)


def test_unknown_labels_are_not_pushed_down_as_by_assuming_negatives():
    features, given, truth = mixtures()
    folds = np.arange(len(given)) % 3
    missing = truth.copy()
    missing[np.arange(len(given)), given] = False
    negative, em = (
        predict_single_positive(features, given, folds, 4, method)[missing].mean()
        for method in ("assume negative", "EM + APL")
    )
    assert em > negative + 0.3


def test_an_image_s_own_label_does_not_reach_its_prediction():
    features, given, _ = mixtures(90)
    folds = np.arange(90) % 3
    changed = np.where(folds == 1, 3 - given, given)
    for predict in (
        lambda labels: predict_single_positive(features, labels, folds, 4, "EM + APL"),
        lambda labels: WholeImageClassifier.fit(features, labels, folds, 4).logits(features, folds),
    ):
        one, other = predict(given), predict(changed)
        assert np.allclose(one[folds == 1], other[folds == 1], atol=1e-9)
        assert not np.allclose(one[folds == 0], other[folds == 0], atol=1e-3)


def test_a_written_label_map_shows_each_class_where_it_is(tmp_path: Path):
    logits = np.zeros((4, 6, 8))
    logits[:, :3, 2] = 9
    logits[:, 3:, 5] = 9
    write_label_map(tmp_path, "a/b.jpg", logits)
    label_map = read_label_map(label_map_path(tmp_path, "a/b.jpg"), 8)
    assert label_map.shape == (2, 5, 4, 6)
    left = np.zeros((40, 60), bool)
    left[:, :20] = True
    assert int(score_under_mask(label_map, left, 8).argmax()) == 2
    assert int(score_under_mask(label_map, left[:, ::-1].copy(), 8).argmax()) == 5
    assert isinstance(torch.load(label_map_path(tmp_path, "a/b.jpg"), weights_only=True), torch.Tensor)


def test_a_masked_crop_is_the_mask_s_box_on_gray():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    mask[10, 30] = False
    crop = masked_crop(Image.new("RGB", (60, 40), (255, 0, 0)), mask)
    assert crop.size == (20, 10)
    assert crop.getpixel((0, 0)) == GRAY
    assert crop.getpixel((5, 5)) == (255, 0, 0)
