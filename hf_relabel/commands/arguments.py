"""Arguments that several commands share."""

import argparse

from hf_relabel.config import SourceConfig
from hf_relabel.errors import UsageError
from hf_relabel.evaluation.datasets import LabeledImages, from_dataset, from_source
from hf_relabel.evaluation.ground_truth import Truth, read_truth


def add_truth_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Declare where the true label sets are."""
    group = parser.add_argument_group("truth")
    group.add_argument(
        "--truth",
        metavar="FILE",
        required=required,
        help="true labels: ReaL's real.json (ImageNet-Segments' lists have its form), a .json, .jsonl or .parquet by "
        "image id or file name, or a dataset user/name@revision",
    )
    group.add_argument("--truth-column", default="labels", help="column with the classes (default: labels)")
    group.add_argument("--truth-id-column", default="image_id", help="column with the image ids (default: image_id)")
    group.add_argument("--truth-split", help="split of a truth dataset")


def truth_of(args: argparse.Namespace) -> Truth:
    """The truth that the arguments name."""
    return read_truth(args.truth, args.truth_column, args.truth_id_column, args.truth_split)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the images are."""
    group = parser.add_argument_group("images")
    group.add_argument("--images", metavar="PATH", help="image folder, one class a subfolder, or a dataset")
    group.add_argument("--dataset", action="store_true", help="--images is a dataset's folder or Hub id, not a folder")
    group.add_argument("--images-config", metavar="NAME", help="configuration of the dataset")
    group.add_argument("--images-split", metavar="NAME", default=None, help="split of the dataset")
    group.add_argument("--images-revision", metavar="REVISION", help="branch, tag or commit of the dataset")
    group.add_argument("--image-column", default="image", help="column with the image (default: image)")
    group.add_argument("--label-column", default="label", help="column with the class (default: label)")
    group.add_argument(
        "--labels-column", help="column of a dataset with a list of classes, or of objects with one each"
    )
    group.add_argument("--id-column", help="column with a unique name for each image")
    group.add_argument("--class-names", metavar="FILE", help="the classes, one a line (.txt), or .tsv")
    group.add_argument("--limit", type=int, help="only the first images in the order of their ids")


def source_config(args: argparse.Namespace, split: str) -> SourceConfig:
    """The source that the arguments name; `split` is used where they name none."""
    return SourceConfig(
        kind="dataset" if args.dataset else "folder",
        path=args.images,
        config_name=args.images_config,
        split=args.images_split or split,
        revision=args.images_revision,
        image_column=args.image_column,
        label_column=args.label_column,
        id_column=args.id_column,
        class_names=args.class_names,
        limit=args.limit,
    )


def labeled_images_of(args: argparse.Namespace, split: str) -> LabeledImages:
    """The images that the arguments name, with the labels of their own."""
    if not args.labels_column:
        return from_source(source_config(args, split))
    if not args.dataset:
        raise UsageError("--labels-column: only a dataset has columns; add --dataset")
    path = f"{args.images}@{args.images_revision}" if args.images_revision else args.images
    return from_dataset(
        path,
        args.images_split or split,
        config_name=args.images_config,
        labels_column=args.labels_column,
        image_column=args.image_column,
        id_column=args.id_column,
    )
