"""A classifier of whole images, fitted to the given labels, as the teacher of label maps and of masked crops.

It is a linear discriminant on the features of whole images (`labeling/discriminant.py`), and an image is always judged
by one that was not fitted on it. The feature of a whole image is the mean of its patches', so the same classifier also
gives the logits of any part of the image, like a network whose global pooling is removed (Yun et al., CVPR 2021).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hf_relabel.config import BootstrapConfig
from hf_relabel.labeling.discriminant import Moments
from hf_relabel.labeling.label_maps import label_map_path
from hf_relabel.labeling.selection import stack
from hf_relabel.stages.train import SHRINKAGE_PER_DIMENSION

TOP_K = 5
"""Classes per cell of a label map, as in ReLabel."""


@dataclass(frozen=True)
class WholeImageClassifier:
    """One discriminant for each fold, fitted on all other folds.

    Args:
        weights: float64 [folds, dim, classes].
        bias: float64 [folds, classes].
    """

    weights: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int) -> "WholeImageClassifier":
        """Fit it to the features of whole images, [N, dim], their given labels and their folds, int64 [N] each."""
        count, dim = int(folds.max()) + 1, features.shape[1]
        total = Moments(count, classes, dim, torch.device("cpu"))
        x = torch.from_numpy(np.asarray(features, np.float64))
        total.add(total.of_shard(x, torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(folds)))
        config = BootstrapConfig()
        shrinkage = max(config.shrinkage, min(1.0, SHRINKAGE_PER_DIMENSION * dim / len(x)))
        weights, bias = stack([total.fit(shrinkage, without=[fold]) for fold in range(count)])
        return cls(weights / config.temperature, bias / config.temperature)

    def logits(self, features: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Logits of images or of parts of images, float64 [n, classes], from features [n, dim] and folds [n]."""
        x = torch.from_numpy(np.asarray(features, np.float64))
        found = x.new_zeros(len(x), self.bias.shape[1])
        for fold in np.unique(folds):
            mine = torch.from_numpy(folds == fold)
            found[mine] = x[mine] @ self.weights[fold] + self.bias[fold]
        return found.numpy()


def write_label_map(folder: Path, image_id: str, logits: np.ndarray) -> None:
    """Write a label map in ReLabel's layout, [2, k, h, w]: the top logits of each cell, and their classes.

    Classes outside the top count as logit 0, so the logits of a cell are shifted to a mean of 0.

    Args:
        folder: Folder of the maps.
        image_id: The image.
        logits: float [h, w, classes].
    """
    values = torch.from_numpy(logits - logits.mean(axis=-1, keepdims=True)).float()
    top = values.topk(min(TOP_K, values.shape[-1]), dim=-1)
    path = label_map_path(folder, image_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.stack([top.values, top.indices.float()]).permute(0, 3, 1, 2).contiguous(), path)
