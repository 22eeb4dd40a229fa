"""Settings that suit a backbone, chosen by its type, so that users need not know them.

A value of `auto` or null in the configuration is replaced by what a checkpoint recommends for itself, under the key
`hf_relabel` of its config.json, and otherwise by what suits its family (`FAMILIES`). For example:

    "hf_relabel": {"proposal_feature": {"kind": "token", "block": -3}, "tau": 0.4, "image_size": 448}
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from hf_relabel.config import BackboneConfig, Config, FeatureConfig, FeatureKind, ProposeConfig
from hf_relabel.errors import BackboneError, UsageError
from hf_relabel.vision.pretrained import patch_size_of, read_settings

KEY = "hf_relabel"
"""Key of a checkpoint's config.json under which it recommends settings."""

LAST_BLOCK = -1

_KEYS = FeatureConfig(kind="key", block=LAST_BLOCK, norm=True)
_TOKENS = FeatureConfig(kind="token", block=LAST_BLOCK, norm=True)


@dataclass(frozen=True)
class Recommended:
    """Settings that suit a backbone, without any null.

    Args:
        proposal_feature: Patch features that MaskCut uses.
        region_feature: Patch features that are pooled for the labeler.
        tau: Similarity above which MaskCut connects two patches.
        image_size: Side of the resized image in pixels; None takes `IMAGE_SIZES`.
    """

    proposal_feature: FeatureConfig = _KEYS
    region_feature: FeatureConfig = _TOKENS
    tau: float = 0.4
    image_size: int | None = None


FAMILIES = {
    # Features and size of arXiv 2603.05729. Its code uses taus from 0.12 to 0.75; 0.4 lies between, not measured.
    "dinov3_vit": Recommended(),
    # The same feature and tau. Not measured: the only DINOv2 tried is a fine-tuned one, which recommends its own.
    "dinov2": Recommended(),
    "dinov2_with_registers": Recommended(),
    # Not measured: the map with the finest meaning that has the grid's size, and the last one for the classes.
    "dinov3_convnext": Recommended(
        proposal_feature=FeatureConfig(kind="token", block=-2, norm=False), region_feature=_TOKENS
    ),
    # MaskCut's own setting in CutLER (Wang et al., CVPR 2023) for DINO ViT-B/8: the last block's keys, tau 0.15. For
    # any other ViT tau may be far off, and then only merging, which needs none, gives proposals.
    "vit": Recommended(tau=0.15),
}
"""What suits each supported `model_type` of transformers."""

IMAGE_SIZES = {16: 512, 14: 448, 8: 480}
"""Side of the image by the side of a patch, in pixels.

16: as in arXiv 2603.05729. 14: the same 32 patches per side; measured on VOC 2012 and COCO. 8: as in CutLER."""

PATCHES_PER_SIDE = 32
"""Patches per side for any other patch size."""


def recommend(config: BackboneConfig, settings: Any) -> Recommended:
    """Return what suits a model.

    Args:
        config: Names the model, for messages.
        settings: What `pretrained.read_settings` returned for it.

    Raises:
        BackboneError: The model's own recommendation is not valid, or its patches are not square.
    """
    found = FAMILIES[settings.model_type]
    own = getattr(settings, KEY, None)
    if own is not None:
        found = dataclasses.replace(found, **_checked(config, own))
    if found.image_size is None:
        patch = patch_size_of(config, settings)
        found = dataclasses.replace(found, image_size=IMAGE_SIZES.get(patch, PATCHES_PER_SIDE * patch))
    return found


def resolve_backbone(config: BackboneConfig, settings: Any) -> BackboneConfig:
    """Replace every `auto` and null of the backbone's features and image size by what suits the model.

    `region_feature` and `region_image_size` are what suits `region_model`, if there is one. Arguments and errors as in
    `recommend`.
    """
    found = recommend(config, settings)
    of_regions, region_size = found, None
    if config.region_model is not None:
        with _as_region_model():
            region = parts_of(config)[1]
            assert region is not None
            of_regions = recommend(region, read_settings(region))
            region_size = config.region_image_size or of_regions.image_size
    return dataclasses.replace(
        config,
        image_size=config.image_size or found.image_size,
        proposal_feature=_resolve(config.proposal_feature, found.proposal_feature),
        region_feature=_resolve(config.region_feature, of_regions.region_feature),
        region_image_size=region_size,
    )


def parts_of(config: BackboneConfig) -> tuple[BackboneConfig, BackboneConfig | None]:
    """The configurations of the model for proposals and of that for regions; None if it is the same model.

    With two models, proposals by merging use the first one's recommended `region_feature`.
    """
    if config.region_model is None:
        return config, None
    alone = dataclasses.replace(config, region_model=None, region_revision=None, region_image_size=None)
    region = dataclasses.replace(
        alone,
        model=config.region_model,
        revision=config.region_revision,
        image_size=config.region_image_size,
        proposal_feature=config.region_feature,
    )
    return dataclasses.replace(alone, region_feature=FeatureConfig()), region


@contextlib.contextmanager
def _as_region_model() -> Iterator[None]:
    """Name `backbone.region_model` instead of `backbone.model` in errors."""
    try:
        yield
    except BackboneError as error:
        raise BackboneError(str(error).replace("backbone.model", "backbone.region_model", 1)) from error


def resolve(config: Config) -> Config:
    """Replace every setting that depends on the backbone and is `auto` or null; reads the model's config.json.

    Raises:
        BackboneError: The model cannot be found or is not supported, or its recommendation is not valid.
    """
    settings = read_settings(config.backbone)
    backbone, tau = resolve_backbone(config.backbone, settings), config.propose.tau
    if tau is None:
        tau = recommend(config.backbone, settings).tau
    return dataclasses.replace(config, backbone=backbone, propose=dataclasses.replace(config.propose, tau=tau))


def _resolve(feature: FeatureConfig, found: FeatureConfig) -> FeatureConfig:
    """Fill in a feature; once its kind is given, the recommended block and norm do not belong to it."""
    if feature.kind != "auto":
        found = FeatureConfig(kind=feature.kind, block=LAST_BLOCK, norm=True)
    return FeatureConfig(
        kind=found.kind,
        block=found.block if feature.block is None else feature.block,
        norm=found.norm if feature.norm is None else feature.norm,
    )


def _checked(config: BackboneConfig, own: Any) -> dict[str, Any]:
    """Return a checkpoint's recommendation as arguments of `Recommended`."""
    where = f"backbone.model: {config.model}: {KEY} in config.json"
    fields = _dictionary(own, f"{where} must have", [field.name for field in dataclasses.fields(Recommended)])
    for name in ("proposal_feature", "region_feature"):
        if name in fields:
            fields[name] = _feature(fields[name], f"{where}: {name}")
    try:
        if "image_size" in fields and not (type(fields["image_size"]) is int and fields["image_size"] > 0):
            raise UsageError(f"image_size must be a positive number of pixels, got {fields['image_size']!r}")
        if "tau" in fields:
            if type(fields["tau"]) not in (int, float):
                raise UsageError(f"tau must be a number, got {fields['tau']!r}")
            ProposeConfig(tau=fields["tau"])
    except UsageError as error:
        raise BackboneError(f"{where}: {error}") from error
    return fields


def _feature(value: Any, where: str) -> FeatureConfig:
    fields = _dictionary(value, f"{where} must have", [field.name for field in dataclasses.fields(FeatureConfig)])
    kinds = [kind for kind in get_args(FeatureKind) if kind != "auto"]
    if fields.get("kind") not in kinds:
        raise BackboneError(f"{where}: kind must be one of {', '.join(kinds)}, got {fields.get('kind')!r}")
    if type(fields.get("block", LAST_BLOCK)) is not int or type(fields.get("norm", True)) is not bool:
        raise BackboneError(f"{where}: block must be a whole number and norm true or false, got {value!r}")
    return FeatureConfig(**{"block": LAST_BLOCK, "norm": True, **fields})


def _dictionary(value: Any, where: str, keys: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(value) <= set(keys):
        raise BackboneError(f"{where} keys from {', '.join(keys)}, got {value!r}")
    return dict(value)
