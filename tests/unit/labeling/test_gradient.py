"""Heads trained by gradient descent in one pass: each as it would train alone, none on the fold that it leaves out."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from hf_relabel.config import TrainConfig
from hf_relabel.errors import StageError
from hf_relabel.labeling import gradient
from hf_relabel.labeling.examples import Examples, map_examples
from hf_relabel.labeling.gradient import GradientTrainer
from hf_relabel.labeling.labeler import Heads, HeadShape
from hf_relabel.run.ranks import Rank

RANK = Rank(0, 1, 1, torch.device("cpu"), 1)
CLASSES, DIM = 3, 8


def make_examples(folder, folds: int, held_out: float = 0.2, rows: int = 120, seed: int = 0, change=None) -> Examples:
    """Separable examples; `change` may alter features and targets before they are stored."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(CLASSES, size=rows)
    features = 2 * rng.normal(size=(CLASSES, DIM))[targets] + rng.normal(size=(rows, DIM))
    fold = rng.integers(folds, size=rows) if folds else np.full(rows, -1)
    held = rng.random(rows) < held_out
    if change is not None:
        change(features, targets, fold)
    path = folder / "examples"
    path.write_bytes(features.astype(np.float16).tobytes())
    with open(path, "rb") as file:
        return map_examples(file, targets, held, fold, np.arange(rows), (1, DIM))


def trained(folder, examples: Examples, heads: int, **config) -> tuple[Heads, dict]:
    settings = {"hidden": 16, "lr": 1e-2, "epochs": 4, "batch_size": 16, "dropout": 0.0} | config
    train = TrainConfig(**settings)
    shape = HeadShape("mlp", DIM, CLASSES, train.hidden, train.layers, train.dropout)
    return GradientTrainer(examples, shape, heads, train, 0, RANK).fit(folder / "checkpoint.pt", "digest")


def alone(examples: Examples, head: int, of: int, epochs: int) -> list[torch.Tensor]:
    """One head trained by a plain loop on the same batches, without the rows of the fold that it leaves out."""
    torch.manual_seed(0)
    start = Heads(HeadShape("mlp", DIM, CLASSES, 16, 2, 0.0), of)
    weights = [torch.nn.Parameter(value[head].detach().clone()) for value in [*start.weights, *start.biases]]
    optimizer = torch.optim.AdamW(weights, 1e-2, weight_decay=1e-4)
    features = torch.from_numpy(np.array(examples.features[:, 0])).float()
    targets = torch.from_numpy(np.array(examples.targets))
    train_rows = np.flatnonzero(~examples.held_out)
    for epoch in range(epochs):
        rows = np.random.default_rng([0, epoch]).permutation(train_rows)
        for at in range(0, len(rows), 16):
            batch = rows[at : at + 16]
            batch = batch[examples.fold[batch] != head - 1] if head else batch
            hidden = features[batch]
            for layer in range(3):
                hidden = hidden @ weights[layer] + weights[3 + layer]
                hidden = functional.gelu(hidden) if layer < 2 else hidden
            optimizer.zero_grad()
            functional.cross_entropy(hidden, targets[batch]).backward()
            optimizer.step()
    return weights


def test_heads_in_one_pass_are_as_if_trained_alone(tmp_path):
    examples = make_examples(tmp_path, folds=2, held_out=0.0)
    several, _ = trained(tmp_path, examples, 3, epochs=1)
    for head in range(3):
        expected = alone(examples, head, 3, epochs=1)
        for ours, theirs in zip([*several.weights, *several.biases], expected, strict=True):
            assert torch.allclose(ours[head], theirs, atol=1e-5)


def test_a_head_does_not_depend_on_the_fold_that_it_leaves_out(tmp_path):
    """Neither its weights, bit for bit, nor the choice of its best epoch: with held-out images, and without any."""

    def spoil(features, targets, fold):
        features[fold == 1] *= -3
        targets[fold == 1] = 0

    for held_out in (0.0, 0.3):
        plain, _ = trained(tmp_path, make_examples(tmp_path, 3, held_out), 4)
        spoiled, _ = trained(tmp_path, make_examples(tmp_path, 3, held_out, change=spoil), 4)
        for ours, theirs in zip(plain.parameters(), spoiled.parameters(), strict=True):
            assert torch.equal(ours[2], theirs[2])
            assert not torch.equal(ours[0], theirs[0])
            assert not torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_one_head_without_folds_learns_from_all_rows(tmp_path, held_out):
    examples = make_examples(tmp_path, folds=0, held_out=held_out)
    heads, record = trained(tmp_path, examples, 1)
    features = torch.from_numpy(np.array(examples.features[:, 0])).float()
    right = heads.one(features, 0).argmax(dim=1).numpy() == examples.targets
    assert right.mean() > 0.9
    assert record["regions"] == np.count_nonzero(~examples.held_out)


def test_each_head_is_kept_as_of_its_best_epoch(tmp_path, monkeypatch):
    """The measured quality of each head is made up; the weights after each epoch are recorded."""
    right = {0: [0.5, 0.9, 0.7], 1: [0.6, 0.6, 0.6]}
    loss = {0: [1.0, 1.0, 0.1], 1: [0.5, 0.3, 0.4]}
    after: list[torch.Tensor] = []

    def evaluate(self):
        epoch = len(after)
        after.append(self.heads.weights[0].detach().clone())
        return [right[head][epoch] for head in (0, 1)], [loss[head][epoch] for head in (0, 1)]

    monkeypatch.setattr(GradientTrainer, "_evaluate", evaluate)
    heads, record = trained(tmp_path, make_examples(tmp_path, 1), 2, epochs=3)
    assert record["best_epoch"] == 1
    assert torch.equal(heads.weights[0][0], after[1][0])
    assert torch.equal(heads.weights[0][1], after[1][1])


def test_all_images_held_out_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"train\.val_fraction"):
        trained(tmp_path, make_examples(tmp_path, 2, held_out=1.0), 3)


def test_moments_in_chunks_are_numpys(tmp_path, monkeypatch):
    monkeypatch.setattr(gradient, "ROWS_AT_ONCE", 16)
    examples, rows = make_examples(tmp_path, 2), np.arange(3, 53)
    mean, deviation = gradient._moments(examples, rows)
    expected = np.array(examples.features)[rows, 0].astype(np.float64)
    assert torch.allclose(mean, torch.from_numpy(expected.mean(0)).float(), atol=1e-5)
    assert torch.allclose(deviation, torch.from_numpy(expected.std(0)).float(), atol=1e-5)
