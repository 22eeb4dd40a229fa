"""Fine-tune a classifier on a multi-label dataset and report its mAP over classes.

    hf-relabel transfer --model out --out out-coco --train instances_train2017.json --train-images train2017 \\
        --test instances_val2017.json --test-images val2017
    hf-relabel transfer --model out --out out-voc --train VOCdevkit/VOC2007 --train-split trainval --test-split test
"""

import argparse

import numpy as np

from hf_relabel.commands.evaluate import describe
from hf_relabel.commands.options import ConfigFile, add_settings, settings_from
from hf_relabel.errors import SourceError, UsageError
from hf_relabel.evaluation.datasets import LabeledImages, open_labeled
from hf_relabel.evaluation.report import plain, refuse_unwritable, write_results
from hf_relabel.training.config import TrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", action=ConfigFile, metavar="FILE.yaml", help="file with any of these settings")
    group = parser.add_argument_group("data")
    what = "COCO's instances_*.json, a .jsonl or .parquet by image path, a VOC folder, or a dataset user/name@revision"
    group.add_argument("--train", metavar="DATA", help=f"training images: {what}")
    group.add_argument("--test", metavar="DATA", help="test images, of the same form; by default the same as --train")
    group.add_argument("--train-images", metavar="FOLDER", help="where the images of an annotation file are")
    group.add_argument("--test-images", metavar="FOLDER", help="likewise for the test images")
    group.add_argument("--train-split", default="train", help="split of a VOC folder or dataset (default: train)")
    group.add_argument("--test-split", default="test", help="likewise for the test images (default: test)")
    group.add_argument("--labels-column", default="labels", help="column with classes or objects (default: labels)")
    group.add_argument("--image-column", default="image", help="column with the image (default: image)")
    group.add_argument(
        "--threshold", type=float, default=0.5, help="score of a class in the predicted set (default: 0.5)"
    )
    group.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: 1000)")
    group.add_argument("--json", metavar="FILE", help="write all results as JSON")
    add_settings(parser, TrainingConfig, "training")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    config = settings_from(TrainingConfig, args)
    if not args.train:
        raise UsageError("--train: must name the training images")
    refuse_unwritable(args.json)
    train_images, test_images = _open(args)

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
        truth = test_images.multi_hot
        summary = summarize(scores, truth, scores >= args.threshold, resamples=args.resamples, seed=config.seed)
        print(describe(f"{config.out} on {test_images.origin}", summary))
        if args.json:
            write_results(args.json, {"model": config.model, "test": test_images.origin} | plain(summary))
    accelerator.end_training()
    return 0


def _open(args: argparse.Namespace) -> tuple[LabeledImages, LabeledImages]:
    """Training and test images, with the classes of the training images."""
    columns = (args.labels_column, args.image_column)
    train_images = open_labeled(args.train, args.train_images, args.train_split, *columns)
    test_folder = args.test_images or (args.train_images if not args.test else None)
    test_images = open_labeled(args.test or args.train, test_folder, args.test_split, *columns)
    if (args.test or args.train) == args.train and train_images.image_ids == test_images.image_ids:
        raise UsageError("--test: names the training images again; name other images or another --test-split")
    test_images = test_images.with_classes(train_images.class_names)
    if not any(test_images.labels):
        raise SourceError(f"{test_images.origin}: no test image has a label")
    return train_images, test_images
