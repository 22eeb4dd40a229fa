"""ReLabel's label maps, and how a proposal is scored under its mask.

A label map (Yun et al., "Re-labeling ImageNet", CVPR 2021) holds a strong classifier's top-5 logits and their classes
at each of 15 x 15 places of an image: a tensor [2, 5, 15, 15], logits first. Scoring follows arXiv 2603.05729,
section 3: the mask is resized bilinearly to the map, the map's logits are averaged under it (a class that is not among
the top 5 of a place counts 0 there), and a softmax over all classes gives the proposal's probabilities.
"""

import pickle
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from hf_relabel.errors import StageError


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
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise LabelMapError(f"unreadable label map ({str(error).splitlines()[0][:80]})") from error
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
    _, _, height, width = label_map.shape
    picture = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    weights = torch.from_numpy(np.array(picture)).clamp(min=0)  # [h, w]
    logits = torch.zeros(classes)
    logits.index_add_(0, label_map[1].long().flatten(), (label_map[0] * weights).flatten())
    return torch.softmax(logits / weights.sum().clamp(min=torch.finfo(torch.float32).tiny), dim=0)


def check_label_maps(folder: str) -> Path:
    """The folder of label maps, or StageError where there is none."""
    path = Path(folder)
    if not path.is_dir():
        raise StageError(f"score.label_maps: no folder {path}; name the one that holds <class folder>/<image name>.pt")
    return path
