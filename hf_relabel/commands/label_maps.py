"""Make label maps of your own images with an image classifier; `score.method label_map` reads them.

hf-relabel label-maps microsoft/resnet-50 --images photos --out maps
hf-relabel run --source.path photos --score.method label_map --score.label_maps maps
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_relabel.commands.arguments import ImageSettings
from hf_relabel.commands.options import Command, option, positional
from hf_relabel.config import BackboneConfig
from hf_relabel.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LabelMapsSettings:
    """Label maps.

    Args:
        model: Classifier of transformers with global average pooling and a linear layer: folder or Hub id.
        revision: Branch, tag or commit of the classifier.
        images: The images.
        out: Folder of the maps.
        image_size: Side in pixels of the square that the whole image is resized to; by default 9/7 of the size
            that a convolutional model was made for, because a crop shows larger objects than the whole image.
        match_classes: `name` finds the images' classes among the model's classes by name; `index` assumes the same
            classes in the same order.
        top_k: Classes per cell of a map.
        batch_size: Images in one forward pass.
        workers: Processes that decode images.
        mixed_precision: Precision of the forward pass.
        overwrite: Make maps that exist again.
    """

    model: str = positional("MODEL")
    revision: str | None = option(None, "REVISION")
    images: ImageSettings
    out: Path | None = option(None, "FOLDER")
    image_size: int | None = None
    match_classes: Literal["name", "index"] = "name"
    top_k: int = 5
    batch_size: int = 32
    workers: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.images.images or self.out is None:
            raise UsageError("label-maps: give the images with --images and the folder of the maps with --out")
        if self.top_k < 1 or self.batch_size < 1 or self.workers < 0 or (self.image_size or 1) < 1:
            raise UsageError(
                "label-maps: --top-k, --batch-size and --image-size must be 1 or more, --workers 0 or more"
            )


def run(settings: LabelMapsSettings) -> int:
    """Run the command; returns the exit status."""
    images = settings.images.open_labeled("train")

    from hf_relabel.evaluation.predictions import match_classes
    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.training.cell_logits import check_head
    from hf_relabel.training.inference import open_accelerator
    from hf_relabel.training.label_maps import make_label_maps, map_size_of
    from hf_relabel.training.models import class_names_of, open_classifier, read_transform
    from hf_relabel.vision.pretrained import identify

    quiet_libraries()
    assert settings.out is not None
    model, _ = open_classifier(settings.model, settings.revision)
    size = settings.image_size or map_size_of(model)
    check_head(model, settings.model, size)
    names = class_names_of(model)
    columns = match_classes(names, images.class_names, settings.match_classes, settings.model)
    accelerator = open_accelerator(settings.mixed_precision)
    record: dict[str, Any] = {
        **identify(BackboneConfig(settings.model, revision=settings.revision), model.config),
        "image_size": size,
        "top_k": settings.top_k,
        "precision": settings.mixed_precision,
        "class_names": list(images.class_names),
    }
    made = make_label_maps(
        model,
        read_transform(settings.model, size, settings.revision),
        images,
        columns,
        settings.out,
        accelerator,
        settings=record,
        top_k=settings.top_k,
        batch_size=settings.batch_size,
        workers=settings.workers,
        overwrite=settings.overwrite,
    )
    if accelerator.is_main_process:
        several = " by this process" if accelerator.num_processes > 1 else ""
        print(f"{settings.out}: {made.written} label maps written{several}, {made.kept} were there")
        for reason, count in made.unreadable.most_common():
            print(f"{count} images have no map: {reason}")
        print(f"use them with: --score.method label_map --score.label_maps {settings.out}")
    accelerator.end_training()
    return 0


COMMANDS = {
    "label-maps": Command(
        name="label-maps",
        summary="make label maps with an image classifier, for score.method label_map",
        settings=LabelMapsSettings,
        run=run,
        description=__doc__ or "",
        common=("images", "out", "image_size", "match_classes"),
    )
}
