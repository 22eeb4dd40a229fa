"""What `fit` and `transfer` share: preparing the output folder and the model, training, and saving the result."""

import dataclasses
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_relabel.errors import StageError, UsageError
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.evaluation.report import low_scores_hint
from hf_relabel.run.store import differences, read_json, write_json
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.config import TrainingConfig
from hf_relabel.training.data import AugmentedImages
from hf_relabel.training.features import FEATURES, FeatureItems, StoredFeatures, Trunk, Views, compute_features
from hf_relabel.training.inference import open_accelerator
from hf_relabel.training.loop import CHECKPOINTS, last_checkpoint, train
from hf_relabel.training.losses import balanced_weights
from hf_relabel.training.models import (
    check_image_size,
    default_size_of,
    head_parameters,
    make_classifier,
    read_transform,
)
from hf_relabel.training.targets import WHOLE_IMAGE, KeptTargets, Targets
from hf_relabel.training.transform import ClassifierTransform
from hf_relabel.training.validation import (
    SELECTED_BY,
    ValidationPixels,
    ValidationSet,
    Validator,
    held_out,
    per_class,
)

SETTINGS = "training.json"

_MAY_CHANGE = {"resume", "overwrite", "workers", "log_with", "checkpoint_every", "out"}
"""Settings that may change when a run is resumed."""


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Make an accelerator with the precision, accumulation and tracker from the settings.

    The caller must call its `end_training` at the end, which closes the trackers and the process group.

    Raises:
        UsageError: The tracker is unknown or not installed, or fp16 is requested without a GPU.
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
    if config.log_with and not accelerator.log_with:  # accelerate silently drops a tracker that is not installed
        raise UsageError(f"--log-with: the tracker {config.log_with!r} is not installed; install it with pip")
    return accelerator


def fit_classifier(
    images: LabeledImages,
    rows: np.ndarray,
    targets: Targets,
    class_names: Sequence[str],
    config: TrainingConfig,
    accelerator: Accelerator,
    validation: ValidationSet | None = None,
) -> tuple[PreTrainedModel, ClassifierTransform]:
    """Train a classifier and save it in a form that `pipeline("image-classification")` opens.

    Args:
        images: The images.
        rows: Indices of the images to train on, int [N].
        targets: Targets of rows 0 to N - 1.
        class_names: Names of the C classes.
        config: The settings.
        accelerator: From `make_accelerator`.
        validation: Images to validate on; by default, a part of the images is held out (`config.holdout`).

    Returns:
        The trained model and its transform.

    Raises:
        StageError: The output folder contains other files or another run.
        BackboneError: The model cannot be loaded.
    """
    out = Path(config.out)
    used = np.arange(len(rows))
    if validation is None:
        is_held_out = held_out([images.image_ids[row] for row in rows], config.holdout, config.seed)
        used = np.flatnonzero(~is_held_out)
        if is_held_out.any():
            validation = ValidationSet.of(images, rows, targets, np.flatnonzero(is_held_out).tolist())
    torch.manual_seed(config.seed)
    model = make_classifier(
        config.model,
        config.revision,
        class_names,
        multi_label=config.loss != "cross_entropy",
        scratch=config.scratch,
        new_head=config.new_head,
    )
    size, why = default_size_of(model) if config.image_size is None else (config.image_size, "")
    check_image_size(model, size)
    trainable = head_parameters(model) if config.freeze else dict(model.named_parameters())
    for name, parameter in model.named_parameters():
        # Classifiers do not use the mask token of pretraining, and several processes would wait for its gradient.
        parameter.requires_grad_(name in trainable and not name.endswith("mask_token"))
    settings = {
        "settings": {key: value for key, value in dataclasses.asdict(config).items() if key not in _MAY_CHANGE},
        "architecture": {"type": model.config.model_type, "parameters": model.num_parameters()},
        "images": len(used),
        "validation_images": 0 if validation is None else len(validation.rows),
        "class_names": list(class_names),
    }
    prepare_folder(out, settings, config, accelerator)
    if config.log_with:  # after the folder is checked, because a tracker may write into it
        plain = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
        accelerator.init_trackers("hf_relabel", config=plain)
    if accelerator.is_main_process:
        held = f", {len(validation.rows)} to validate on" if validation is not None else ""
        print(f"{len(used)} images to train on{held}; images of {size} px{why}", file=sys.stderr, flush=True)
    transform = read_transform(config.model, size, config.revision)
    kept = KeptTargets(targets, used)
    augmentation = Augmentation.of(config, transform)
    trunk = Trunk.of(model, size) if config.freeze else None
    learner: torch.nn.Module = model
    items: Dataset = AugmentedImages(images, rows[used], kept, augmentation, config.seed)
    inputs: Callable[[int], torch.Tensor] | None = None
    if validation is not None:
        inputs = ValidationPixels(validation, transform)
    training = config
    if trunk is not None:
        learner = trunk.head
        items, inputs = _frozen(trunk, model, images, rows[used], kept, augmentation, validation, config, accelerator)
        training = dataclasses.replace(config, workers=0)  # a stored row is read faster than a worker passes it on
    elif config.freeze and accelerator.is_main_process:
        print("the model's head is not one module: it runs as a whole in every epoch", file=sys.stderr, flush=True)
    multi_label = config.loss != "cross_entropy"
    validator = None
    if validation is not None and inputs is not None:
        validator = Validator(validation, inputs, accelerator, config.batch_size, training.workers, multi_label)
    weights = None
    if config.class_weights == "balanced":
        totals = np.sum([kept(item, WHOLE_IMAGE) for item in range(len(used))], axis=0)
        weights = balanced_weights(torch.from_numpy(totals))
    result, history = train(learner, items, training, accelerator, validator, weights)
    report = {} if validator is None else _validation_report(validator, result, history, class_names, config)
    trained_model = cast(PreTrainedModel, result)
    if trunk is not None:
        trunk.head.load_state_dict(result.state_dict())
        trained_model = model
    if accelerator.is_main_process:
        trained_model.requires_grad_(True).cpu().save_pretrained(out)
        transform.save(out)
        write_json(out / SETTINGS, settings | report | {"history": history, "finished": True})
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(out / FEATURES, ignore_errors=True)
    return trained_model, transform


def _frozen(
    trunk: Trunk,
    model: PreTrainedModel,
    images: LabeledImages,
    rows: np.ndarray,
    targets: Targets,
    augmentation: Augmentation,
    validation: ValidationSet | None,
    config: TrainingConfig,
    accelerator: Accelerator,
) -> tuple[FeatureItems, StoredFeatures | None]:
    """Compute the features of a frozen model for the images to train and to validate on."""
    count = min(config.views, config.epochs)
    views = Views(images, rows, augmentation, count, config.seed)
    if accelerator.is_main_process:
        size = len(views) * 4 * math.prod(trunk.shape) / 1e6
        print(
            f"the features of {len(rows)} images are computed once, in {count} view{'s' * (count > 1)} each: "
            f"{size:,.1f} MB in {config.out}/{FEATURES} during the training",
            file=sys.stderr,
            flush=True,
        )
    folder = Path(config.out) / FEATURES
    settings = (accelerator, config.batch_size, config.workers)
    model.to(accelerator.device)  # type: ignore[arg-type]
    features = compute_features(trunk, views, folder / "train", *settings)
    inputs = None
    if validation is not None:
        whole = Views(validation.images, validation.rows, augmentation, 1, config.seed)
        inputs = compute_features(trunk, whole, folder / "val", *settings)
    model.cpu()  # only its head is trained
    return FeatureItems(features, len(rows), count, targets), inputs


def _validation_report(
    validator: Validator,
    model: torch.nn.Module,
    history: list[dict[str, float]],
    class_names: Sequence[str],
    config: TrainingConfig,
) -> dict[str, Any]:
    """What the saved weights reach on the validation images, also per class."""
    found, scores = validator(model)
    chosen = history[-1]
    if config.keep == "best":
        chosen = max(history, key=lambda row: row[SELECTED_BY])
    classes = per_class(scores, validator.truth, class_names, found["val_threshold"])
    if (scores < 0.5).all() and config.loss != "cross_entropy":
        print(low_scores_hint(float(scores.max()), 0.5, found["val_threshold"]), file=sys.stderr, flush=True)
    return {"validation": {"epoch": chosen["epoch"], **found, "per_class": classes}}


def prepare_folder(out: Path, settings: dict[str, Any], config: TrainingConfig, accelerator: Accelerator) -> None:
    """Create the output folder, or check that its content can be resumed or replaced.

    Raises:
        StageError: The folder is not empty and neither `resume` nor `overwrite` is set, it contains files that are not
            from a training run, or the run to resume has another model or other settings.
    """
    before = read_json(out / SETTINGS) if out.is_dir() else None
    if config.resume and before is not None:
        before = {key: before.get(key) for key in settings}
        if changed := differences(before, settings):
            raise StageError(
                f"{out}: cannot resume, its checkpoint is from a run with other settings ({'; '.join(changed[:3])}); "
                "use the original settings, or --overwrite"
            )
    elif out.is_dir() and any(out.iterdir()):
        if not config.overwrite:
            started = last_checkpoint(out / CHECKPOINTS) is not None
            raise StageError(
                f"{out}: is not empty; choose another --out, or --{'resume or --' if started else ''}overwrite"
            )
        if before is None:
            raise StageError(f"{out}: contains files that are not from a training run; choose another --out")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not config.resume:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    if accelerator.is_main_process and (before is None or not config.resume):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / SETTINGS, settings)
    accelerator.wait_for_everyone()
