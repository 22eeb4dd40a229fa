"""A classifier's scores for images, computed by one process or by several under `accelerate launch`."""

import os
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_relabel.errors import UsageError
from hf_relabel.evaluation.datasets import LabeledImages
from hf_relabel.run.ranks import check_launcher
from hf_relabel.sources.loader import killed_workers
from hf_relabel.training.data import batches, make_loader
from hf_relabel.training.models import MULTI_LABEL


def open_accelerator(mixed_precision: str, **settings: Any) -> Accelerator:
    """Make an accelerator with the given precision: no, bf16 or fp16.

    Raises:
        UsageError: fp16 is requested without a GPU, or the launcher's variables contradict each other.
    """
    check_launcher()
    # Without a GPU, `torchrun` does not tell accelerate that its processes belong together, and each would be the main
    # process; with `cpu` they form a group on gloo.
    on_cpus = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()
    if mixed_precision == "fp16" and PartialState(cpu=on_cpus).device.type == "cpu":
        raise UsageError("--mixed-precision: fp16 needs a GPU; use bf16 or no")
    return Accelerator(cpu=on_cpus, mixed_precision=mixed_precision, **settings)


class _Pixels(Dataset):
    """Images prepared by the classifier's processor, with their index."""

    def __init__(self, images: LabeledImages, processor: Any):
        self.images = images
        self.processor = processor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        image = self.images.load(index)
        return index, self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def predict(
    model: PreTrainedModel,
    processor: Any,
    images: LabeledImages,
    accelerator: Accelerator,
    batch_size: int = 32,
    workers: int = 0,
) -> np.ndarray:
    """Compute the probability of each class for each image; all processes return all of them.

    The model's `problem_type` decides between a sigmoid per class (multi-label) and a softmax.

    Args:
        model: The classifier.
        processor: Its image processor, or a transform with the same interface.
        images: N images.
        accelerator: From `open_accelerator`.
        batch_size: Images per forward pass and process.
        workers: Processes that decode images; 0 for none.

    Returns:
        float32 [N, C] in [0, 1].
    """
    loader = make_loader(_Pixels(images, processor), batch_size, workers)
    multi_label = model.config.problem_type == MULTI_LABEL
    model, loader = accelerator.prepare(model.eval(), loader)
    scores = np.zeros((len(images), accelerator.unwrap_model(model).config.num_labels), dtype=np.float32)
    bar = tqdm(total=len(images), desc="evaluate", unit=" images", disable=not accelerator.is_main_process)
    with bar, killed_workers("--workers"):
        for places, pixels in batches(loader):
            with torch.inference_mode(), accelerator.autocast():
                logits = model(pixel_values=pixels).logits
            places, logits = accelerator.gather_for_metrics((places, logits.float()))
            probabilities = logits.sigmoid() if multi_label else logits.softmax(dim=1)
            scores[places.cpu().numpy()] = probabilities.cpu().numpy()
            bar.update(len(places))
    return scores
