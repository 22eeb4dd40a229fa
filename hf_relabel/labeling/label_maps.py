"""Read ReLabel's label maps and score a proposal under its mask.

A label map (Yun et al., "Re-labeling ImageNet", CVPR 2021) contains a strong classifier's top-5 logits and their
classes at each cell of a 15 x 15 grid over an image: a tensor [2, 5, 15, 15], logits first. Scoring follows arXiv
2603.05729, section 3. The mask is resized bilinearly to the grid, the logits under it are averaged (a class outside a
cell's top 5 counts as 0 there), and a softmax over all classes gives the proposal's probabilities.
"""

import pickle
import struct
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.nn import functional

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import StageError

DAMAGED = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError),
)
"""Errors that torch's weights-only reader raises for an invalid file."""

MAX_NUMBERS = 10_000_000
"""Numbers in a label map, of which ReLabel's have 2,250; a small file may claim to hold many more."""


class LabelMapError(Exception):
    """An image has no usable label map, for the reason in the message; the image becomes an error row."""


def label_map_path(folder: Path, image_id: str) -> Path:
    """Return the path of an image's label map: the image id as a path below `folder`, with the suffix `.pt`.

    Raises:
        LabelMapError: The id is not a path below the folder.
    """
    relative = PurePosixPath(image_id)
    if relative.is_absolute() or ".." in relative.parts:
        raise LabelMapError(f"image id {image_id!r} is not a path below a folder")
    return folder / relative.with_suffix(".pt")


def read_label_map(path: Path, classes: int) -> torch.Tensor:
    """Read a label map: float32 [2, k, h, w], logits and class indices.

    Raises:
        LabelMapError: The file is missing, is not such a tensor, or has a class index outside [0, classes).
    """
    try:
        label_map = torch.load(regular_file(path), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LabelMapError("no label map") from error
    except DAMAGED as error:
        raise LabelMapError(f"unreadable label map ({type(error).__name__})") from error
    is_plain = isinstance(label_map, torch.Tensor) and label_map.device.type == "cpu" and not label_map.is_quantized
    is_plain = is_plain and label_map.layout == torch.strided and not label_map.is_complex()
    if not is_plain or label_map.ndim != 4 or label_map.shape[0] != 2 or not 0 < label_map.numel() <= MAX_NUMBERS:
        found = tuple(label_map.shape) if isinstance(label_map, torch.Tensor) else type(label_map).__name__
        raise LabelMapError(f"label map is {found}, expected a tensor [2, 5, 15, 15]")
    label_map = label_map.float()
    if not torch.isfinite(label_map).all():
        raise LabelMapError("label map has NaN or infinite values")
    if label_map[1].min() < 0 or label_map[1].max() >= classes:
        raise LabelMapError(
            f"label map has class index {int(label_map[1].max())}, but there are only {classes} classes"
        )
    return label_map


def score_under_mask(label_map: torch.Tensor, mask: np.ndarray, classes: int) -> torch.Tensor:
    """Compute the probabilities of all classes under a mask.

    Args:
        label_map: Logits and class indices, float32 [2, k, h, w].
        mask: Mask of the image's size, bool [H, W], not empty.
        classes: Number of classes.

    Returns:
        float32 [classes], which sum to 1.
    """
    weights = _resize(mask, label_map.shape[2:], antialias=False)
    if not weights.any():  # the mask reaches no cell center: weight each cell by the share of it that is covered
        weights = _resize(mask, label_map.shape[2:], antialias=True)
    logits = torch.zeros(classes)
    logits.index_add_(0, label_map[1].long().flatten(), (label_map[0] * weights).flatten())
    return torch.softmax(logits / weights.sum(), dim=0)


def _resize(mask: np.ndarray, size: torch.Size, antialias: bool) -> torch.Tensor:
    """Resize a mask, bool [H, W], to float32 [h, w] by bilinear interpolation at the cell centers."""
    image = torch.from_numpy(mask)[None, None].float()
    return functional.interpolate(image, tuple(size), mode="bilinear", antialias=antialias)[0, 0]


def check_label_maps(folder: str) -> Path:
    """Return the folder of label maps.

    Raises:
        StageError: The folder does not exist.
    """
    path = Path(folder)
    if not path.is_dir():
        raise StageError(
            f"score.label_maps: no folder {path}; give the one that contains <class folder>/<image name>.pt"
        )
    return path
