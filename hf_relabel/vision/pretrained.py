"""Pretrained ViTs on the Hub or in a folder: found, checked, opened, or refused in one line that says what to do.

No code of a checkpoint is ever run: `trust_remote_code` is off, weights are safetensors, or else pickles read with
transformers' own default `weights_only=True`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError

from hf_relabel.config import BackboneConfig
from hf_relabel.errors import BackboneError

ARCHITECTURES = {
    "dinov3_vit": "DINOv3ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "vit": "ViTModel",
}
"""transformers' `model_type` of what is supported, and the class it stands for."""

UNGATED = "facebook/dinov2-with-registers-large"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")
"""Kinds of weight files in the order of transformers' preference."""

UNUSED = "embeddings.mask_token"
"""The only weight that a checkpoint may lack: a training target that no feature depends on."""


def read_settings(config: BackboneConfig) -> Any:
    """The model's `config.json`, of a supported architecture, as transformers' configuration.

    Raises:
        BackboneError: It is missing, gated, damaged, or of another architecture.
    """
    import transformers

    folder = Path(config.model)
    if folder.is_file():
        raise BackboneError(f"backbone.model: {config.model} is a file; name the folder it lies in")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise BackboneError(f"backbone.model: {folder} has no config.json; name a folder made by save_pretrained")
    with _told_in_one_line(config):
        settings = transformers.AutoConfig.from_pretrained(
            config.model, revision=config.revision, trust_remote_code=False
        )
    if settings.model_type not in ARCHITECTURES:
        raise BackboneError(
            f"backbone.model: {config.model} is a {settings.model_type!r} model; "
            f"supported are {', '.join(ARCHITECTURES.values())}"
        )
    # Asked for, transformers 4 collects them by swapping methods of the model, which threads must not share.
    settings.output_hidden_states = False
    settings.output_attentions = False
    return settings


def read_statistics(config: BackboneConfig, settings: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels, from the model's preprocessor_config.json; ImageNet's without one.

    The file is read here because the image processor of DINOv3 cannot be built without torchvision.

    Raises:
        BackboneError: The file cannot be had, or is not what it should be.
    """
    from transformers.utils import cached_file

    with _told_in_one_line(config):
        path = cached_file(
            config.model,
            "preprocessor_config.json",
            revision=resolved_revision(config, settings),
            _raise_exceptions_for_missing_entries=False,
        )
        stored = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    values = stored if isinstance(stored, dict) else {}
    mean, std = values.get("image_mean") or IMAGENET_MEAN, values.get("image_std") or IMAGENET_STD
    if not (_is_three_numbers(mean) and _is_three_numbers(std) and min(std) > 0):
        raise BackboneError(
            f"backbone.model: preprocessor_config.json of {config.model} must hold three numbers as image_mean and "
            f"three above 0 as image_std, got {mean!r} and {std!r}"
        )
    return tuple(mean), tuple(std)


def read_model(config: BackboneConfig, settings: Any, dtype: torch.dtype) -> torch.nn.Module:
    """The model with its weights in a precision, in evaluation mode, on the CPU.

    Raises:
        BackboneError: The weights are missing, damaged, or do not fit `config.json`.
    """
    import transformers

    # The pooler of ViTModel is no part of any feature, and DINO v1's checkpoints do not hold one.
    options = {"add_pooling_layer": False} if settings.model_type == "vit" else {}
    with _told_in_one_line(config), _without_report():
        model, report = transformers.AutoModel.from_pretrained(
            config.model,
            config=settings,
            revision=resolved_revision(config, settings),
            # Not model.to(dtype), which would round DINOv3's rotary frequencies too.
            dtype=dtype,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    missing = {key for key in report["missing_keys"] if key != UNUSED}
    wrong = sorted(missing | set(mismatched_names(report)))
    if wrong:
        raise BackboneError(
            f"backbone.model: the weights of {config.model} do not fit its config.json, {len(wrong)} are missing or of "
            f"another shape (such as {wrong[0]}); it is incomplete, or a checkpoint of another architecture"
        )
    return model.eval().requires_grad_(False)


def mismatched_names(report: dict[str, Any]) -> list[str]:
    """Names of the weights of another shape, from transformers' loading report: version 5 tells the shapes too."""
    return [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]


def resolved_revision(config: BackboneConfig, settings: Any) -> str | None:
    """The commit that `config.json` came from, so that all files of a model belong together; None of a folder."""
    return getattr(settings, "_commit_hash", None) or config.revision


def identify(config: BackboneConfig, settings: Any) -> dict[str, Any]:
    """Which weights these are: Hub id and commit, or a folder's name and the hash of its weights."""
    folder = Path(config.model)
    if folder.is_dir():
        return {"model": folder.resolve().name, "revision": None, "weights_sha256": weights_sha256(folder)}
    return {"model": config.model, "revision": resolved_revision(config, settings)}


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's weight files, wherever the folder lies."""
    kinds = [sorted(folder.glob(pattern)) for pattern in WEIGHT_FILES]
    digest = hashlib.sha256()
    for path in next(filter(None, kinds), []):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _is_three_numbers(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
    )


@contextmanager
def _without_report() -> Iterator[None]:
    """Keeps back transformers' own table of missing weights; what matters of it is told in one line."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _told_in_one_line(config: BackboneConfig) -> Iterator[None]:
    """Makes a BackboneError of whatever transformers raises where a model cannot be found or read."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
        raise BackboneError(f"backbone.model: {_reason(config, error)}") from error


def _reason(config: BackboneConfig, error: Exception) -> str:
    """Why a model could not be had and what to do. Of the error's own text at most a line is told, without URLs."""
    name = config.model
    if Path(name).is_dir():
        return f"{name} does not hold a readable model ({_first_line(error)})"
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        return f"no folder {name}; name a folder made by save_pretrained, or a Hub id"
    page = f"https://huggingface.co/{name}"
    otherwise = f"or use the ungated {UNGATED}" if name != UNGATED else "or name a local folder"
    causes = _names_of_causes(error)
    if "GatedRepoError" in causes:
        return f"{name} is gated: ask for access at {page}, then `hf auth login`; {otherwise}"
    if "RevisionNotFoundError" in causes:
        return f"{name} has no revision {config.revision!r}; see {page}"
    if "RepositoryNotFoundError" in causes:
        return (
            f"no model {name} on the Hub, or it is private: check the name at {page}, `hf auth login` if it is yours; "
            f"{otherwise}"
        )
    status = next((status for status in map(_status, _chain(error)) if status is not None), None)
    if status is not None and "LocalEntryNotFoundError" not in causes:
        return f"{name} cannot be loaded, the Hub answered {status}; try again, see {page}, {otherwise}"
    if causes & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError"}:
        where = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        return f"{name} is not in the local cache and {where}; connect, or name a local folder"
    return f"{name} cannot be loaded ({_first_line(error)}); see {page}, {otherwise}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _names_of_causes(error: BaseException) -> set[str]:
    """Class names of an error, its bases and its causes; huggingface_hub's classes have moved between versions."""
    return {kind.__name__ for cause in _chain(error) for kind in type(cause).__mro__}


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\w+://\S+", "...", line)[:160]
