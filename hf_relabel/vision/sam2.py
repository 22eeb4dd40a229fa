"""SAM 2's automatic masks through transformers: the model is asked at a grid of points, and good masks are kept.

As in the automatic mask generator of Ravi et al., "SAM 2: Segment Anything in Images and Videos" (2024): a mask is kept
if the model expects a high IoU for it and if it hardly changes with the threshold of its logits; of masks whose boxes
overlap, the one with the higher expected IoU stays. Unlike there, the change is measured on the model's own masks of
256 pixels per side, before they are enlarged. Its image processor needs torchvision, so images are prepared here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from hf_relabel.errors import BackboneError
from hf_relabel.vision import masks
from hf_relabel.vision.pretrained import IMAGENET_MEAN, IMAGENET_STD, quiet_transformers

MODEL_TYPES = ("sam2", "sam2_video")
"""Values of `model_type` whose checkpoints have SAM 2's image model."""

STABILITY_OFFSET = 1.0
"""A mask is stable if its areas at the logit thresholds -1 and +1 are alike."""

POINTS_AT_ONCE = 64


@dataclass(frozen=True)
class Sam2Settings:
    """Settings of the automatic masks.

    Args:
        points_per_side: The model is asked at the points of a grid with this many points per side.
        min_iou: Smallest IoU that the model expects of a mask.
        min_stability: Smallest share of a mask's area at a low threshold that is left at a high one.
        max_overlap: Largest IoU of the boxes of two masks.
        min_area: Smallest share of the image that a mask covers.
    """

    points_per_side: int = 32
    min_iou: float = 0.8
    min_stability: float = 0.95
    max_overlap: float = 0.7
    min_area: float = 0.0


SETTINGS = {"sam2-many": Sam2Settings(), "sam2-few": Sam2Settings(16, 0.93, 0.97, 0.5, 0.01)}
"""Two settings, because figure 4 of arXiv 2603.05729 shows SAM 2 dividing objects into parts with some and missing
objects with others. Neither the figure nor the paper's code says which. `sam2-many` has the defaults of SAM 2's own
`SAM2AutomaticMaskGenerator`; the stricter values of `sam2-few` are ours."""


class Sam2:
    """SAM 2 on a device; call it with an image to get its masks."""

    def __init__(self, model: Any, device: torch.device):
        """See `load`."""
        self._model = model.to(device).eval()
        self._device = device
        size = model.config.prompt_encoder_config.image_size
        self._side = int(size[0] if isinstance(size, list | tuple) else size)

    @classmethod
    def load(cls, name: str, revision: str | None, device: torch.device) -> "Sam2":
        """Load a checkpoint from the Hub or a local folder.

        Raises:
            BackboneError: It does not exist, is no SAM 2, or its weights are incomplete.
        """
        import transformers

        try:
            config = transformers.AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
            if config.model_type not in MODEL_TYPES:
                raise BackboneError(
                    f"sam2: {name} is a {config.model_type!r} model; give a SAM 2, such as facebook/sam2.1-hiera-large"
                )
            load: Any = transformers.Sam2Model.from_pretrained
            with quiet_transformers():  # it warns of the published checkpoints, which are those of the video model
                model, info = load(name, revision=revision, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"sam2: {name} cannot be loaded ({reason}); give a folder written by save_pretrained or a Hub id"
            ) from error
        if missing := sorted(info["missing_keys"]):
            raise BackboneError(f"sam2: {name} lacks {len(missing)} weights, such as {missing[0]}; download it again")
        return cls(model, device)

    @torch.inference_mode()
    def __call__(self, image: Image.Image, settings: Sam2Settings) -> list[masks.RLE]:
        """Find the masks of an RGB image, as COCO RLE of its size, the one with the highest expected IoU first."""
        embeddings = self._model.get_image_embeddings(self._prepare(image).to(self._device))
        found: list[tuple[float, masks.RLE, list[float]]] = []
        for points in self._grid(settings.points_per_side).split(POINTS_AT_ONCE):
            output = self._model(
                input_points=points[None, :, None].to(self._device),
                image_embeddings=list(embeddings),
                multimask_output=True,
            )
            logits, ious = output.pred_masks[0].flatten(0, 1).float(), output.iou_scores[0].flatten().float()
            kept = (ious >= settings.min_iou) & (_stability(logits) >= settings.min_stability)
            for one, iou in zip(logits[kept], ious[kept].tolist(), strict=True):
                mask = self._enlarge(one, image.size)
                if mask.any() and mask.mean() >= settings.min_area:
                    found.append((iou, masks.encode(mask), masks.bbox(mask)))
        found.sort(key=lambda item: -item[0])
        return [found[place][1] for place in without_overlaps([item[2] for item in found], settings.max_overlap)]

    def _prepare(self, image: Image.Image) -> torch.Tensor:
        resized = image.convert("RGB").resize((self._side, self._side), Image.Resampling.BILINEAR)
        pixels = (np.asarray(resized, np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]

    def _grid(self, per_side: int) -> torch.Tensor:
        """Points (x, y) in pixels of the model's input, float32 [per_side ** 2, 2]."""
        at = (torch.arange(per_side) + 0.5) * self._side / per_side
        return torch.stack([at.repeat(per_side), at.repeat_interleave(per_side)], dim=1)

    def _enlarge(self, logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        enlarged = torch.nn.functional.interpolate(logits[None, None], size=size[::-1], mode="bilinear")
        return (enlarged[0, 0] > 0).cpu().numpy()


def _stability(logits: torch.Tensor) -> torch.Tensor:
    """The IoU of each mask at a high and at a low threshold of its logits, [m], for logits [m, h, w]."""
    inner = (logits > STABILITY_OFFSET).flatten(1).sum(dim=1)
    return inner / (logits > -STABILITY_OFFSET).flatten(1).sum(dim=1).clamp(min=1)


def without_overlaps(boxes: list[list[float]], max_overlap: float) -> list[int]:
    """Choose boxes greedily: each that overlaps no earlier chosen one too much.

    Args:
        boxes: x, y, width and height of each box, the best first.
        max_overlap: Largest IoU of two chosen boxes.

    Returns:
        Indices of the chosen boxes, in order.
    """
    left = np.array(boxes, float).reshape(-1, 4)
    corner, sizes = left[:, :2], left[:, 2:]
    areas = sizes.prod(axis=1)
    chosen: list[int] = []
    for place in range(len(left)):
        low = np.maximum(corner[chosen], corner[place])
        high = np.minimum(corner[chosen] + sizes[chosen], corner[place] + sizes[place])
        shared = (high - low).clip(min=0).prod(axis=1)
        if (shared <= max_overlap * (areas[chosen] + areas[place] - shared)).all():
            chosen.append(place)
    return chosen
