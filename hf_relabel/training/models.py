"""Image classifiers of transformers: opening one to evaluate, making one to train, saving it for `pipeline`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

# By its module: without torchvision, transformers 5.17 has a placeholder under its shorter name.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import cached_file, logging

from hf_relabel.errors import BackboneError
from hf_relabel.run.store import write_json
from hf_relabel.vision.pretrained import mismatched_names

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MULTI_LABEL, SINGLE_LABEL = "multi_label_classification", "single_label_classification"


@dataclass(frozen=True)
class Preprocessing:
    """How pixels reach a classifier that we train: resized to a square of `size`, scaled by mean and deviation."""

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """RGB image of any size -> float32 [3, size, size]."""
        square = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).reshape(self.size, self.size, 3)
        scaled = pixels.permute(2, 0, 1).float() / 255
        return (scaled - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`: the same steps as transformers' image processor of ViT does."""
        value = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            "resample": int(Image.Resampling.BILINEAR),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        write_json(folder / "preprocessor_config.json", value)


def open_classifier(name: str, revision: str | None = None) -> tuple[PreTrainedModel, Any]:
    """A trained classifier and its image processor.

    Args:
        name: Hub id or local folder.
        revision: Branch, tag or commit on the Hub.

    Raises:
        BackboneError: It is no image classifier, its weights are incomplete, or it has no image processor.
    """
    model, info = _from_pretrained(name, revision, ignore_mismatched_sizes=True)
    unfit = sorted(info["missing_keys"]) or mismatched_names(info)
    if unfit:
        raise BackboneError(
            f"{name}: its weights do not fit its config.json, {len(unfit)} are missing or of another shape (such as "
            f"{unfit[0]}); it is a backbone without a trained head, or a checkpoint of another architecture"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"{name}: its image processor cannot be opened ({reason})") from error
    return model.eval(), processor


def class_names_of(model: PreTrainedModel) -> list[str]:
    """The classifier's class names in the order of its outputs."""
    return [model.config.id2label[index] for index in range(model.config.num_labels)]


def make_classifier(
    name: str, revision: str | None, class_names: Sequence[str], multi_label: bool, scratch: bool, new_head: bool
) -> PreTrainedModel:
    """A classifier of these classes to train.

    Args:
        name: Hub id or local folder of a model, or a `config.json`, which is always trained from scratch.
        revision: Branch, tag or commit on the Hub.
        class_names: Names of the C classes.
        multi_label: Whether each class is a yes or no of its own; `pipeline` then applies the sigmoid.
        scratch: Use the configuration only, with random weights.
        new_head: Start with a new head even if the model was trained on the same classes.

    Raises:
        BackboneError: No such model, no image classifier, or weights of another architecture.
    """
    settings = {
        "num_labels": len(class_names),
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
            f"{name}: {len(absent)} weights of its {before.model_type} are missing or of another shape (such as "
            f"{absent[0]}); it is a checkpoint of another architecture than its config.json says"
        )
    if new_head or old_names != list(class_names):
        for module in model.modules():
            if any(id(parameter) in map(id, head.values()) for parameter in module.parameters(recurse=False)):
                module.reset_parameters()
    return model


def head_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters outside the base model, by name: the classification head."""
    prefix = f"{model.base_model_prefix}."
    return {name: value for name, value in model.named_parameters() if not name.startswith(prefix)}


def image_size_of(model: PreTrainedModel) -> int:
    """The side of the square images a model was made for; 224 where its configuration does not say."""
    size = getattr(model.config, "image_size", None) or 224
    return size if isinstance(size, int) else size[0]


def preprocessing_of(name: str, size: int, revision: str | None = None) -> Preprocessing:
    """Mean and deviation of a model's `preprocessor_config.json`, ImageNet's where it has none.

    Args:
        name: Hub id, local folder, or a `config.json`, which has none.
        size: Side of the square images in pixels.
        revision: Branch, tag or commit on the Hub.

    Raises:
        BackboneError: The Hub cannot be asked.
    """
    stored = {}
    if not name.endswith(".json"):
        try:
            settings = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
            file = cached_file(name, "preprocessor_config.json", **settings)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise BackboneError(f"{name}: its preprocessor_config.json cannot be read ({reason})") from error
        stored = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    mean, std = stored.get("image_mean", IMAGENET_MEAN), stored.get("image_std", IMAGENET_STD)
    return Preprocessing(size, tuple(mean), tuple(std))


def _refuse_missing(name: str) -> None:
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise BackboneError(f"{name}: no such folder; name a local model or one on the Hub")


def _config(name: str, revision: str | None, settings: dict[str, Any]) -> Any:
    _refuse_missing(name)
    try:
        return AutoConfig.from_pretrained(name, revision=revision, **settings)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"{name}: no model's configuration could be read ({reason})") from error


def _from_pretrained(name: str, revision: str | None, **settings: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    _refuse_missing(name)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of missing weights; ours says what it means
    try:
        return AutoModelForImageClassification.from_pretrained(
            name, revision=revision, output_loading_info=True, use_safetensors=True, dtype=torch.float32, **settings
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise BackboneError(f"{name}: cannot be loaded as an image classifier ({reason})") from error
    finally:
        logging.set_verbosity(level)
