"""Load and check pretrained ViTs from the Hub or a local folder; every failure is one line that says how to fix it.

No code from a checkpoint is ever run: `trust_remote_code` is off, and weights are safetensors or pickles that
transformers reads with its default `weights_only=True`.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

from hf_relabel.config import BackboneConfig
from hf_relabel.config.json_file import read_json
from hf_relabel.errors import BackboneError, RelabelError
from hf_relabel.vision import timm_weights
from hf_relabel.vision.model_sizes import check_sizes

ARCHITECTURES = {
    "dinov3_vit": "DINOv3ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_convnext": "DINOv3ConvNextModel",
    "vit": "ViTModel",
}
"""Supported values of transformers' `model_type` and the model class of each."""

CONVNEXT = "dinov3_convnext"
"""The `model_type` whose features are maps of stages instead of tokens of blocks."""

CONVNEXT_PATCH = 16
"""Pixels per side of a patch of its features: the stride of its third stage, to which the other maps are resized."""

CONVNEXT_STRIDE = 32
"""Stride of its last stage, of which the image size must be a multiple."""

MAX_MEAN = 1e6
"""Largest plausible mean or standard deviation of pixels; a whole number may be larger than any float."""

UNGATED = "facebook/dinov2-with-registers-large"

Channels = tuple[float, float, float]
"""One value per color channel."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")
"""Patterns of weight files, in the order in which transformers prefers them."""

MAX_NUMBERS = 50_000_000_000
"""Limit of a model's numbers where the size of its weights is not known before they are downloaded."""

MIN_BYTES = 1_000_000
"""Smaller weight files are not compared: such a model fits in memory whatever is missing."""

UNUSED = "embeddings.mask_token"
"""The only weight that may be missing from a checkpoint: no feature depends on it."""


def read_settings(config: BackboneConfig) -> Any:
    """Read the model's `config.json` as a transformers configuration.

    Raises:
        BackboneError: The file is missing, gated or damaged, or its architecture is not supported.
    """
    import transformers

    _refuse_other_files(Path(config.model))
    with as_backbone_error(config):
        path = _cached(config, timm_weights.CONFIG, config.revision)
        check_sizes(config, read_json(path) if path else None)
        settings = _read_timm_settings(config)
    if settings is not None:
        return settings
    with as_backbone_error(config):
        settings = transformers.AutoConfig.from_pretrained(
            config.model, revision=config.revision, trust_remote_code=False
        )
    if settings.model_type not in ARCHITECTURES:
        raise BackboneError(
            f"backbone.model: {config.model} is a {settings.model_type!r} model; "
            f"supported are {', '.join(ARCHITECTURES.values())}"
        )
    # transformers 4 collects these outputs by replacing methods of the model, which is not thread-safe.
    settings.output_hidden_states = False
    settings.output_attentions = False
    return settings


def _refuse_other_files(folder: Path) -> None:
    """Refuse what is neither a folder of a model nor a Hub id, and say what to give instead."""
    pickles = [folder] if folder.suffix in (".pth", ".pt") else sorted(folder.glob("*.pth")) if folder.is_dir() else []
    has_config = (folder / timm_weights.CONFIG).is_file()
    if pickles and not has_config and folder.exists():
        raise BackboneError(
            f"backbone.model: {pickles[0]} is a PyTorch pickle of the original code; give the same weights in the "
            "format of transformers or timm instead (on the Hub: facebook/dino*, timm/*dino*), or "
            "convert them with the conversion script of the same name in transformers"
        )
    if folder.is_file():
        raise BackboneError(f"backbone.model: {folder} is a file; give the folder that contains it")
    if folder.is_dir() and not has_config:
        raise BackboneError(f"backbone.model: {folder} has no config.json; give a folder written by save_pretrained")
    patterns = ("*.json", *WEIGHT_FILES)
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)) if folder.is_dir() else ():
        if not path.is_file():  # reading a pipe or a device may never end
            raise BackboneError(
                f"backbone.model: {path} is not a regular file; give a folder written by save_pretrained"
            )


def _check_weights(config: BackboneConfig, settings: Any) -> None:
    """Refuse a config.json for a model with more numbers than its weight files have bytes; nothing is allocated.

    Raises:
        BackboneError: The sizes do not fit together, or the weights are too few for them.
    """
    import transformers

    folder = Path(config.model)
    files = [path for pattern in WEIGHT_FILES for path in folder.glob(pattern)] if folder.is_dir() else []
    with as_backbone_error(config), torch.device("meta"):
        model: torch.nn.Module = transformers.AutoModel.from_config(settings)
    numbers, stored = sum(weight.numel() for weight in model.parameters()), sum(path.stat().st_size for path in files)
    if numbers > (max(MIN_BYTES, stored) if files else MAX_NUMBERS):
        raise BackboneError(
            f"backbone.model: config.json of {config.model} describes a model of {numbers:,} numbers, but its weights "
            f"have {stored:,} bytes; use a complete checkpoint of this architecture"
        )


def _cached(config: BackboneConfig, file: str, revision: str | None) -> Path | None:
    """A file of the model, downloaded if it is not local; None if the model has no such file."""
    from transformers.utils import cached_file

    path = cached_file(config.model, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None


def _read_timm_settings(config: BackboneConfig) -> Any:
    """The transformers configuration of a timm model; None for a model in the format of transformers."""
    from transformers.utils.hub import extract_commit_hash

    path = _cached(config, timm_weights.CONFIG, config.revision)
    values = timm_weights.read_timm_config(path) if path else None
    if values is None:
        return None
    commit = extract_commit_hash(str(path), None)
    settings = timm_weights.settings_of(config.model, values, _timm_weights(config, commit, shapes=True))
    settings._commit_hash = commit
    settings._timm = timm_weights.statistics_of(values)
    return settings


def _timm_weights(config: BackboneConfig, commit: str | None, *, shapes: bool) -> dict[str, Any]:
    """The weights of a timm model by name, or only their shapes."""
    from safetensors import safe_open

    path = _cached(config, timm_weights.WEIGHTS, commit or config.revision)
    if path is None:
        raise BackboneError(
            f"backbone.model: {config.model} has timm's config.json but no {timm_weights.WEIGHTS}; give a timm model "
            "with safetensors, or a folder written by save_pretrained"
        )
    with safe_open(path, "pt") as file:
        if shapes:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def patch_size_of(config: BackboneConfig, settings: Any) -> int:
    """Return the side of the model's patches in pixels.

    Raises:
        BackboneError: The patches are not square.
    """
    if settings.model_type == CONVNEXT:
        return CONVNEXT_PATCH
    stored = settings.patch_size
    sides = set(stored) if isinstance(stored, list | tuple) else {stored}
    if len(sides) != 1:
        raise BackboneError(
            f"backbone.model: {config.model} has patches of {list(stored)} pixels; only square patches work"
        )
    return int(sides.pop())


def size_step_of(config: BackboneConfig, settings: Any) -> int:
    """Return the number of pixels of which the image size must be a multiple."""
    return CONVNEXT_STRIDE if settings.model_type == CONVNEXT else patch_size_of(config, settings)


def widths_of(settings: Any) -> list[int]:
    """Return the number of channels of each block's output, or of each stage's."""
    if settings.model_type == CONVNEXT:
        return [int(width) for width in settings.hidden_sizes]
    return [int(settings.hidden_size)] * int(settings.num_hidden_layers)


def read_statistics(config: BackboneConfig, settings: Any) -> tuple[Channels, Channels]:
    """Read the channel means and standard deviations from the model's preprocessor_config.json.

    Without that file, timm's config.json may contain them; otherwise ImageNet's values apply. The file is read directly
    because the image processor of DINOv3 needs torchvision.

    Raises:
        BackboneError: The file cannot be loaded, or its values are not usable.
    """
    with as_backbone_error(config):
        path = _cached(config, "preprocessor_config.json", resolved_revision(config, settings))
        stored = read_json(path) if path else getattr(settings, "_timm", {})
    if not isinstance(stored, dict):
        raise BackboneError(
            f"backbone.model: preprocessor_config.json of {config.model} is not an object; use a complete checkpoint"
        )
    mean, std = stored.get("image_mean") or IMAGENET_MEAN, stored.get("image_std") or IMAGENET_STD
    if not (_is_three_numbers(mean) and _is_three_numbers(std) and min(std) > 0):
        raise BackboneError(
            f"backbone.model: preprocessor_config.json of {config.model} must have three numbers as image_mean and "
            f"three positive numbers as image_std, got {mean!r} and {std!r}"
        )
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def read_model(config: BackboneConfig, settings: Any, dtype: torch.dtype) -> torch.nn.Module:
    """Load the model with weights of type `dtype`, in evaluation mode, on the CPU.

    Raises:
        BackboneError: The weights are missing or damaged, or do not match `config.json`.
    """
    import transformers

    _check_weights(config, settings)
    # No feature depends on ViTModel's pooler, and DINO v1's checkpoints do not contain one.
    options = {"add_pooling_layer": False} if settings.model_type == "vit" else {}
    common = {
        "config": settings,
        # model.to(dtype) would also round DINOv3's rotary frequencies.
        "dtype": dtype,
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
        **options,
    }
    with as_backbone_error(config), quiet_transformers():
        if hasattr(settings, "_timm"):
            state = timm_weights.converted(
                config.model, _timm_weights(config, settings._commit_hash, shapes=False), settings
            )
            kind = getattr(transformers, ARCHITECTURES[settings.model_type])
            model, report = kind.from_pretrained(None, state_dict=state, **common)
        else:
            model, report = transformers.AutoModel.from_pretrained(
                config.model, revision=resolved_revision(config, settings), trust_remote_code=False, **common
            )
    missing = {key for key in report["missing_keys"] if key != UNUSED}
    wrong = sorted(missing | set(mismatched_names(report)))
    if wrong:
        raise BackboneError(
            f"backbone.model: the weights of {config.model} do not match its config.json: {len(wrong)} are missing or "
            f"have another shape (such as {wrong[0]}); use a complete checkpoint of this architecture"
        )
    return model.eval().requires_grad_(False)


def mismatched_names(report: dict[str, Any]) -> list[str]:
    """Names of weights with a wrong shape, from transformers' loading report (version 5 lists their shapes too)."""
    return [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]


def resolved_revision(config: BackboneConfig, settings: Any) -> str | None:
    """Commit that `config.json` was read from, so that all files come from the same one; None for a local folder."""
    return getattr(settings, "_commit_hash", None) or config.revision


def identify(config: BackboneConfig, settings: Any) -> dict[str, Any]:
    """Identify the weights: Hub id and commit, or a local folder's name and the hash of its weights."""
    folder = Path(config.model)
    if folder.is_dir():
        return {"model": folder.resolve().name, "revision": None, "weights_sha256": weights_sha256(folder)}
    return {"model": config.model, "revision": resolved_revision(config, settings)}


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the names and contents of a folder's weight files; independent of the folder's path."""
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
        and all(isinstance(number, int | float) and abs(number) <= MAX_MEAN for number in value)
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' notices about weights and architectures; those who load a model report what matters."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def as_backbone_error(config: BackboneConfig) -> Iterator[None]:
    """Raise a BackboneError for whatever is raised when a model cannot be found, read or built.

    transformers checks little: a damaged or hostile file makes it, torch or safetensors fail with nearly any class.
    """
    try:
        yield
    except RelabelError:
        raise
    except Exception as error:
        raise BackboneError(f"backbone.model: {_reason(config, error)}") from error


def _reason(config: BackboneConfig, error: Exception) -> str:
    """Say why a model could not be loaded and what to do; at most one line of the original error, without URLs."""
    name = config.model
    if Path(name).is_dir():
        return f"{name} does not contain a readable model ({_first_line(error)})"
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        return f"no folder {name}; give a folder written by save_pretrained, or a Hub id"
    page = f"https://huggingface.co/{name}"
    otherwise = f"or use the ungated {UNGATED}" if name != UNGATED else "or give a local folder"
    causes = _names_of_causes(error)
    if "GatedRepoError" in causes:
        return f"{name} is gated: request access at {page} and run `hf auth login`; {otherwise}"
    if "RevisionNotFoundError" in causes:
        return f"{name} has no revision {config.revision!r}; see {page}"
    if "RepositoryNotFoundError" in causes:
        return (
            f"no model {name} on the Hub, or it is private: check the name at {page}, or run `hf auth login`; "
            f"{otherwise}"
        )
    status = next((status for status in map(_status, _chain(error)) if status is not None), None)
    if status is not None and "LocalEntryNotFoundError" not in causes:
        return f"{name} cannot be loaded: the Hub answered {status}; try again, see {page}, {otherwise}"
    if causes & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError"}:
        where = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        return f"{name} is not in the local cache and {where}; connect, or give a local folder"
    return f"{name} cannot be loaded ({_first_line(error)}); see {page}, {otherwise}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _names_of_causes(error: BaseException) -> set[str]:
    """Class names of an error, its base classes and its causes.

    Names, because huggingface_hub has moved its error classes between versions.
    """
    return {kind.__name__ for cause in _chain(error) for kind in type(cause).__mro__}


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, KeyError):  # its text is nothing but the key
        line = f"{line} is not known, or missing"
    return re.sub(r"\w+://\S+", "...", line)[:160]
