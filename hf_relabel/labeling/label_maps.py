"""ReLabel's label maps, and how a proposal is scored under its mask.

A label map (Yun et al., "Re-labeling ImageNet", CVPR 2021) holds a strong classifier's top-5 logits and their classes
at each of 15 x 15 places of an image: a tensor [2, 5, 15, 15], logits first. Scoring follows arXiv 2603.05729,
section 3: the mask is resized bilinearly to the map, the map's logits are averaged under it (a class that is not among
the top 5 of a place counts 0 there), and a softmax over all classes gives the proposal's probabilities.
"""

import pickle
import struct
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.nn import functional

from hf_relabel.errors import StageError

DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, struct.error)
"""What torch's weights-only reader raises for a file that is not what it should be."""


class LabelMapError(Exception):
    """One image has no usable label map; the text says why. It becomes an error row."""


def label_map_path(folder: Path, image_id: str) -> Path:
    """Where the label map of an image lies: the image's own path below `folder`, with the suffix `.pt`.

    Raises:
        LabelMapError: The id would leave the folder.
    """
    relative = PurePosixPath(image_id)
    if relative.is_absolute() or ".." in relative.parts:
        raise LabelMapError(f"image id {image_id!r} is not a path below a folder")
    return folder / relative.with_suffix(".pt")


def read_label_map(path: Path, classes: int) -> torch.Tensor:
    """A label map as float32 [2, k, h, w]: logits and class indices.

    Raises:
        LabelMapError: The file is missing, not such a tensor, or names a class outside 0 .. classes - 1.
    """
    try:
        label_map = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LabelMapError("no label map") from error
    except DAMAGED as error:
        raise LabelMapError(f"unreadable label map ({type(error).__name__})") from error
    if not isinstance(label_map, torch.Tensor) or label_map.ndim != 4 or label_map.shape[0] != 2:
        found = tuple(label_map.shape) if isinstance(label_map, torch.Tensor) else type(label_map).__name__
        raise LabelMapError(f"label map is {found}, not a tensor [2, 5, 15, 15]")
    label_map = label_map.float()
    if not torch.isfinite(label_map).all():
        raise LabelMapError("label map has values that are not finite")
    if label_map[1].min() < 0 or label_map[1].max() >= classes:
        raise LabelMapError(f"label map names class {int(label_map[1].max())} of {classes}")
    return label_map


def score_under_mask(label_map: torch.Tensor, mask: np.ndarray, classes: int) -> torch.Tensor:
    """Probabilities of all classes under a mask.

    Args:
        label_map: float32 [2, k, h, w], logits and class indices.
        mask: bool [H, W] at the image's own size, not empty.
        classes: Number of classes.

    Returns:
        float32 [classes], summing to 1.
    """
    weights = _resize(mask, label_map.shape[2:], antialias=False)
    if not weights.any():  # a mask too small to be met by the map's places: weigh them by how much it covers of each
        weights = _resize(mask, label_map.shape[2:], antialias=True)
    logits = torch.zeros(classes)
    logits.index_add_(0, label_map[1].long().flatten(), (label_map[0] * weights).flatten())
    return torch.softmax(logits / weights.sum(), dim=0)


def _resize(mask: np.ndarray, size: torch.Size, antialias: bool) -> torch.Tensor:
    """A mask, bool [H, W], as float32 [h, w] by bilinear interpolation at the centres of the places."""
    picture = torch.from_numpy(mask)[None, None].float()
    return functional.interpolate(picture, tuple(size), mode="bilinear", antialias=antialias)[0, 0]


def check_label_maps(folder: str) -> Path:
    """The folder of label maps, or StageError where there is none."""
    path = Path(folder)
    if not path.is_dir():
        raise StageError(f"score.label_maps: no folder {path}; name the one that holds <class folder>/<image name>.pt")
    return path
