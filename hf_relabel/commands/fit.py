"""Train an image classifier on a release's labels, joined with the images.

hf-relabel fit --release user/name@v1.0.0 --images train --model microsoft/resnet-50 --scratch --out resnet-50-multi
accelerate launch -m hf_relabel fit --config fit.yaml
"""

import argparse

import numpy as np

from hf_relabel.commands.arguments import add_source_arguments, source_config
from hf_relabel.commands.options import ConfigFile, add_settings, settings_from
from hf_relabel.errors import SourceError, UsageError
from hf_relabel.evaluation.datasets import LabeledImages, from_source
from hf_relabel.evaluation.ground_truth import refuse_unknown
from hf_relabel.release.table import LabelTable, load_labels
from hf_relabel.training.config import FitConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", action=ConfigFile, metavar="FILE.yaml", help="file with any of these settings")
    add_source_arguments(parser)
    add_settings(parser, FitConfig, "training")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    config = settings_from(FitConfig, args)
    if not args.images:
        raise UsageError("--images: must be the folder or dataset with the release's images")
    if args.labels_column:
        raise UsageError("--labels-column: fit takes its labels from the release")
    if args.limit:
        raise UsageError("--limit: fit trains on all images of the release; name a smaller release")
    table = load_labels(config.release, config.split, with_regions=config.crop_aware)
    images = from_source(source_config(args, config.split or "train"))
    rows = join(table, images)

    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.training.fit import fit_classifier, make_accelerator
    from hf_relabel.training.targets import CropAwareTargets, ReleaseTargets

    quiet_libraries()
    targets = ReleaseTargets(table, config.target, config.threshold, config.include_original)
    if config.crop_aware:
        targets = CropAwareTargets(table, targets)
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        left = len(images) - len(rows)
        note = f"; {left} images that the release does not list are left out" if left else ""
        print(f"{len(rows)} images, {len(table.class_names)} classes, target {config.target}{note}", flush=True)
    fit_classifier(images, rows, targets, table.class_names, config, accelerator)
    accelerator.end_training()
    if accelerator.is_main_process:
        print(f"the classifier is in {config.out}; hf-relabel evaluate --model {config.out} measures it")
    return 0


def join(table: LabelTable, images: LabeledImages) -> np.ndarray:
    """The image of each row of a release, int64 [N], by image id.

    Raises:
        SourceError: Rows without an image, or images of other classes.
    """
    if images.class_names != table.class_names:
        ours = [name for name in table.class_names if name not in set(images.class_names)][:3]
        theirs = [name for name in images.class_names if name not in set(table.class_names)][:3]
        raise SourceError(
            f"{table.origin}: has {len(table.class_names)} classes, {images.origin} has {len(images.class_names)} "
            f"(only there: {ours}; only here: {theirs}); give the images it was made of"
        )
    places = {image_id: place for place, image_id in enumerate(images.image_ids)}
    refuse_unknown(table.image_ids, places, f"of {table.origin} are not among the images of {images.origin}")
    return np.array([places[image_id] for image_id in table.image_ids], dtype=np.int64)
