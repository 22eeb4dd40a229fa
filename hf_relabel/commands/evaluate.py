"""Evaluate an image classifier, or its stored predictions, on single labels or on lists of labels.

hf-relabel evaluate --model out --images val --truth real.json --json results.json
hf-relabel evaluate --model out --images imagenetv2-matched-frequency-format-val --match-classes index \\
    --truth imagenet-v2-multi-label.json
hf-relabel evaluate --predictions scores.npy --truth real.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_relabel.commands.arguments import ImageSettings, TruthSettings
from hf_relabel.commands.options import Command, option
from hf_relabel.errors import SourceError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from hf_relabel.evaluation.rolled_up import RolledUp
    from hf_relabel.evaluation.summary import Summary

METRICS = {
    "top1": "top-1 (in the list)",
    "map_over_images": "mAP over images",
    "map_over_classes": "mAP over classes",
    "micro_precision": "precision (micro)",
    "micro_recall": "recall (micro)",
    "micro_f1": "F1 (micro)",
    "macro_precision": "precision (macro)",
    "macro_recall": "recall (macro)",
    "macro_f1": "F1 (macro)",
    "subset_accuracy": "subset accuracy",
    "iou": "IoU of the sets",
}
"""Metrics by their name in JSON, with the title the terminal shows."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Evaluation.

    Args:
        model: Classifier to evaluate: folder or Hub id.
        revision: Branch, tag or commit of the classifier.
        predictions: Stored scores to evaluate instead of a model: .parquet or .npy, as --save writes them.
        save: Store the model's scores in this file.
        match_classes: `name` finds the images' classes among the model's classes by name; `index` assumes the same
            classes in the same order.
        threshold: Minimum score of a class in the predicted set.
        parents: File with lines `child<TAB>parent` of class names, or `wordnet`: also compare the predicted sets along
            this hierarchy, where a parent counts at its level.
        images: Images to evaluate on.
        truth: True labels; by default the images' own.
        batch_size: Images in one forward pass.
        workers: Processes that decode images.
        mixed_precision: Precision of the forward pass.
        resamples: Bootstrap resamples for the confidence intervals; 0 computes none.
        seed: Seed of the bootstrap.
        json: Write all results to this file as JSON.
        model_index: Write the results to this file as a model card's metadata; an existing .md card is updated.
    """

    model: str | None = option(None, "MODEL")
    revision: str | None = option(None, "REVISION")
    predictions: str | None = option(None, "FILE")
    save: str | None = option(None, "FILE.parquet")
    match_classes: Literal["name", "index"] = "name"
    threshold: float = 0.5
    parents: str | None = option(None, "FILE.tsv|wordnet")
    images: ImageSettings
    truth: TruthSettings
    batch_size: int = 32
    workers: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    resamples: int = 1000
    seed: int = 0
    json: str | None = option(None, "FILE.json")
    model_index: str | None = option(None, "FILE")

    def __post_init__(self) -> None:
        if (self.model is None) == (self.predictions is None):
            raise UsageError("evaluate: give either --model or --predictions")
        if self.resamples < 0 or self.batch_size < 1 or self.workers < 0:
            raise UsageError("evaluate: --resamples and --workers must be 0 or more, --batch-size 1 or more")

    @property
    def what(self) -> str:
        """The model or the file of predictions."""
        return self.model or self.predictions or ""


def run(settings: EvaluateSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.evaluation.report import plain, refuse_unwritable, write_results
    from hf_relabel.evaluation.summary import summarize

    refuse_unwritable(settings.json, settings.model_index, settings.save)
    scores, truth, class_names, is_main = _from_model(settings) if settings.model else _from_predictions(settings)
    if not is_main:
        return 0
    on = settings.truth.truth or settings.images.images or ""
    try:
        summary = summarize(
            scores, truth, scores >= settings.threshold, resamples=settings.resamples, seed=settings.seed
        )
    except ValueError as error:
        raise SourceError(f"{on}: nothing to evaluate on ({error})") from error
    print(describe(settings.what, summary))
    print_low_scores(scores, truth, settings.threshold)
    levels = _levels(settings, scores, truth, class_names) if settings.parents else {}
    results = {"model": settings.what, "truth": on, "threshold": settings.threshold}
    if settings.json:
        write_results(settings.json, results | plain(summary) | plain(levels))
    if settings.model_index:
        write_model_index(Path(settings.model_index), results, summary)
    return 0


def _levels(
    settings: EvaluateSettings, scores: "np.ndarray", truth: "np.ndarray", class_names: list[str]
) -> "dict[str, RolledUp]":
    """Compare the predicted sets along the hierarchy, print this, and return it by its name in JSON."""
    from hf_relabel.evaluation.rolled_up import describe_levels, rolled_up
    from hf_relabel.sources.hierarchy import read_hierarchy

    assert settings.parents is not None
    known = truth.any(axis=1)
    rows, classes = (scores[known] >= settings.threshold).nonzero()
    hierarchy = read_hierarchy(settings.parents, class_names)
    levels = rolled_up(rows, classes, truth[known], hierarchy)
    print("\n" + describe_levels(hierarchy.origin, levels))
    return {"rolled_up": levels}


def _from_model(settings: EvaluateSettings) -> "tuple[np.ndarray, np.ndarray, list[str], bool]":
    """Return scores and truth, [N, C] each, the class names, and whether this process is the one that reports."""
    if settings.images.images is None:
        raise UsageError("evaluate: --model needs --images")
    model_name = settings.model or ""
    images = settings.images.open_labeled("val")
    if settings.truth.truth:
        images = images.with_truth(settings.truth.read())

    from hf_relabel.evaluation.predictions import Predictions, match_classes, save_predictions
    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.training.inference import open_accelerator, predict
    from hf_relabel.training.models import class_names_of, open_classifier

    quiet_libraries()
    model, processor = open_classifier(model_name, settings.revision)
    names = class_names_of(model)
    columns = match_classes(names, images.class_names, settings.match_classes, model_name)
    accelerator = open_accelerator(settings.mixed_precision)
    scores = predict(model, processor, images, accelerator, settings.batch_size, settings.workers)
    if settings.save and accelerator.is_main_process:
        save_predictions(Path(settings.save), Predictions(scores, images.image_ids, names))
    accelerator.end_training()
    return scores[:, columns], images.multi_hot, list(images.class_names), accelerator.is_main_process


def _from_predictions(settings: EvaluateSettings) -> "tuple[np.ndarray, np.ndarray, list[str], bool]":
    """Return the same as `_from_model`. Without --images, classes and ids are those of the predictions."""
    from hf_relabel.evaluation.predictions import load_predictions, match_classes

    path = Path(settings.predictions or "")
    stored = load_predictions(path)
    has_truth = settings.truth.truth is not None
    if settings.images.images is not None:
        images = settings.images.open_labeled("val")
        class_names, image_ids, sets = images.class_names, images.image_ids, None if has_truth else images.multi_hot
    elif not has_truth:
        raise UsageError("evaluate: --predictions needs --truth or --images")
    else:
        class_names = stored.class_names or [str(index) for index in range(stored.scores.shape[1])]
        image_ids, sets = stored.image_ids or [f"{row:09d}" for row in range(len(stored.scores))], None
    if sets is None:
        sets = settings.truth.read().of(image_ids, class_names)
    own_names = stored.class_names or class_names
    if len(own_names) != stored.scores.shape[1]:
        raise SourceError(f"{path}: scores {stored.scores.shape[1]} classes, the images have {len(own_names)}")
    columns = match_classes(own_names, class_names, settings.match_classes, str(path))
    return stored.scores[stored.rows_of(image_ids, path)][:, columns], sets, list(class_names), True


def print_low_scores(scores: "np.ndarray", truth: "np.ndarray", threshold: float) -> None:
    """Print a hint if every score is below the threshold: the zeros above it would not explain themselves."""
    from hf_relabel.evaluation.metrics import threshold_curve
    from hf_relabel.evaluation.report import low_scores_hint

    known = truth.any(axis=1)
    if (scores[known] < threshold).all():
        curve = threshold_curve(scores[known].ravel(), truth[known].ravel(), int(truth.sum()))
        print("\n" + low_scores_hint(float(scores[known].max()), threshold, float(curve.thresholds[curve.best])))


def describe(who: str, summary: "Summary") -> str:
    """Format the results as text: every metric with its interval, then by the number of true labels."""
    from hf_relabel.evaluation.report import render

    head = f"{who}: {summary.images} images, {summary.classes} classes present"
    if summary.left_out:
        head += f"; {summary.left_out} images without a true label left out"
    rows = [
        (title, estimate.value, f"[{estimate.low:.4f}, {estimate.high:.4f}]")
        for title, estimate in ((title, summary.metrics[name]) for name, title in METRICS.items())
    ]
    groups = [(name, group.images, group.top1, group.map_over_images) for name, group in summary.groups.items()]
    return "\n\n".join(
        [
            head,
            render(["metric", "value", "95% interval"], rows),
            render(["true labels", "images", "top-1", "mAP over images"], groups),
        ]
    )


def write_model_index(path: Path, results: dict[str, Any], summary: "Summary") -> None:
    """Write the metrics as `model-index` metadata: YAML, or into the front matter of a model card (.md)."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    name = Path(results["model"]).name
    evaluations = [
        EvalResult(
            task_type="image-classification",
            dataset_type=Path(results["truth"]).name,
            dataset_name=Path(results["truth"]).name,
            metric_type=metric,
            metric_name=title,
            metric_value=round(summary.metrics[metric].value, 6),
        )
        for metric, title in METRICS.items()
    ]
    if path.suffix == ".md" and path.is_file():
        card = ModelCard.load(path)
        card.data.model_name = card.data.model_name or name
        card.data.eval_results = evaluations
        card.save(path)
        return
    data = ModelCardData(model_name=name, eval_results=evaluations)
    text = data.to_yaml()
    path.write_text(f"---\n{text}\n---\n\n# {name}\n" if path.suffix == ".md" else text + "\n", encoding="utf-8")


COMMANDS = {
    "evaluate": Command(
        name="evaluate",
        summary="evaluate an image classifier against single or multi-label truth",
        settings=EvaluateSettings,
        run=run,
        description=__doc__ or "",
        common=("model", "predictions", "images", "truth", "json"),
    )
}
