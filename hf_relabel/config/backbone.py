"""Settings of the backbone and of the features that it gives."""

from dataclasses import dataclass, field
from typing import Literal

from hf_relabel.config.checks import require

REGION_BACKBONE = "region_backbone"
"""Key of a backbone's identity with the identity of the second one, `backbone.region_model`, if there is one."""

FeatureKind = Literal["auto", "key", "query", "value", "token"]


@dataclass(frozen=True)
class FeatureConfig:
    """Activations of the ViT that represent a patch.

    Args:
        kind: `key`, `query` or `value` of a block's attention, or `token`, the block's output; `auto` takes what suits
            the model.
        block: Index of the block (of the stage, for a ConvNeXt) from 0; a negative index counts from the end, -1 is the
            last block. null: the block that suits the model; the last one if `kind` is given.
        norm: Apply the model's final LayerNorm to `token`; it has no effect on the other kinds, nor on a ConvNeXt's
            earlier stages. null: what suits the model; true if `kind` is given.
    """

    kind: FeatureKind = "auto"
    block: int | None = None
    norm: bool | None = None


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen self-supervised ViT (or DINOv3's ConvNeXt).

    Args:
        model: Hub id or local folder of a DINO, DINOv2 (with or without registers) or DINOv3 model, in the format of
            transformers or, for ViTs, of timm (safetensors).
        revision: Branch, tag or commit on the Hub.
        image_size: Side in pixels of the square that images are resized to; a multiple of the patch size. null: what
            suits the model, such as 512 for patches of 16 pixels and 448 for 14.
        dtype: Precision of the forward pass. The features are converted to float32.
        proposal_feature: Patch features that MaskCut uses.
        region_feature: Patch features that are averaged over a mask for the labeler.
        region_model: Another model for `region_feature`, so that proposals come from one model and labels from another;
            null uses `model` for both.
        region_revision: Branch, tag or commit of `region_model`.
        region_image_size: Side in pixels of the images for `region_model`; null: what suits it.
    """

    model: str = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    revision: str | None = None
    image_size: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    proposal_feature: FeatureConfig = field(default_factory=FeatureConfig)
    region_feature: FeatureConfig = field(default_factory=FeatureConfig)
    region_model: str | None = None
    region_revision: str | None = None
    region_image_size: int | None = None

    def __post_init__(self) -> None:
        for key in ("region_revision", "region_image_size"):
            ok = self.region_model is not None or getattr(self, key) is None
            require(ok, f"backbone.{key}", getattr(self, key), "null without backbone.region_model")
        require(self.region_model != "", "backbone.region_model", "", "a Hub id or a local folder, or null")
        require(bool(self.model), "backbone.model", self.model, "a Hub id or a local folder")
        ok = self.image_size is None or self.image_size > 0
        require(ok, "backbone.image_size", self.image_size, "a positive multiple of the patch size, or null")
