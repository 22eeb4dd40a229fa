"""Settings of `fit` and `transfer`, with defaults and validation."""

from dataclasses import dataclass
from typing import Literal

from hf_relabel.errors import UsageError


def _require(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise UsageError(f"{key}: must be {rule}, got {value!r}")


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained.

    Args:
        model: Image classifier to start from: Hub id, local folder, or a config.json to train from scratch.
        revision: Branch, tag or commit of the model on the Hub.
        scratch: Use the model's configuration only, with random weights.
        new_head: Start with a new head even if the model was trained on the same classes.
        freeze: Train the head only. The other layers' features are computed once, before the first epoch.
        views: With `freeze`, views of each image to compute features of: the whole image, then augmented ones. Each
            epoch uses one of them; with 1, images are not augmented.
        out: Output folder for the trained classifier.
        overwrite: Replace the content of the output folder.
        resume: Resume from the last checkpoint in the output folder.
        image_size: Side of the square images in pixels; by default the size the model was made for, but not more than
            224 where the model takes any size.
        loss: bce and asymmetric treat each class independently; cross_entropy treats the classes of an image as one
            distribution.
        floor: Target of an absent class (label smoothing).
        cap: Target of a present class (label smoothing).
        gamma_pos: Focusing parameter of the asymmetric loss for present classes.
        gamma_neg: Focusing parameter of the asymmetric loss for absent classes.
        clip: Probability below which the asymmetric loss ignores an absent class.
        class_weights: balanced weights the loss of each class by one over its number of images, at most 10 times the
            mean.
        holdout: Share of the images that is held out for validation after every epoch (at most 10,000 images); 0 uses
            all images for training.
        keep: best saves the weights of the epoch with the highest mAP over the held-out images; last those of the last
            epoch.
        crop_scale: Minimum share of the image's area in a random crop; 1 uses the whole image.
        flip: Mirror half of the images.
        randaugment: Number of random operations per image.
        magnitude: Strength of these operations, from 0 to 10.
        mixup: Alpha of the Beta distribution of mixup; 0 turns it off.
        cutmix: Alpha of the Beta distribution of cutmix; 0 turns it off. With both, each batch uses one of them.
        optimizer: adamw, or sgd with Nesterov momentum.
        lr: Maximum learning rate.
        weight_decay: Weight decay, applied to weight matrices only.
        momentum: Momentum of sgd.
        epochs: Passes over the images.
        warmup_epochs: Epochs of linear warmup, before the cosine decay.
        batch_size: Images per forward pass and process.
        accumulation: Forward passes per optimizer step.
        clip_norm: Maximum norm of the gradient; 0 turns clipping off.
        ema: Decay of the moving average of the weights, which is then saved; 0 turns it off.
        mixed_precision: no, bf16 or fp16.
        checkpoint_every: Epochs between checkpoints; 0 writes none.
        log_with: Tracker supported by accelerate, such as tensorboard or wandb.
        workers: Processes that decode and augment images, per training process.
        seed: Random seed.
    """

    model: str = ""
    revision: str | None = None
    scratch: bool = False
    new_head: bool = False
    freeze: bool = False
    views: int = 4
    out: str = ""
    overwrite: bool = False
    resume: bool = False
    image_size: int | None = None
    loss: Literal["bce", "asymmetric", "cross_entropy"] = "bce"
    floor: float = 0.0
    cap: float = 1.0
    gamma_pos: float = 0.0
    gamma_neg: float = 4.0
    clip: float = 0.05
    class_weights: Literal["none", "balanced"] = "none"
    holdout: float = 0.1
    keep: Literal["best", "last"] = "best"
    crop_scale: float = 0.35
    flip: bool = True
    randaugment: int = 0
    magnitude: float = 9.0
    mixup: float = 0.0
    cutmix: float = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    epochs: int = 100
    warmup_epochs: float = 5.0
    batch_size: int = 64
    accumulation: int = 1
    clip_norm: float = 1.0
    ema: float = 0.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint_every: int = 1
    log_with: str | None = None
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError("--model: is missing; give a Hub id, a local folder or a config.json")
        _require(bool(self.out), "--out", self.out, "a folder")
        _require(not (self.freeze and self.scratch), "--freeze", True, "left out with --scratch (nothing is learned)")
        _require(not (self.freeze and self.cutmix), "--cutmix", self.cutmix, "left out with --freeze (it mixes pixels)")
        for key in ("views", "epochs", "batch_size", "accumulation"):
            _require(getattr(self, key) >= 1, _flag(key), getattr(self, key), "1 or more")
        zero_or_more = (
            "gamma_pos gamma_neg randaugment mixup cutmix weight_decay warmup_epochs clip_norm checkpoint_every workers"
        )
        for key in zero_or_more.split():
            _require(getattr(self, key) >= 0, _flag(key), getattr(self, key), "0 or more")
        for key in ("clip", "momentum", "ema", "holdout"):
            _require(0 <= getattr(self, key) < 1, _flag(key), getattr(self, key), "at least 0 and below 1")
        _require(0 < self.crop_scale <= 1, "--crop-scale", self.crop_scale, "above 0 and at most 1")
        _require(0 <= self.magnitude <= 10, "--magnitude", self.magnitude, "from 0 to 10")
        _require(0 <= self.floor < self.cap <= 1, "--floor, --cap", (self.floor, self.cap), "0 <= floor < cap <= 1")
        _require(self.lr > 0, "--lr", self.lr, "above 0")
        _require(self.image_size is None or self.image_size > 0, "--image-size", self.image_size, "a number of pixels")


@dataclass(frozen=True)
class FitConfig(TrainingConfig):
    """Which labels in a release a classifier is trained on.

    Args:
        release: Release folder, or user/name@revision on the Hub.
        split: Split of the release; required if it has several.
        val_split: Split of the release to validate on instead of held-out images.
        target: single: the original label; soft: the scores; threshold: 1 for each score of at least the threshold.
        threshold: Minimum score of a present class, for the target `threshold`.
        include_original: Always set the target of the original label to 1.
        crop_aware: Scale each target by the share of its region inside the crop; requires the release's masks.
    """

    release: str = ""
    split: str | None = None
    val_split: str | None = None
    target: Literal["single", "soft", "threshold"] = "soft"
    threshold: float = 0.5
    include_original: bool = False
    crop_aware: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.release), "--release", self.release, "a release folder or user/name@revision")
        _require(0 <= self.threshold <= 1, "--threshold", self.threshold, "from 0 to 1")
        _require(
            not (self.crop_aware and self.target == "single"),
            "--crop-aware",
            True,
            "left out with --target single, which ignores regions",
        )
        _require(
            not (self.crop_aware and self.freeze and self.views == 1),
            "--crop-aware",
            True,
            "left out with --freeze and --views 1, which trains on whole images",
        )


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")
