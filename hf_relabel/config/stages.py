"""Settings of the stages, from `propose` to `build`."""

from dataclasses import dataclass, field
from typing import Literal

from hf_relabel.config.checks import require
from hf_relabel.errors import UsageError


@dataclass(frozen=True)
class ProposeConfig:
    """Object proposals, and the features stored for each.

    Args:
        generators: `maskcut` cuts out a few large objects and needs a `tau` that suits the backbone; `merge` grows
            regions of all sizes from similar patches and needs no threshold.
        tau: Cosine similarity above which MaskCut connects two patches. The right value depends on the backbone, the
            feature and the block. null: what suits the model; look at some overlays before a long run.
        max_masks: Rounds of MaskCut, and so the maximum number of its proposals per image.
        merge_masks: Maximum number of proposals per image by merging.
        windows: Windows per side of a fixed grid that the labeler classifies in addition to the proposals; 0 for none.
        masks: COCO JSON file with masks to use instead of generated ones, as CutLER and MaskCut write it: `file_name`
            is the image's path below source.path, categories are ignored. `generators`, `tau`, `max_masks` and
            `merge_masks` then have no effect.
        masks_orientation: Which picture these masks belong to if an image has an EXIF orientation and the size of the
            mask does not tell: that of the `stored` pixels, as CutLER writes them, or the `upright` one; `auto` takes
            `upright` for files that this package exported, else `stored`.
        views: Additional feature vectors stored per region to train the labeler on, each averaged over the region's
            patches with some dropped at random. Example: with 2 and a 10-patch region, the labeler trains on two
            averages over 8 of the 10 patches (view_drop 0.2).
        view_drop: Share of a region's patches that a view drops.
    """

    generators: list[Literal["maskcut", "merge"]] = field(default_factory=lambda: ["maskcut", "merge"])
    tau: float | None = None
    max_masks: int = 4
    merge_masks: int = 20
    windows: int = 4
    masks: str | None = None
    masks_orientation: Literal["auto", "stored", "upright"] = "auto"
    views: int = 2
    view_drop: float = 0.2

    def __post_init__(self) -> None:
        ok = self.tau is None or 0 <= self.tau < 1
        require(ok, "propose.tau", self.tau, "at least 0 and below 1, or null")
        require(1 <= self.max_masks <= 64, "propose.max_masks", self.max_masks, "from 1 to 64")
        ok = len(set(self.generators)) == len(self.generators) > 0
        require(ok, "propose.generators", self.generators, "one or more of maskcut and merge, each once")
        require(1 <= self.merge_masks <= 256, "propose.merge_masks", self.merge_masks, "from 1 to 256")
        require(0 <= self.windows <= 16, "propose.windows", self.windows, "from 0 to 16")
        require(self.views >= 0, "propose.views", self.views, "0 or more")
        require(0 <= self.view_drop < 1, "propose.view_drop", self.view_drop, "at least 0 and below 1")


@dataclass(frozen=True)
class BootstrapConfig:
    """Selection without a teacher: multiple-instance learning on the region features.

    Args:
        rounds: How often the classifier is fitted and the regions are selected again.
        folds: Number of cross-validation folds. A region is scored only by classifiers fitted without its image.
        confident: Probability of the original label above which further regions are selected in addition to the
            image's best one. Example: of three regions with 0.95, 0.85 and 0.4 for `cat`, 0.8 selects the first two.
        other_class: Probability of another class above which a region that is not selected trains as that class.
        unsure: Probability of another class above which a region trains as nothing rather than as background.
        max_background: Maximum number of merged regions and windows that train as background, as a multiple of the
            number of the image's other proposals.
        shrinkage: Shrinkage of the discriminant's covariance toward its diagonal; 1 keeps only the diagonal. The
            labeler uses more where it has few regions per feature.
        temperature: Divisor of the discriminant's logits, which are overconfident without one.
    """

    rounds: int = 4
    folds: int = 20
    confident: float = 0.8
    other_class: float = 0.9
    unsure: float = 0.85
    max_background: float = 1.5
    shrinkage: float = 0.03
    temperature: float = 2.5

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "score.bootstrap.rounds", self.rounds, "1 or more")
        require(self.folds >= 2, "score.bootstrap.folds", self.folds, "2 or more")
        require(0 < self.confident <= 1, "score.bootstrap.confident", self.confident, "above 0 and at most 1")
        require(0 < self.other_class <= 1, "score.bootstrap.other_class", self.other_class, "above 0 and at most 1")
        require(0 < self.unsure <= 1, "score.bootstrap.unsure", self.unsure, "above 0 and at most 1")
        require(self.max_background >= 0, "score.bootstrap.max_background", self.max_background, "0 or more")
        require(self.temperature > 0, "score.bootstrap.temperature", self.temperature, "above 0")
        require(0 < self.shrinkage <= 1, "score.bootstrap.shrinkage", self.shrinkage, "above 0 and at most 1")


@dataclass(frozen=True)
class ScoreConfig:
    """Selection of what every region trains the labeler as: a class, background, or nothing.

    Args:
        method: `bootstrap` needs no teacher; `label_map` reads ReLabel's files. `keep`, `tau_label` and
            `tau_background` belong to `label_map`.
        label_maps: Folder with ReLabel's label maps, `<class folder>/<image name>.pt`.
        top_k: Classes stored per proposal.
        keep: Which proposals train the labeler. `original`: those whose probability of the original label is at least
            `tau_label`. `best`: also the image's best proposal for that label, however low. `top1`: those whose highest
            probability is at least `tau_label`, each with its most probable class. Example: an image labeled `cat` has
            proposals with 0.6 and 0.3 for `cat`; with tau_label 0.75, `original` keeps none, `best` the first.
        tau_label: Minimum probability of the keep rule. Example: 0.75 keeps a proposal that is 80% `cat` in an image
            labeled `cat`, and drops one that is 70%.
        tau_background: A region that is not kept trains as background if the highest probability of its label map is
            below this.
        merge: Merge the proposals of an image that train as the same class into one region, as the paper does.
        force_original: Train with the whole image if none of its proposals is kept.
        bootstrap: Settings of `bootstrap`.
    """

    method: Literal["bootstrap", "label_map"] = "bootstrap"
    label_maps: str | None = None
    top_k: int = 5
    keep: Literal["best", "original", "top1"] = "best"
    tau_label: float = 0.75
    tau_background: float = 0.2
    merge: bool = False
    force_original: bool = False
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)

    def __post_init__(self) -> None:
        require(self.top_k >= 1, "score.top_k", self.top_k, "1 or more")
        for key in ("tau_label", "tau_background"):
            require(0 <= getattr(self, key) <= 1, f"score.{key}", getattr(self, key), "from 0 to 1")
        if self.method == "label_map" and not self.label_maps:
            raise UsageError("score.label_maps: score.method is label_map, but no folder of label maps is given")
        if self.method != "label_map" and self.label_maps:
            raise UsageError(
                f"score.label_maps: score.method is {self.method}, which does not use {self.label_maps!a}; add "
                "--score.method label_map, or --score.label_maps null"
            )


@dataclass(frozen=True)
class TrainConfig:
    """The labeler: small heads on frozen region features. The MLP's defaults are the paper's, section 3.

    Args:
        head: `discriminant` is fitted in closed form and best on few regions; `mlp` and `linear` are trained by
            gradient descent; `auto` chooses `discriminant` or `mlp` by the number of training regions per class.
        background: Train a background class on the regions that show none of the classes. Without it, as in the paper,
            the labeler must take every region for one of the classes.
        folds: Number of cross-validation folds: the images of a fold are labeled by a head that was not trained on
            them. null: 20 for the discriminant, 5 for the others. 0: one head for all images, as in the paper; its
            scores are not calibrated.
        hidden: Width of the MLP's hidden layers.
        layers: Hidden layers of the MLP.
        dropout: Dropout after each hidden layer.
        standardize: Center and scale the features first; useful for blocks whose output is not normalized.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        batch_size: Regions per step.
        epochs: Passes over the kept regions.
        val_fraction: Share of the images that are held out to choose the best epoch.
        mixed_precision: Precision of gradient descent; `no` on CPUs.
    """

    head: Literal["auto", "discriminant", "linear", "mlp"] = "auto"
    background: bool = True
    folds: int | None = None
    hidden: int = 1024
    layers: int = 2
    dropout: float = 0.1
    standardize: bool = False
    lr: float = 1e-4
    weight_decay: float = 1e-4
    batch_size: int = 256
    epochs: int = 30
    val_fraction: float = 0.1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"

    def __post_init__(self) -> None:
        for key in ("hidden", "layers", "batch_size", "epochs"):
            require(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "1 or more")
        require(
            self.folds is None or self.folds == 0 or 2 <= self.folds <= 100, "train.folds", self.folds, "0, 2 to 100"
        )
        require(0 <= self.dropout < 1, "train.dropout", self.dropout, "at least 0 and below 1")
        require(self.lr > 0, "train.lr", self.lr, "above 0")
        require(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.val_fraction < 1, "train.val_fraction", self.val_fraction, "at least 0 and below 1")


@dataclass(frozen=True)
class LabelConfig:
    """Classification of every region by the labeler.

    Args:
        top_k: Classes stored per region.
    """

    top_k: int = 5

    def __post_init__(self) -> None:
        require(self.top_k >= 1, "label.top_k", self.top_k, "1 or more")


@dataclass(frozen=True)
class BuildConfig:
    """The release.

    Args:
        version: Semantic version recorded in every row.
        name: Pretty name of the dataset; by default that of `base` or the name of the run's folder.
        base: An earlier release (a folder, or user/name@v1.0.0 on the Hub) whose other splits this one takes over: this
            is how a split is added to a release.
        calibrated: Score labels by their estimated probability of being true. Without it, as in the paper, the score is
            the labeler's highest softmax probability over the proposals, which is far too sure on real photos.
        threshold: Minimum score of a label in the table.
        precision: Instead of `threshold`, take the smallest one at which the added labels are estimated to have this
            precision. Example: with 0.9, about nine of ten added labels should be true.
        class_thresholds: Thresholds of single classes, by name. Example: {cat: 0.8}.
        exclude_classes: Classes that are never added.
        parents: File with lines `child<TAB>parent` of class names, a class list with a column `parent`, or `wordnet`
            (needs the extra of this name). A class and its ancestor are not two objects: of both, an image lists the
            given label, else the more specific one.
        region_score: Minimum softmax probability of a region in the release that carries no label of its image. Such a
            region is left out if the calibrated score of its class is 0.
        include_original: Always list the original label, with score 1.
        include_global: Without `calibrated`, use the labeler's prediction for the whole image in the same way as a
            region's.
        corrections: Corrections by hand, corrections.jsonl; by default the one in the run's folder, if there is one.
        checked: Result of a review, checked.json; by default the one in the run's folder, if there is one.
        recalibrate: Correct the scores of added labels by the answers of the review.
        rows_per_file: Maximum number of images per Parquet file of the `regions` configuration.
    """

    version: str = "1.0.0"
    name: str | None = None
    base: str | None = None
    calibrated: bool = True
    threshold: float = 0.5
    precision: float | None = None
    class_thresholds: dict[str, float] = field(default_factory=dict)
    exclude_classes: list[str] = field(default_factory=list)
    parents: str | None = None
    region_score: float = 0.5
    include_original: bool = True
    include_global: bool = False
    corrections: str | None = None
    checked: str | None = None
    recalibrate: bool = False
    rows_per_file: int = 100_000

    def __post_init__(self) -> None:
        require(self.calibrated or not self.recalibrate, "build.recalibrate", True, "false without build.calibrated")
        for key in ("threshold", "region_score"):
            require(0 <= getattr(self, key) <= 1, f"build.{key}", getattr(self, key), "from 0 to 1")
        if self.precision is not None:
            require(0 < self.precision < 1, "build.precision", self.precision, "above 0 and below 1, or null")
            require(self.calibrated, "build.precision", self.precision, "null without build.calibrated")
        for name, value in self.class_thresholds.items():
            require(0 <= value <= 1, f"build.class_thresholds.{name}", value, "from 0 to 1")
        require(self.rows_per_file >= 1, "build.rows_per_file", self.rows_per_file, "1 or more")
        parts = self.version.split(".")
        ok = len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)
        require(ok, "build.version", self.version, "three numbers such as 1.0.0")
