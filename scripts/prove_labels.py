"""Do classifiers trained on multi-labels beat those trained on single labels? A test on scenes with ground truth.

    python scripts/prove_labels.py --dir runs/prove

For each seed, the pipeline relabels generated scenes that have one label each. Small classifiers on the mean token of
the frozen backbone are then trained on these scenes, as in table 1 of arXiv 2603.05729:

    single-label E2E    the original label, cross-entropy
    + multi-label FT    the same classifier, fine-tuned on the release's scores
    multi-label E2E     the release's scores from the start, binary cross-entropy
    full truth          the true label sets: the upper limit

They are evaluated on held-out scenes with full ground truth, and transferred to scenes of other classes in two ways:
fine-tuned as a whole, and with only a new head trained. Intervals are 95% bootstrap intervals over seeds and held-out
scenes. A run that was interrupted resumes.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # no progress bars for dozens of short trainings

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from hf_relabel.commands.demo import demo_config
from hf_relabel.config import BackboneConfig, SourceConfig
from hf_relabel.demo.checkpoint import ensure_checkpoint
from hf_relabel.demo.scenes import CLASSES, PLAIN, make_scenes
from hf_relabel.evaluation import metrics
from hf_relabel.evaluation.datasets import LabeledImages, from_source
from hf_relabel.evaluation.ground_truth import read_truth
from hf_relabel.evaluation.report import render
from hf_relabel.hub.releases import load_labels
from hf_relabel.run.ranks import thread_pool
from hf_relabel.run.store import atomic_open, write_json
from hf_relabel.stages.pipeline import run_stages
from hf_relabel.training.config import TrainingConfig
from hf_relabel.training.loop import train
from hf_relabel.training.targets import WHOLE_IMAGE, ReleaseTargets, SetTargets, Targets
from hf_relabel.vision.backbone import Backbone

OTHER_CLASSES = {
    "apple": "🍎🍏🍐",
    "bicycle": "🚲🛵🏍🛴",
    "boat": "⛵🚤🛶🚢",
    "bread": "🍞🥐🥖🥨",
    "butterfly": "🦋🐝🐞🪲",
    "camera": "📷📸📹🎥",
    "chicken": "🐔🐓🐤🐥",
    "citrus": "🍊🍋🥭",
    "cow": "🐄🐂🐮🐃",
    "cup": "☕🍵🥤🧃",
    "drum": "🥁🪘🎺🎷",
    "elephant": "🐘🦏🦛",
    "frog": "🐸🐢🦎",
    "glasses": "👓🕶🥽",
    "key": "🔑🗝🔒🔓",
    "knife": "🔪🗡⚔🪓",
    "pig": "🐖🐷🐗🐽",
    "rabbit": "🐇🐰🐁🐹",
    "rocket": "🚀🛸🚁",
    "shirt": "👕👚👔🎽",
}
"""Classes of the transfer scenes; their emoji do not occur in the training scenes."""

ROWS = ("single-label E2E", "+ multi-label FT", "multi-label E2E", "full truth (ceiling)")
MEASURES = {
    "top1": "top-1 (in list)",
    "map_over_images": "mAP over images",
    "map_over_classes": "mAP over classes",
    "transfer": "transfer: tuned",
    "transfer_head": "transfer: head",
}
EXPECTED_GAIN = 0.05
"""Expected gain of multi-label E2E over single-label E2E in mAP over images."""
TEST_SEED, TRANSFER_SEED, TRANSFER_TEST_SEED = 1000, 2000, 2001


Scores = dict[str, list[np.ndarray]]
"""Scores, float [N, C], of each seed, by row of the table."""


@dataclass(frozen=True)
class Scenes:
    """Scenes: the backbone's mean token, float32 [N, D], and the true label sets, bool [N, C]."""

    features: np.ndarray
    truth: np.ndarray
    image_ids: list[str]
    class_names: list[str]


class FeatureClassifier(nn.Module):
    """A head with one hidden layer on the backbone's mean token, with the interface of a transformers classifier."""

    def __init__(self, inputs: int, classes: int, hidden: int, dropout: float):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout))
        self.head = nn.Linear(hidden, classes)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.body(pixel_values)))


class FeatureExamples(Dataset):
    """A dataset of features and targets, like `training.data.AugmentedImages`."""

    def __init__(self, features: np.ndarray, targets: Targets):
        self.features = torch.from_numpy(features)
        self.targets = [torch.from_numpy(targets(row, WHOLE_IMAGE)) for row in range(len(features))]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = number % len(self.features)
        return self.features[item], self.targets[item]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dir", type=Path, default=Path("runs/prove"), help="output folder (runs/prove)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of scenes and training (0 1 2)")
    parser.add_argument("--scenes", type=int, default=400, help="training scenes per seed (400)")
    parser.add_argument("--test-scenes", type=int, default=300, help="held-out scenes (300)")
    parser.add_argument("--transfer-scenes", type=int, default=200, help="training scenes of other classes (200)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs per training (60)")
    parser.add_argument("--hidden", type=int, default=512, help="width of the classifiers' hidden layer (512)")
    parser.add_argument("--lr", type=float, default=1e-3, help="maximum learning rate (1e-3)")
    args = parser.parse_args(argv)
    if min(args.scenes, args.test_scenes, args.transfer_scenes) < len(CLASSES):
        parser.error(f"--scenes, --test-scenes, --transfer-scenes: must be at least {len(CLASSES)}, one per class")
    started = time.monotonic()
    torch.set_num_threads(1)
    args.dir.mkdir(parents=True, exist_ok=True)
    checkpoint = ensure_checkpoint()
    backbone = demo_config(args.dir, checkpoint).backbone
    test = scenes(args.dir / "test", args.test_scenes, TEST_SEED, backbone, CLASSES)
    transfer = [
        scenes(args.dir / name, count, seed, backbone, OTHER_CLASSES)
        for name, count, seed in (
            ("transfer-train", args.transfer_scenes, TRANSFER_SEED),
            ("transfer-test", args.test_scenes, TRANSFER_TEST_SEED),
        )
    ]
    scores: Scores = {row: [] for row in ROWS}
    tuned: Scores = {row: [] for row in ROWS}
    headed: Scores = {row: [] for row in ROWS}
    for seed in args.seeds:
        folder = args.dir / f"seed-{seed}"
        make_scenes(folder, args.scenes, seed, style=PLAIN)
        run_stages("run", demo_config(folder, checkpoint, seed))
        known = scenes(folder, args.scenes, seed, backbone, CLASSES)
        for row, model in classifiers(known, folder / "release", args, seed).items():
            scores[row].append(predict(model, standardized(test.features, known.features), softmax=row == ROWS[0]))
            for to, frozen in ((tuned, False), (headed, True)):
                other = transferred(model, transfer[0], known.features, args, seed, frozen)
                to[row].append(predict(other, standardized(transfer[1].features, known.features), softmax=False))
        print(f"seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    results = measure(scores, test.truth, {"transfer": tuned, "transfer_head": headed}, transfer[1].truth)
    print(describe(results, args))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    write_json(args.dir / "results.json", {"settings": settings, "rows": results})
    print(f"done in {time.monotonic() - started:.0f} s")


def scenes(folder: Path, count: int, seed: int, backbone: BackboneConfig, classes: dict[str, str]) -> Scenes:
    """Generate scenes and compute their mean tokens, unless both exist from an earlier run."""
    make_scenes(folder, count, seed, classes=classes, style=PLAIN)
    images = from_source(SourceConfig(path=str(folder / "images")))
    truth = read_truth(str(folder / "truth.jsonl")).of(images.image_ids, images.class_names)
    stored = folder / "mean-token.npy"
    settings = {"scenes": json.loads((folder / "scenes.json").read_text()), "model": Path(backbone.model).name}
    record = folder / "mean-token.json"
    if not record.is_file() or json.loads(record.read_text()) != settings:
        with atomic_open(stored) as file:
            np.save(file, mean_tokens(images, backbone))
        write_json(record, settings)
    return Scenes(np.load(stored), truth, images.image_ids, images.class_names)


def mean_tokens(images: LabeledImages, config: BackboneConfig) -> np.ndarray:
    """Average the backbone's region features over each image's patches: float32 [N, D]."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    found = []
    with thread_pool(threads) as pool:
        model = Backbone.load(config, torch.device("cpu"), pool)
        for start in range(0, len(images), 16):
            batch = range(start, min(start + 16, len(images)))
            pixels = torch.stack([model.preprocess(images.load(index)) for index in batch])
            found.append(model(pixels).region.mean(dim=1).numpy())
    return np.concatenate(found)


def standardized(features: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Standardize features with the mean and standard deviation of the training features."""
    return ((features - training.mean(axis=0)) / training.std(axis=0)).astype(np.float32)


def classifiers(known: Scenes, release: Path, args: argparse.Namespace, seed: int) -> dict[str, FeatureClassifier]:
    """Train the four classifiers of one seed; returns them by row of the table."""
    table = load_labels(str(release))
    row_of = {image_id: index for index, image_id in enumerate(known.image_ids)}
    rows = [row_of[image_id] for image_id in table.image_ids]
    features, truth = standardized(known.features[rows], known.features), known.truth[rows]
    single, soft = ReleaseTargets(table, "single"), ReleaseTargets(table, "soft")
    models = {}

    def fresh() -> FeatureClassifier:
        torch.manual_seed(seed)
        return FeatureClassifier(features.shape[1], len(known.class_names), args.hidden, dropout=0.1)

    models[ROWS[0]] = trained(fresh(), features, single, args, seed, loss="cross_entropy")
    models[ROWS[1]] = trained(copy.deepcopy(models[ROWS[0]]), features, soft, args, seed, lr=args.lr / 2)
    models[ROWS[2]] = trained(fresh(), features, soft, args, seed)
    models[ROWS[3]] = trained(fresh(), features, SetTargets(truth), args, seed)
    return models


def transferred(
    model: FeatureClassifier, data: Scenes, training: np.ndarray, args: argparse.Namespace, seed: int, frozen: bool
) -> FeatureClassifier:
    """Train the classifier with a new head on the label sets of other classes; its body may be frozen."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    other.body.requires_grad_(not frozen)
    other.head = nn.Linear(args.hidden, len(data.class_names))
    return trained(other, standardized(data.features, training), SetTargets(data.truth), args, seed)


def trained(
    model: FeatureClassifier,
    features: np.ndarray,
    targets: Targets,
    args: argparse.Namespace,
    seed: int,
    loss: str = "bce",
    lr: float | None = None,
) -> FeatureClassifier:
    """Train a classifier with the loop of `fit`."""
    config = TrainingConfig(
        model="head on a frozen backbone",
        out=str(args.dir),
        loss=loss,
        lr=lr or args.lr,
        epochs=args.epochs,
        warmup_epochs=3,
        batch_size=64,
        checkpoint_every=0,
        seed=seed,
    )
    return train(model, FeatureExamples(features, targets), config, Accelerator(cpu=True))[0]


@torch.inference_mode()
def predict(model: FeatureClassifier, features: np.ndarray, softmax: bool) -> np.ndarray:
    """Compute log-probabilities, float64 [N, C], with a softmax over the classes or a sigmoid per class."""
    logits = model(torch.from_numpy(features)).logits.double()
    return (logits.log_softmax(dim=1) if softmax else nn.functional.logsigmoid(logits)).numpy()


def measure(
    scores: Scores, truth: np.ndarray, transfers: Mapping[str, Scores], transfer_truth: np.ndarray
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute every measure of every row: mean over the seeds, interval, value of each seed, gain over the first row.

    The interval is a bootstrap interval of the mean: seeds and held-out scenes are resampled with replacement, in the
    same way for every row.

    Args:
        scores: Scores of the held-out scenes, float [N, C] per seed, by row.
        truth: Label sets of the held-out scenes, bool [N, C].
        transfers: Scores of the transfer scenes, by name of the measure.
        transfer_truth: Label sets of the transfer scenes, bool [N, C].
    """
    seeds = len(scores[ROWS[0]])
    draws = _draws(seeds, len(truth)), _draws(seeds, len(transfer_truth))
    samples: dict[str, dict[str, np.ndarray]] = {}
    for row in ROWS:
        hits = np.array([metrics.top1_hits(one, truth) for one in scores[row]], dtype=float)
        precisions = np.array([metrics.average_precision(one, truth) for one in scores[row]])
        samples[row] = {
            "top1": np.array([hits[np.ix_(*draw)].mean() for draw in draws[0]]),
            "map_over_images": np.array([precisions[np.ix_(*draw)].mean() for draw in draws[0]]),
            "map_over_classes": _class_maps(scores[row], truth, draws[0]),
            **{name: _class_maps(found[row], transfer_truth, draws[1]) for name, found in transfers.items()},
        }
    by_seed = {
        row: {
            "top1": [float(metrics.top1_hits(one, truth).mean()) for one in scores[row]],
            "map_over_images": [metrics.map_over_images(one, truth) for one in scores[row]],
            "map_over_classes": [metrics.map_over_classes(one, truth) for one in scores[row]],
            **{
                name: [metrics.map_over_classes(one, transfer_truth) for one in found[row]]
                for name, found in transfers.items()
            },
        }
        for row in ROWS
    }
    return {
        row: {
            name: {
                "value": float(samples[row][name][0]),
                "interval": _interval(samples[row][name]),
                "seeds": by_seed[row][name],
                "gain": float(samples[row][name][0] - samples[ROWS[0]][name][0]),
                "gain_interval": _interval(samples[row][name] - samples[ROWS[0]][name]),
            }
            for name in MEASURES
        }
        for row in ROWS
    }


def _draws(seeds: int, images: int, resamples: int = 300) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw the seeds and images of each resample; the first is the original sample."""
    rng = np.random.default_rng(0)
    drawn = [(rng.integers(seeds, size=seeds), rng.integers(images, size=images)) for _ in range(resamples)]
    return [(np.arange(seeds), np.arange(images)), *drawn]


def _class_maps(scores: list[np.ndarray], truth: np.ndarray, draws: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Compute the mAP over classes of each resample, averaged over its seeds."""
    means = []
    for seeds, images in draws:
        values = {seed: metrics.map_over_classes(scores[seed][images], truth[images]) for seed in set(seeds)}
        means.append(np.mean([values[seed] for seed in seeds]))
    return np.array(means)


def _interval(samples: np.ndarray) -> list[float]:
    return np.quantile(samples[1:], [0.025, 0.975]).tolist()


def describe(results: dict[str, dict[str, dict[str, Any]]], args: argparse.Namespace) -> str:
    """Format the table, the gains over single-label training, and whether they reach the expected gain."""
    head = (
        f"{args.scenes} training scenes, {args.test_scenes} held-out, {len(args.seeds)} seeds; transfer to "
        f"{len(OTHER_CLASSES)} other classes with {args.transfer_scenes} scenes"
    )
    rows = [
        (row, *(_with_interval(results[row][name]["value"], results[row][name]["interval"]) for name in MEASURES))
        for row in ROWS
    ]
    gains = [
        (
            row,
            *(
                _with_interval(results[row][name]["gain"], results[row][name]["gain_interval"], "+")
                for name in MEASURES
            ),
        )
        for row in ROWS[1:]
    ]
    titles = list(MEASURES.values())
    gain = results[ROWS[2]]["map_over_images"]["gain"]
    verdict = (
        f"{ROWS[2]} beats {ROWS[0]} by {100 * gain:.1f} points of mAP over images: "
        f"{'at least' if gain >= EXPECTED_GAIN else 'LESS THAN'} the expected {100 * EXPECTED_GAIN:.0f}"
    )
    tables = [render(["trained on", *titles], rows), render(["gain over single", *titles], gains)]
    return "\n\n".join([head, *tables, verdict])


def _with_interval(value: float, bounds: list[float], sign: str = "") -> str:
    low, high = (f"{100 * bound:{sign}.1f}" for bound in bounds)
    return f"{100 * value:{sign}.1f} [{low}, {high}]"


if __name__ == "__main__":
    main()
