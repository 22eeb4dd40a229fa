"""Evaluate an image classifier, or its stored predictions, on single labels or on lists of labels.

hf-relabel evaluate --model out --images val --truth real.json --json results.json
hf-relabel evaluate --model out --images imagenetv2-matched-frequency-format-val --match-classes index \\
    --truth imagenet-v2-multi-label.json
hf-relabel evaluate --predictions scores.npy --truth real.json
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from hf_relabel.commands.arguments import (
    add_source_arguments,
    add_truth_arguments,
    labeled_images_of,
    truth_of,
)
from hf_relabel.errors import SourceError, UsageError
from hf_relabel.evaluation.predictions import Predictions, load_predictions, match_classes, save_predictions
from hf_relabel.evaluation.report import plain, refuse_unwritable, render, write_results
from hf_relabel.evaluation.summary import Summary, summarize

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
"""Metrics by the name they have in JSON, and how they are called on the terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", help="classifier: folder or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of the classifier")
    parser.add_argument("--predictions", metavar="FILE", help="stored scores instead: .parquet or .npy, see --save")
    parser.add_argument("--save", metavar="FILE.parquet", help="store the model's scores")
    parser.add_argument(
        "--match-classes",
        choices=("name", "index"),
        default="name",
        help="find the images' classes among the model's by name (default), or take them to be the same in order",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="score from which a class is in the predicted set (default: 0.5)"
    )
    add_source_arguments(parser)
    add_truth_arguments(parser, required=False)
    parser.add_argument("--batch-size", type=int, default=32, help="images in one forward pass (default: 32)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images (default: 0)")
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples; 0: none (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write all results as JSON")
    parser.add_argument(
        "--model-index", metavar="FILE", help="write the results as a model card's metadata (a .md card is updated)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if (args.model is None) == (args.predictions is None):
        raise UsageError("evaluate: give either --model or --predictions")
    if args.resamples < 0 or args.batch_size < 1 or args.workers < 0:
        raise UsageError("evaluate: --resamples and --workers must be 0 or more, --batch-size 1 or more")
    refuse_unwritable(args.json, args.model_index, args.save)
    scores, truth, is_main = _from_model(args) if args.model else _from_predictions(args)
    if not is_main:
        return 0
    try:
        summary = summarize(scores, truth, scores >= args.threshold, resamples=args.resamples, seed=args.seed)
    except ValueError as error:
        raise SourceError(f"{args.truth or args.images}: nothing to evaluate on ({error})") from error
    print(describe(args.model or args.predictions, summary))
    results = {"model": args.model or args.predictions, "truth": args.truth or args.images, "threshold": args.threshold}
    if args.json:
        write_results(args.json, results | plain(summary))
    if args.model_index:
        write_model_index(Path(args.model_index), results, summary)
    return 0


def _from_model(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, bool]:
    """Scores and truth, [N, C] each, and whether this process is the one that reports."""
    if args.images is None:
        raise UsageError("evaluate: --model needs --images")
    images = labeled_images_of(args, "val")
    if args.truth:
        images = images.with_truth(truth_of(args))

    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.training.inference import open_accelerator, predict
    from hf_relabel.training.models import class_names_of, open_classifier

    quiet_libraries()
    model, processor = open_classifier(args.model, args.revision)
    names = class_names_of(model)
    columns = match_classes(names, images.class_names, args.match_classes, args.model)
    accelerator = open_accelerator(args.mixed_precision)
    scores = predict(model, processor, images, accelerator, args.batch_size, args.workers)
    if args.save and accelerator.is_main_process:
        save_predictions(Path(args.save), Predictions(scores, images.image_ids, names))
    accelerator.end_training()
    return scores[:, columns], images.multi_hot, accelerator.is_main_process


def _from_predictions(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, bool]:
    """As `_from_model`. Without --images, the classes and ids are those of the predictions themselves."""
    path = Path(args.predictions)
    stored = load_predictions(path)
    if args.images is not None:
        images = labeled_images_of(args, "val")
        class_names, image_ids, sets = images.class_names, images.image_ids, None if args.truth else images.multi_hot
    elif args.truth is None:
        raise UsageError("evaluate: --predictions needs --truth or --images")
    else:
        class_names = stored.class_names or [str(index) for index in range(stored.scores.shape[1])]
        image_ids, sets = stored.image_ids or [f"{row:09d}" for row in range(len(stored.scores))], None
    if sets is None:
        sets = truth_of(args).of(image_ids, class_names)
    own_names = stored.class_names or class_names
    if len(own_names) != stored.scores.shape[1]:
        raise SourceError(f"{path}: scores {stored.scores.shape[1]} classes, the images have {len(own_names)}")
    columns = match_classes(own_names, class_names, args.match_classes, str(path))
    return stored.scores[stored.rows_of(image_ids, path)][:, columns], sets, True


def describe(who: str, summary: Summary) -> str:
    """The results as text: every metric with its interval, then by the number of true labels."""
    head = f"{who}: {summary.images} images, {summary.classes} classes occur"
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


def write_model_index(path: Path, results: dict[str, Any], summary: Summary) -> None:
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
