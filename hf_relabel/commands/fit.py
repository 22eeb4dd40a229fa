"""Train an image classifier on a release's labels, joined with the images.

hf-relabel fit --release user/name@v1.0.0 --images train --model microsoft/resnet-50 --scratch --out resnet-50-multi
accelerate launch -m hf_relabel fit --config fit.yaml
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hf_relabel.commands.arguments import ImageSettings
from hf_relabel.commands.options import Command, option
from hf_relabel.errors import SourceError, UsageError
from hf_relabel.training.config import FitConfig

if TYPE_CHECKING:
    import numpy as np

    from hf_relabel.evaluation.datasets import LabeledImages
    from hf_relabel.release.label_table import LabelTable
    from hf_relabel.training.validation import ValidationSet


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Fit.

    Args:
        training: How to train, and on which labels.
        images: The release's images.
        val_images: Images of --val-split; by default those of --images, as a dataset of its split of that name.
    """

    training: FitConfig
    images: ImageSettings
    val_images: str | None = option(None, "PATH")

    def __post_init__(self) -> None:
        if not self.images.images:
            raise UsageError("--images: must be the folder or dataset with the release's images")
        if self.images.labels_column:
            raise UsageError("--labels-column: fit takes its labels from the release")
        if self.images.limit:
            raise UsageError("--limit: fit trains on all images of the release; name a smaller release")
        if self.val_images and not self.training.val_split:
            raise UsageError("--val-images: name the split of the release that they belong to with --val-split")


def run(settings: FitSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.evaluation.datasets import from_source
    from hf_relabel.hub.releases import load_labels

    config = settings.training
    table = load_labels(config.release, config.split, with_regions=config.crop_aware)
    images = from_source(settings.images.source_config(config.split or "train"))
    rows = join(table, images)

    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.training.fit import fit_classifier, make_accelerator
    from hf_relabel.training.targets import CropAwareTargets, ReleaseTargets

    quiet_libraries()
    of_release = ReleaseTargets(table, config.target, config.threshold, config.include_original)
    validation = _named_split(settings) if config.val_split else None
    targets = CropAwareTargets(table, of_release) if config.crop_aware else of_release
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        left = len(images) - len(rows)
        note = f"; {left} images that are not in the release are left out" if left else ""
        print(f"{len(rows)} images, {len(table.class_names)} classes, target {config.target}{note}", flush=True)
    fit_classifier(images, rows, targets, table.class_names, config, accelerator, validation)
    accelerator.end_training()
    if accelerator.is_main_process:
        print(f"the classifier is in {config.out}; evaluate it with: hf-relabel evaluate --model {config.out}")
    return 0


def _named_split(settings: FitSettings) -> "ValidationSet":
    """The images and labels of --val-split."""
    from hf_relabel.evaluation.datasets import from_source
    from hf_relabel.hub.releases import load_labels
    from hf_relabel.training.targets import ReleaseTargets
    from hf_relabel.training.validation import ValidationSet

    config = settings.training
    split = config.val_split or ""
    table = load_labels(config.release, split)
    where = replace(settings.images, images=settings.val_images or settings.images.images, images_split=None)
    images = from_source(where.source_config(split))
    targets = ReleaseTargets(table, config.target, config.threshold, config.include_original)
    return ValidationSet.of(images, join(table, images), targets, range(len(table)))


def join(table: "LabelTable", images: "LabeledImages") -> "np.ndarray":
    """Find the image of each row of a release by image id, int64 [N].

    Raises:
        SourceError: Rows without an image, or images with other classes.
    """
    import numpy as np

    from hf_relabel.evaluation.ground_truth import refuse_unknown

    if images.class_names != table.class_names:
        ours = [name for name in table.class_names if name not in set(images.class_names)][:3]
        theirs = [name for name in images.class_names if name not in set(table.class_names)][:3]
        raise SourceError(
            f"{table.origin}: has {len(table.class_names)} classes, {images.origin} has {len(images.class_names)} "
            f"(only in the release: {ours}; only in the images: {theirs}); name the images the release was made from"
        )
    places = {image_id: place for place, image_id in enumerate(images.image_ids)}
    refuse_unknown(table.image_ids, places, f"from {table.origin} are not among the images of {images.origin}")
    return np.array([places[image_id] for image_id in table.image_ids], dtype=np.int64)


COMMANDS = {
    "fit": Command(
        name="fit",
        summary="train an image classifier on a release",
        settings=FitSettings,
        run=run,
        description=__doc__ or "",
        common=("release", "images", "model", "out", "target", "epochs", "batch_size", "lr", "mixed_precision"),
    )
}
