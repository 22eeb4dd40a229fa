"""One tree of frozen dataclasses: every setting, its default and its meaning.

A YAML file contains only what differs from the defaults; the command line overrides any setting by its dotted name
(`--backbone.image_size 448`). Invalid values are refused, by name, when the configuration is created.
Settings that depend on the backbone are null or `auto` by default, and `vision/families.py` chooses them by its type.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_relabel.errors import UsageError


def _require(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise UsageError(f"{key}: must be {rule}, got {value!r}")


@dataclass(frozen=True)
class SourceConfig:
    """The single-label dataset to relabel.

    Args:
        kind: `folder` has one subfolder per class, or any layout and a file of labels; `dataset` is anything that
            `datasets.load_dataset` opens.
        path: The image folder, or the dataset's local folder or Hub id, or a file: a CSV, JSONL or Parquet file of
            labels next to its images (`folder`) or a file with the rows of a dataset (`dataset`).
        config_name: Configuration of the Hub dataset.
        split: Split to relabel; for a folder only the name of the result's split. A list relabels several: the labeler
            is trained on the first and labels the others. Their images are in splits of these names, or in folders
            below the path (`val` for validation), or where `NAME:PLACE` says: a folder, or another dataset.
        revision: Branch, tag or commit of the Hub dataset.
        streaming: Read a Parquet or WebDataset dataset part by part instead of downloading it first.
        labels: For a folder without class subfolders: CSV, TSV, JSONL or Parquet file with a row per image, its name in
            `image_column` (or a column such as `file_name`) and its class in `label_column`.
        image_column: Column with the image, as `datasets.Image`, bytes, {bytes, path} or a path.
        image_root: Folder that the paths in `image_column` start from; by default the dataset's folder.
        label_column: Column with the class; `json.label` is the field `label` of the column `json`.
        id_column: Column with a unique name for each image; by default the stored path, or split and row number.
        id_from: `row` takes split and row number as ids even where paths are stored, which streaming reads fastest.
        class_names: File with the classes, one per line: a class name (.txt), or folder name, tab, class name (.tsv).
        unlabeled: What to do with an image whose label is missing, -1 or not among the classes: `refuse` the dataset,
            `skip` the image and list it in the run's `source-excluded.jsonl`, or `keep` it for a finished labeler
            (`--labeler`).
        labeled: Whether the images have labels. If false, labels are ignored, and a folder's images may be anywhere
            below it; such images need a finished labeler (`--labeler`).
        only_classes: Use only these classes: a list of names or folder names, or a .txt file with one per line.
        only_ids: Use only the images whose ids are in this .txt file, one per line.
        limit: Use only the first images in the order of their ids.
        max_pixels: Number of pixels above which an image counts as unreadable; it protects against images that fill the
            memory.
    """

    kind: Literal["folder", "dataset"] = "folder"
    path: str = ""
    config_name: str | None = None
    split: list[str] | str = "train"
    revision: str | None = None
    streaming: bool = False
    labels: str | None = None
    image_column: str = "image"
    image_root: str | None = None
    label_column: str = "label"
    id_column: str | None = None
    id_from: Literal["auto", "row"] = "auto"
    class_names: str | None = None
    unlabeled: Literal["refuse", "skip", "keep"] = "refuse"
    labeled: bool = True
    only_classes: list[str] | str | None = None
    only_ids: str | None = None
    limit: int | None = None
    max_pixels: int = 178_956_970

    def __post_init__(self) -> None:
        _require(self.limit is None or self.limit > 0, "source.limit", self.limit, "1 or more, or null")
        names = self.split_names
        _require(len(set(names)) == len(names) > 0, "source.split", self.split, "one name or more, each once")
        _require(self.max_pixels > 0, "source.max_pixels", self.max_pixels, "1 or more")
        is_folder = self.kind == "folder"
        _require(not (is_folder and self.streaming), "source.streaming", True, "false for source.kind folder")
        _require(is_folder or self.labels is None, "source.labels", self.labels, "null for source.kind dataset")
        _require(not is_folder or self.id_column is None, "source.id_column", self.id_column, "null for a folder")
        ok = self.id_column is None or self.id_from == "auto"
        _require(ok, "source.id_from", self.id_from, "auto if source.id_column is set")

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, the one to train on first."""
        entries = [self.split] if isinstance(self.split, str) else self.split
        return [entry.partition(":")[0] for entry in entries]


REGION_BACKBONE = "region_backbone"
"""Key of a backbone's identity with the identity of the second one, `backbone.region_model`, if there is one."""

FeatureKind = Literal["auto", "key", "query", "value", "token"]


@dataclass(frozen=True)
class FeatureConfig:
    """Activations of the ViT that represent a patch.

    Args:
        kind: `key`, `query` or `value` of a block's attention, or `token`, the block's output; `auto` takes what suits
            the model.
        block: Index of the block (of the stage, for a ConvNeXt) from 0; a negative index counts from the end, -1 is the
            last block. null: the block that suits the model; the last one if `kind` is given.
        norm: Apply the model's final LayerNorm to `token`; it has no effect on the other kinds, nor on a ConvNeXt's
            earlier stages. null: what suits the model; true if `kind` is given.
    """

    kind: FeatureKind = "auto"
    block: int | None = None
    norm: bool | None = None


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen self-supervised ViT (or DINOv3's ConvNeXt).

    Args:
        model: Hub id or local folder of a DINO, DINOv2 (with or without registers) or DINOv3 model, in the format of
            transformers or, for ViTs, of timm (safetensors).
        revision: Branch, tag or commit on the Hub.
        image_size: Side in pixels of the square that images are resized to; a multiple of the patch size. null: what
            suits the model, such as 512 for patches of 16 pixels and 448 for 14.
        dtype: Precision of the forward pass. The features are converted to float32.
        proposal_feature: Patch features that MaskCut uses.
        region_feature: Patch features that are averaged over a mask for the labeler.
        region_model: Another model for `region_feature`, so that proposals come from one model and labels from another;
            null uses `model` for both.
        region_revision: Branch, tag or commit of `region_model`.
        region_image_size: Side in pixels of the images for `region_model`; null: what suits it.
    """

    model: str = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    revision: str | None = None
    image_size: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    proposal_feature: FeatureConfig = field(default_factory=FeatureConfig)
    region_feature: FeatureConfig = field(default_factory=FeatureConfig)
    region_model: str | None = None
    region_revision: str | None = None
    region_image_size: int | None = None

    def __post_init__(self) -> None:
        for key in ("region_revision", "region_image_size"):
            ok = self.region_model is not None or getattr(self, key) is None
            _require(ok, f"backbone.{key}", getattr(self, key), "null without backbone.region_model")
        _require(self.region_model != "", "backbone.region_model", "", "a Hub id or a local folder, or null")
        _require(bool(self.model), "backbone.model", self.model, "a Hub id or a local folder")
        ok = self.image_size is None or self.image_size > 0
        _require(ok, "backbone.image_size", self.image_size, "a positive multiple of the patch size, or null")


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
        solver: `lanczos` solves one image at a time on the CPU, `krylov` a batch on the device; `auto` chooses by
            device.
        masks: COCO JSON file with masks to use instead of generated ones, as CutLER and MaskCut write it: `file_name`
            is the image's path below source.path, categories are ignored. `generators`, `tau`, `max_masks`,
            `merge_masks` and `solver` then have no effect.
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
    solver: Literal["auto", "lanczos", "krylov"] = "auto"
    masks: str | None = None
    masks_orientation: Literal["auto", "stored", "upright"] = "auto"
    views: int = 2
    view_drop: float = 0.2

    def __post_init__(self) -> None:
        ok = self.tau is None or 0 <= self.tau < 1
        _require(ok, "propose.tau", self.tau, "at least 0 and below 1, or null")
        _require(1 <= self.max_masks <= 64, "propose.max_masks", self.max_masks, "from 1 to 64")
        ok = len(set(self.generators)) == len(self.generators) > 0
        _require(ok, "propose.generators", self.generators, "one or more of maskcut and merge, each once")
        _require(1 <= self.merge_masks <= 256, "propose.merge_masks", self.merge_masks, "from 1 to 256")
        _require(0 <= self.windows <= 16, "propose.windows", self.windows, "from 0 to 16")
        _require(self.views >= 0, "propose.views", self.views, "0 or more")
        _require(0 <= self.view_drop < 1, "propose.view_drop", self.view_drop, "at least 0 and below 1")


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
        _require(self.rounds >= 1, "score.bootstrap.rounds", self.rounds, "1 or more")
        _require(self.folds >= 2, "score.bootstrap.folds", self.folds, "2 or more")
        _require(0 < self.confident <= 1, "score.bootstrap.confident", self.confident, "above 0 and at most 1")
        _require(0 < self.other_class <= 1, "score.bootstrap.other_class", self.other_class, "above 0 and at most 1")
        _require(0 < self.unsure <= 1, "score.bootstrap.unsure", self.unsure, "above 0 and at most 1")
        _require(self.max_background >= 0, "score.bootstrap.max_background", self.max_background, "0 or more")
        _require(self.temperature > 0, "score.bootstrap.temperature", self.temperature, "above 0")
        _require(0 < self.shrinkage <= 1, "score.bootstrap.shrinkage", self.shrinkage, "above 0 and at most 1")


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
        _require(self.top_k >= 1, "score.top_k", self.top_k, "1 or more")
        for key in ("tau_label", "tau_background"):
            _require(0 <= getattr(self, key) <= 1, f"score.{key}", getattr(self, key), "from 0 to 1")
        if self.method == "label_map" and not self.label_maps:
            raise UsageError("score.label_maps: score.method is label_map, but no folder of label maps is given")


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
            _require(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "1 or more")
        _require(
            self.folds is None or self.folds == 0 or 2 <= self.folds <= 100, "train.folds", self.folds, "0, 2 to 100"
        )
        _require(0 <= self.dropout < 1, "train.dropout", self.dropout, "at least 0 and below 1")
        _require(self.lr > 0, "train.lr", self.lr, "above 0")
        _require(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.val_fraction < 1, "train.val_fraction", self.val_fraction, "at least 0 and below 1")


@dataclass(frozen=True)
class LabelConfig:
    """Classification of every region by the labeler.

    Args:
        top_k: Classes stored per region.
    """

    top_k: int = 5

    def __post_init__(self) -> None:
        _require(self.top_k >= 1, "label.top_k", self.top_k, "1 or more")


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
        region_score: Minimum softmax probability of a region in the release that carries no label of its image. Such a
            region is left out if the calibrated score of its class is 0.
        include_original: Always list the original label, with score 1.
        include_global: Without `calibrated`, use the labeler's prediction for the whole image in the same way as a
            region's.
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
    region_score: float = 0.5
    include_original: bool = True
    include_global: bool = False
    rows_per_file: int = 100_000

    def __post_init__(self) -> None:
        for key in ("threshold", "region_score"):
            _require(0 <= getattr(self, key) <= 1, f"build.{key}", getattr(self, key), "from 0 to 1")
        if self.precision is not None:
            _require(0 < self.precision < 1, "build.precision", self.precision, "above 0 and below 1, or null")
            _require(self.calibrated, "build.precision", self.precision, "null without build.calibrated")
        for name, value in self.class_thresholds.items():
            _require(0 <= value <= 1, f"build.class_thresholds.{name}", value, "from 0 to 1")
        _require(self.rows_per_file >= 1, "build.rows_per_file", self.rows_per_file, "1 or more")
        parts = self.version.split(".")
        ok = len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)
        _require(ok, "build.version", self.version, "three numbers such as 1.0.0")


@dataclass(frozen=True)
class RunConfig:
    """How the work is done. Only `seed` and `shard_size` change the results.

    Args:
        dir: Folder of the run; every stage writes below it.
        shard_size: Images per shard, the unit of resuming and of sharing work.
        batch_size: Images in one forward pass on a GPU; on CPUs each thread computes one image at a time.
        workers: Processes per rank that decode images. null: none on CPUs; on a GPU the rank's share of the cores, at
            most 8.
        threads: Images that each rank computes in parallel on a CPU. null: the rank's share of the cores.
        max_error_rate: Share of unreadable images above which the run stops.
        overwrite: Redo work that was made with other settings or is damaged; work that is good stays.
        seed: Seed of all random numbers.
    """

    dir: str = "runs/relabel"
    shard_size: int = 1024
    batch_size: int = 16
    workers: int | None = None
    threads: int | None = None
    max_error_rate: float = 0.01
    overwrite: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("shard_size", "batch_size"):
            _require(getattr(self, key) >= 1, f"run.{key}", getattr(self, key), "1 or more")
        _require(bool(self.dir), "run.dir", self.dir, "a folder")
        _require(self.workers is None or self.workers >= 0, "run.workers", self.workers, "0 or more, or null")
        _require(self.threads is None or self.threads >= 1, "run.threads", self.threads, "1 or more, or null")
        _require(0 <= self.max_error_rate <= 1, "run.max_error_rate", self.max_error_rate, "from 0 to 1")


@dataclass(frozen=True)
class Config:
    """All settings of a run, one section per stage and one each for source, backbone and run.

    Args:
        labeler: A finished labeler to use instead of training one: another run's folder, a labeler's folder or a Hub id
            (user/name or user/name@revision). Its backbone and its settings of `propose` apply.
    """

    source: SourceConfig = field(default_factory=SourceConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    run: RunConfig = field(default_factory=RunConfig)
    labeler: str | None = None

    def __post_init__(self) -> None:
        source = self.source
        # Of several splits, only the first trains; whether its images have labels is checked when they are read.
        keeps = source.unlabeled == "keep" and len(source.split_names) == 1
        if self.labeler is None and (keeps or not source.labeled):
            key, value = ("labeled", "false") if not source.labeled else ("unlabeled", "keep")
            raise UsageError(
                f"source.{key}: {value}, but no labeler can be trained on images without labels; name a finished one "
                "with --labeler"
            )


def as_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration or one of its sections to nested dictionaries, ready for YAML or JSON."""
    return dataclasses.asdict(config)
