"""Image classifiers from transformers: loading one to evaluate, making one to train, and its input transform."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

# Imported from its module because, without torchvision, transformers 5.17 exports a placeholder under the short name.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import cached_file, logging

from hf_relabel.config.json_file import read_json
from hf_relabel.errors import BackboneError
from hf_relabel.training.transform import ClassifierTransform
from hf_relabel.vision.pretrained import IMAGENET_MEAN, IMAGENET_STD, mismatched_names

MULTI_LABEL, SINGLE_LABEL = "multi_label_classification", "single_label_classification"
"""Values of `problem_type` in a model's configuration."""

DEFAULT_SIZE = 224
"""Maximum size by default of an image that is trained on, in pixels; a multiple of 8, 14, 16 and 32."""

TAKES_ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext")
"""Model types that interpolate their position embeddings, or have none."""


def open_classifier(name: str, revision: str | None = None) -> tuple[PreTrainedModel, Any]:
    """Load a trained classifier and its image processor.

    Args:
        name: Hub id or local folder.
        revision: Branch, tag or commit on the Hub.

    Raises:
        BackboneError: The model is not an image classifier, its weights are incomplete, or it has no image processor.
    """
    model, info = _from_pretrained(name, revision, ignore_mismatched_sizes=True)
    unfit = sorted(info["missing_keys"]) or mismatched_names(info)
    if unfit:
        raise BackboneError(
            f"{name}: its weights do not match its config.json, {len(unfit)} are missing or have another shape (such "
            f"as {unfit[0]}); it is a backbone without a trained head, or a checkpoint of another architecture"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"{name}: its image processor cannot be loaded ({reason})") from error
    return model.eval(), processor


def class_names_of(model: PreTrainedModel) -> list[str]:
    """The class names of a classifier, in the order of its outputs."""
    id2label = cast(dict[int, str], model.config.id2label)
    return [id2label[index] for index in range(len(id2label))]


def make_classifier(
    name: str, revision: str | None, class_names: Sequence[str], multi_label: bool, scratch: bool, new_head: bool
) -> PreTrainedModel:
    """Make a classifier for these classes, to be trained.

    Args:
        name: Hub id or local folder of a model, or a `config.json`, which is always trained from scratch.
        revision: Branch, tag or commit on the Hub.
        class_names: Names of the C classes.
        multi_label: Whether classes are independent; `pipeline` then applies a sigmoid.
        scratch: Use the configuration only, with random weights.
        new_head: Start with a new head even if the model was trained on the same classes.

    Raises:
        BackboneError: The model does not exist, is not an image classifier, or has weights of another architecture.
    """
    settings = {
        "id2label": dict(enumerate(class_names)),
        "label2id": {class_name: index for index, class_name in enumerate(class_names)},
        "problem_type": MULTI_LABEL if multi_label else SINGLE_LABEL,
    }
    if scratch or name.endswith(".json"):
        config = _config(name, revision, settings)
        try:
            return AutoModelForImageClassification.from_config(config)
        except ValueError as error:
            raise BackboneError(
                f"{name}: transformers has no image classifier of type {config.model_type!r}"
            ) from error
    before = _config(name, revision, {})
    old_names = [before.id2label.get(index) for index in range(before.num_labels)]
    model, info = _from_pretrained(name, revision, ignore_mismatched_sizes=True, **settings)
    head = head_parameters(model)
    absent = sorted(key for key in [*info["missing_keys"], *mismatched_names(info)] if key not in head)
    if absent:
        raise BackboneError(
            f"{name}: {len(absent)} weights of its {before.model_type} are missing or have another shape (such as "
            f"{absent[0]}); the checkpoint has another architecture than its config.json"
        )
    if new_head or old_names != list(class_names):
        for module in model.modules():
            if any(id(parameter) in map(id, head.values()) for parameter in module.parameters(recurse=False)):
                cast(torch.nn.Linear, module).reset_parameters()
    return model


def head_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters of the classification head by name: of the modules with a layer whose size is that of the classes.

    Those outside the model's `base_model_prefix` can be more: CLIP's classifier has no base model of that name.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = len(class_names_of(model)) + 1
    with torch.device("meta"):  # needs no memory
        larger = dict(type(model)(config).named_parameters())
    base = model.base_model_prefix
    heads = set()
    for name, value in model.named_parameters():
        if value.shape != larger[name].shape:
            child = name.partition(".")[0]
            heads.add(f"{name.rpartition('.')[0] if child == base else child}.")
    return {name: value for name, value in model.named_parameters() if name.startswith(tuple(heads))}


def image_size_of(model: PreTrainedModel) -> int:
    """The image size from a model's configuration in pixels; 224 if it has none."""
    vision = getattr(model.config, "vision_config", model.config)  # of CLIP and SigLIP
    size = getattr(vision, "image_size", None) or 224
    return size if isinstance(size, int) else size[0]


def default_size_of(model: PreTrainedModel) -> tuple[int, str]:
    """The image size to train with in pixels, and the reason if it is not the one the model was made for.

    The time of a step grows with the square of the size, and DINOv2's 518 px take minutes per step on a CPU.
    """
    made_for = image_size_of(model)
    if model.config.model_type not in TAKES_ANY_SIZE or made_for <= DEFAULT_SIZE:
        return made_for, ""
    return DEFAULT_SIZE, f" (the model was made for {made_for}: --image-size {made_for} is slower and more precise)"


def check_image_size(model: PreTrainedModel, size: int) -> None:
    """Try an image of another size than the model was made for.

    Raises:
        BackboneError: The model does not take it.
    """
    made_for = image_size_of(model)
    if size == made_for:
        return
    try:
        with torch.inference_mode():
            model.eval()(pixel_values=torch.zeros(1, 3, size, size))
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:160].rstrip(".")
        raise BackboneError(
            f"--image-size {size}: this {model.config.model_type} takes other sizes ({reason}); leave the option out "
            f"for {made_for} px"
        ) from error


def read_transform(name: str, size: int, revision: str | None = None) -> ClassifierTransform:
    """Make the transform of a model from its `preprocessor_config.json`, or from ImageNet's statistics without one.

    Args:
        name: Hub id, local folder, or a `config.json`, which has no such file.
        size: Side of the square images in pixels.
        revision: Branch, tag or commit on the Hub.

    Raises:
        BackboneError: The file cannot be read.
    """
    stored: dict[str, Any] = {}
    if not name.endswith(".json"):
        try:
            settings = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
            file = cached_file(name, "preprocessor_config.json", **settings)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise BackboneError(f"{name}: its preprocessor_config.json cannot be read ({reason})") from error
        stored = read_json(Path(file)) if file else {}
    mean, std = stored.get("image_mean", IMAGENET_MEAN), stored.get("image_std", IMAGENET_STD)
    return ClassifierTransform(size, tuple(mean), tuple(std))


def _refuse_missing(name: str) -> None:
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise BackboneError(f"{name}: no such folder; give a local folder or a Hub id")


def _config(name: str, revision: str | None, settings: dict[str, Any]) -> Any:
    _refuse_missing(name)
    try:
        return AutoConfig.from_pretrained(name, revision=revision, **settings)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"{name}: its model configuration cannot be read ({reason})") from error


def _from_pretrained(name: str, revision: str | None, **settings: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    _refuse_missing(name)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # hides its report of missing weights; our errors explain what they mean
    try:
        return AutoModelForImageClassification.from_pretrained(
            name, revision=revision, output_loading_info=True, use_safetensors=True, dtype=torch.float32, **settings
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise BackboneError(f"{name}: cannot be loaded as an image classifier ({reason})") from error
    finally:
        logging.set_verbosity(level)
