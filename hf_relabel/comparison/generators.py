"""Generators of proposals behind one interface: an image in, masks of its size and the time they took out."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from hf_relabel.config import ProposeConfig
from hf_relabel.formats.given_masks import GivenMasks
from hf_relabel.sources.decoding import LoadedImage
from hf_relabel.vision import masks
from hf_relabel.vision.backbone import Backbone, PatchFeatures
from hf_relabel.vision.maskcut import maskcut_batch
from hf_relabel.vision.merging import merge_masks
from hf_relabel.vision.pair import BackbonePair
from hf_relabel.vision.sam2 import Sam2, Sam2Settings
from hf_relabel.vision.tokencut import tokencut

ON_PATCHES = ("maskcut", "merge", "maskcut+merge", "tokencut")
"""Names of `PatchGenerator`; the third is what the pipeline does by default."""


@dataclass(frozen=True)
class Generated:
    """The proposals of an image.

    Args:
        masks: Their masks, COCO RLE of the image's size.
        seconds: What they took, from the decoded image; None for masks from a file.
    """

    masks: list[masks.RLE]
    seconds: float | None


class Generator(Protocol):
    """Proposes class-agnostic masks."""

    def __call__(self, image_id: str, loaded: LoadedImage) -> Generated:
        """Propose masks for an image."""


class Patches:
    """The patch features of one image at a time, shared by all generators that need them.

    The time of the forward pass counts for each of them.
    """

    def __init__(self, backbone: Backbone | BackbonePair):
        self.backbone = backbone
        self._image: Image.Image | None = None
        self._features: PatchFeatures | None = None
        self._seconds = 0.0

    def __call__(self, image: Image.Image) -> tuple[PatchFeatures, float]:
        """The features of an image, and the seconds that they took."""
        if self._features is None or self._image is not image:
            start = time.perf_counter()
            self._features, self._image = self.backbone(self.backbone.preprocess(image)[None]), image
            _wait(self._features.region.device)
            self._seconds = time.perf_counter() - start
        return self._features, self._seconds


@dataclass(frozen=True)
class PatchGenerator:
    """One of `ON_PATCHES`, which work on the backbone's patches."""

    name: str
    patches: Patches
    settings: ProposeConfig

    def __post_init__(self) -> None:
        if self.name not in ON_PATCHES:
            raise ValueError(f"no generator {self.name!r}; there are {', '.join(ON_PATCHES)}")

    def __call__(self, image_id: str, loaded: LoadedImage) -> Generated:
        """Propose masks on the patch grid and enlarge them, as the pipeline does."""
        features, before = self.patches(loaded.image)
        start = time.perf_counter()
        size = (loaded.width, loaded.height)
        enlarged = [masks.to_image(mask, size) for mask in self._on_grid(features)]
        found = [masks.encode(mask) for mask in enlarged if mask.any()]
        return Generated(found, before + time.perf_counter() - start)

    def _on_grid(self, features: PatchFeatures) -> np.ndarray:
        grid, settings = self.patches.backbone.grid, self.settings
        assert settings.tau is not None
        if self.name == "tokencut":
            return tokencut(features.proposal[0], grid, settings.tau)
        cut = np.zeros((0, *grid), bool)
        if self.name != "merge":
            found = maskcut_batch(features.proposal, grid, tau=settings.tau, max_masks=settings.max_masks)[0]
            if found is not None and len(found):
                cut = np.stack([masks.fill_holes(mask) for mask in found])
        if self.name == "maskcut":
            return cut
        merging = features.region if features.merging is None else features.merging
        return np.concatenate([cut, merge_masks(merging[0].cpu().numpy(), grid, settings.merge_masks, cut)])


@dataclass(frozen=True)
class Sam2Generator:
    """SAM 2's automatic masks with some settings."""

    model: Sam2
    settings: Sam2Settings

    def __call__(self, image_id: str, loaded: LoadedImage) -> Generated:
        """Propose masks with SAM 2."""
        start = time.perf_counter()
        found = self.model(loaded.image, self.settings)
        return Generated(found, time.perf_counter() - start)


@dataclass(frozen=True)
class FileGenerator:
    """Masks from a COCO JSON file, as another tool wrote them."""

    given: GivenMasks
    dropped: Counter[str]

    def __call__(self, image_id: str, loaded: LoadedImage) -> Generated:
        """The file's masks of an image."""
        pictures = self.given.of(image_id, loaded.height, loaded.width, self.dropped, loaded.orientation)
        return Generated([masks.encode(mask) for mask in pictures if mask.any()], None)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
