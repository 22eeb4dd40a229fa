"""Fine-tune a classifier on a multi-label dataset and report its mAP over classes.

    hf-relabel transfer --model out --out out-coco --train instances_train2017.json --train-images train2017 \\
        --test instances_val2017.json --test-images val2017
    hf-relabel transfer --model out --out out-voc --train VOCdevkit/VOC2007 --train-split trainval --test-split test
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_relabel.commands.evaluate import describe, print_low_scores
from hf_relabel.commands.options import Command, option
from hf_relabel.errors import SourceError, UsageError
from hf_relabel.training.config import TrainingConfig

if TYPE_CHECKING:
    from hf_relabel.evaluation.datasets import LabeledImages


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """Data.

    Args:
        training: How to train.
        train: Training images: COCO's instances_*.json, a .jsonl or .parquet by image path, a VOC folder, or a
            dataset user/name@revision.
        test: Test images in one of the same forms; by default the same as --train.
        train_images: Folder with the images of an annotation file.
        test_images: Folder with the images of the test annotation file.
        train_split: Split of a VOC folder or dataset to train on.
        test_split: Split of a VOC folder or dataset to test on.
        labels_column: Column with classes or objects.
        image_column: Column with the image.
        threshold: Minimum score of a class in the predicted set.
        resamples: Bootstrap resamples for the confidence intervals; 0 computes none.
        json: Write all results to this file as JSON.
    """

    train: str | None = option(None, "DATA")
    test: str | None = option(None, "DATA")
    train_images: str | None = option(None, "FOLDER")
    test_images: str | None = option(None, "FOLDER")
    train_split: str = option("train", "NAME")
    test_split: str = option("test", "NAME")
    labels_column: str = option("labels", "NAME")
    image_column: str = option("image", "NAME")
    threshold: float = 0.5
    resamples: int = 1000
    json: str | None = option(None, "FILE.json")
    training: TrainingConfig

    def __post_init__(self) -> None:
        if not self.train:
            raise UsageError("--train: must name the training images")


def run(settings: TransferSettings) -> int:
    """Run the command; returns the exit status."""
    import numpy as np

    from hf_relabel.evaluation.report import plain, refuse_unwritable, write_results

    config = settings.training
    refuse_unwritable(settings.json)
    train_images, test_images = _open(settings)

    from hf_relabel.evaluation.summary import summarize
    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.training.fit import fit_classifier, make_accelerator
    from hf_relabel.training.inference import predict
    from hf_relabel.training.models import open_classifier
    from hf_relabel.training.targets import SetTargets

    quiet_libraries()
    accelerator = make_accelerator(config)
    targets = SetTargets(train_images.multi_hot)
    fit_classifier(train_images, np.arange(len(train_images)), targets, train_images.class_names, config, accelerator)
    model, processor = open_classifier(config.out)
    scores = predict(model, processor, test_images, accelerator, config.batch_size, config.workers)
    if accelerator.is_main_process:
        summary = summarize(
            scores,
            test_images.multi_hot,
            scores >= settings.threshold,
            resamples=settings.resamples,
            seed=config.seed,
        )
        print(describe(f"{config.out} on {test_images.origin}", summary))
        print_low_scores(scores, test_images.multi_hot, settings.threshold)
        if settings.json:
            write_results(settings.json, {"model": config.model, "test": test_images.origin} | plain(summary))
    accelerator.end_training()
    return 0


def _open(settings: TransferSettings) -> "tuple[LabeledImages, LabeledImages]":
    """Open the training and test images, with the classes of the training images."""
    from hf_relabel.evaluation.datasets import open_labeled

    train = settings.train or ""
    test = settings.test or train
    columns = (settings.labels_column, settings.image_column)
    train_images = open_labeled(train, settings.train_images, settings.train_split, *columns)
    test_folder = settings.test_images or (settings.train_images if not settings.test else None)
    test_images = open_labeled(test, test_folder, settings.test_split, *columns)
    if test == train and train_images.image_ids == test_images.image_ids:
        raise UsageError("--test: names the training images again; name other images or another --test-split")
    test_images = test_images.with_classes(train_images.class_names)
    if not any(test_images.labels):
        raise SourceError(f"{test_images.origin}: no test image has a label")
    return train_images, test_images


COMMANDS = {
    "transfer": Command(
        name="transfer",
        summary="fine-tune a classifier on a multi-label dataset and report its mAP over classes",
        settings=TransferSettings,
        run=run,
        description=__doc__ or "",
        common=("model", "out", "train", "test", "train_images", "test_images", "epochs", "batch_size", "lr", "json"),
    )
}
