"""One or two backbones: with `backbone.region_model`, proposals come from one model and regions' features from another.

Each image is prepared and computed once for each model. The features of the region model are resized to the grid of the
other, on which the masks are.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from hf_relabel.config import REGION_BACKBONE, BackboneConfig
from hf_relabel.vision import backbone
from hf_relabel.vision.backbone import Backbone, PatchFeatures, Preprocess
from hf_relabel.vision.families import parts_of, resolve_backbone
from hf_relabel.vision.pretrained import read_settings


@dataclass(frozen=True)
class PairPreprocess:
    """Convert an image to the input of both models: their pixels, one after the other, float32 [3 S^2 + 3 s^2]."""

    proposal: Preprocess
    region: Preprocess

    @property
    def side(self) -> int:
        """The larger side in pixels."""
        return max(self.proposal.side, self.region.side)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Prepare an RGB image of any size."""
        return torch.cat([self.proposal(image).flatten(), self.region(image).flatten()])


class BackbonePair:
    """Two backbones with the interface of `Backbone`, for inputs of `PairPreprocess`.

    Args:
        proposal: Gives the features that proposals are made from.
        region: Gives the features that are pooled under each mask.
    """

    def __init__(self, proposal: Backbone, region: Backbone):
        self._proposal = proposal
        self._region = region
        self.preprocess = PairPreprocess(proposal.preprocess, region.preprocess)
        self.patch_size = proposal.patch_size
        self.grid = proposal.grid
        self.region_dim = region.region_dim
        self.identity = {**proposal.identity, REGION_BACKBONE: region.identity}

    def __call__(self, pixels: torch.Tensor) -> PatchFeatures:
        """Compute the features of a batch of prepared images, float32 [B, 3 S^2 + 3 s^2]."""
        sides = [self.preprocess.proposal.side, self.preprocess.region.side]
        first, second = pixels.split([3 * side * side for side in sides], dim=1)
        of_proposals = self._proposal(first.unflatten(1, (3, sides[0], sides[0])))
        of_regions = self._region(second.unflatten(1, (3, sides[1], sides[1]))).region
        return PatchFeatures(of_proposals.proposal, self._on_grid(of_regions), of_proposals.region)

    def _on_grid(self, features: torch.Tensor) -> torch.Tensor:
        """Resize features of the region model, [B, n, D], to the grid of the other, one image at a time."""
        if self._region.grid == self.grid:
            return features
        maps = features.transpose(1, 2).unflatten(2, self._region.grid)
        resized = [
            functional.interpolate(one, size=self.grid, mode="bilinear", align_corners=False, antialias=True)
            for one in maps.split(1)
        ]
        return torch.cat(resized).flatten(2).transpose(1, 2).contiguous()


def load_backbone(
    config: BackboneConfig, device: torch.device, pool: Executor | None = None
) -> "Backbone | BackbonePair":
    """Load the configured backbone, or both; arguments and errors as in `Backbone.load`."""
    proposal, region = parts_of(_resolved(config))
    first = Backbone.load(proposal, device, pool)
    return first if region is None else BackbonePair(first, Backbone.load(region, device, pool))


def identify_backbone(config: BackboneConfig) -> dict[str, Any]:
    """Everything that the features depend on, as `backbone.identify_backbone`; both models if there are two."""
    proposal, region = parts_of(_resolved(config))
    identity = backbone.identify_backbone(proposal)
    return identity if region is None else {**identity, REGION_BACKBONE: backbone.identify_backbone(region)}


def _resolved(config: BackboneConfig) -> BackboneConfig:
    return resolve_backbone(config, read_settings(config))
