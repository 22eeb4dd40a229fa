"""What `fit` and `transfer` share around the loop: the output folder, the model, and the saved result."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from hf_relabel.errors import StageError, UsageError
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.run.store import differences, read_json, write_json
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.config import TrainingConfig
from hf_relabel.training.data import Examples
from hf_relabel.training.inference import open_accelerator
from hf_relabel.training.loop import CHECKPOINTS, last_checkpoint, train
from hf_relabel.training.models import (
    head_parameters,
    image_size_of,
    make_classifier,
    preprocessing_of,
)
from hf_relabel.training.targets import Targets

SETTINGS = "training.json"

_MAY_CHANGE = {"resume", "overwrite", "workers", "log_with", "checkpoint_every", "out"}
"""Settings that a resumed run may have otherwise than the run it goes on from."""


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """An accelerator with the settings' precision, accumulation and tracker.

    Whoever makes it calls its `end_training` when all is done: that ends the trackers and the group of processes.

    Raises:
        UsageError: The tracker is unknown or not installed, or fp16 is asked for without a GPU.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if config.log_with not in (None, "all", *map(str, LOGGER_TYPE_TO_CLASS)):
        raise UsageError(
            f"--log-with: no tracker {config.log_with!r}; accelerate knows {', '.join(LOGGER_TYPE_TO_CLASS)}"
        )
    accelerator = open_accelerator(
        config.mixed_precision,
        gradient_accumulation_steps=config.accumulation,
        log_with=config.log_with,
        project_dir=config.out,
    )
    if config.log_with and not accelerator.log_with:  # accelerate leaves out what is not installed, without a word
        raise UsageError(f"--log-with: the tracker {config.log_with!r} is not installed; install it with pip")
    return accelerator


def fit_classifier(
    images: LabeledImages,
    rows: np.ndarray,
    targets: Targets,
    class_names: Sequence[str],
    config: TrainingConfig,
    accelerator: Accelerator,
) -> tuple[PreTrainedModel, Any]:
    """Train a classifier on some images and save it, so that `pipeline("image-classification")` opens it.

    Args:
        images: Where the images come from.
        rows: The images to train on, N indices.
        targets: Targets of row 0 to N - 1.
        class_names: Names of the C classes.
        config: The settings.
        accelerator: From `make_accelerator`.

    Returns:
        The trained model and its preprocessing.

    Raises:
        StageError: The output folder holds another run's work.
        BackboneError: The model cannot be opened.
    """
    out = Path(config.out)
    torch.manual_seed(config.seed)
    model = make_classifier(
        config.model,
        config.revision,
        class_names,
        multi_label=config.loss != "cross_entropy",
        scratch=config.scratch,
        new_head=config.new_head,
    )
    trained = head_parameters(model) if config.freeze else dict(model.named_parameters())
    for name, parameter in model.named_parameters():
        # No classifier uses the token of masked pretraining, and several processes would wait for its gradient.
        parameter.requires_grad_(name in trained and not name.endswith("mask_token"))
    settings = {
        "settings": {key: value for key, value in dataclasses.asdict(config).items() if key not in _MAY_CHANGE},
        "architecture": {"type": model.config.model_type, "parameters": model.num_parameters()},
        "images": len(rows),
        "class_names": list(class_names),
    }
    prepare_folder(out, settings, config, accelerator)
    if config.log_with:  # only now: a tracker may write into the folder
        plain = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
        accelerator.init_trackers("hf_relabel", config=plain)
    preprocessing = preprocessing_of(config.model, config.image_size or image_size_of(model), config.revision)
    examples = Examples(images, rows, targets, Augmentation.of(config, preprocessing), config.seed)
    trained_model, history = train(model, examples, config, accelerator)
    if accelerator.is_main_process:
        trained_model.requires_grad_(True).cpu().save_pretrained(out)
        preprocessing.save(out)
        write_json(out / SETTINGS, settings | {"history": history, "finished": True})
    accelerator.wait_for_everyone()
    return trained_model, preprocessing


def prepare_folder(out: Path, settings: dict[str, Any], config: TrainingConfig, accelerator: Accelerator) -> None:
    """Make the output folder, or check that what it holds may be gone on from or replaced.

    Raises:
        StageError: It holds work, and the settings say neither to resume nor to overwrite; or they say to resume and
            the work was of another model or of other settings.
    """
    before = read_json(out / SETTINGS) if out.is_dir() else None
    if config.resume and before is not None:
        before = {key: before.get(key) for key in settings}
        if changed := differences(before, settings):
            raise StageError(
                f"{out}: cannot resume, its checkpoint is of another run ({'; '.join(changed[:3])}); "
                "use the settings it was begun with, or --overwrite"
            )
    elif out.is_dir() and any(out.iterdir()):
        if not config.overwrite:
            begun = last_checkpoint(out / CHECKPOINTS) is not None
            raise StageError(
                f"{out}: is not empty; choose another --out, or --{'resume or --' if begun else ''}overwrite"
            )
        if before is None:
            raise StageError(f"{out}: holds files that are no training run's; choose another --out")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not config.resume:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    if accelerator.is_main_process and (before is None or not config.resume):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / SETTINGS, settings)
    accelerator.wait_for_everyone()
