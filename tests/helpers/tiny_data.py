"""Tiny multi-label images of colored squares, one class per color, and tiny classifiers that learn them in seconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"blue": (40, 60, 220), "green": (30, 180, 60), "red": (220, 40, 40), "yellow": (230, 210, 50)}
NAMES = list(COLORS)
SIDE = 32


def draw(classes: list[str], rng: np.random.Generator) -> tuple[Image.Image, list[np.ndarray]]:
    """Draw a gray image with one square per class, each in its own quarter; returns the image and the masks."""
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8) + rng.integers(0, 20, (SIDE, SIDE, 3), dtype=np.uint8)
    masks = []
    for name, quarter in zip(classes, rng.permutation(4), strict=False):
        top, left = 16 * (quarter // 2) + rng.integers(0, 5), 16 * (quarter % 2) + rng.integers(0, 5)
        mask = np.zeros((SIDE, SIDE), bool)
        mask[top : top + 11, left : left + 11] = True
        pixels[mask] = COLORS[name]
        masks.append(mask)
    return Image.fromarray(pixels), masks


def write_images(folder: Path, count: int, seed: int, names: list[str] = NAMES) -> list[dict]:
    """Write an image folder, with the first class of each image as its label, and `truth.jsonl`.

    Returns:
        The rows of a release of these images.
    """
    rng = np.random.default_rng(seed)
    rows, truth = [], []
    for index in range(count):
        chosen = [names[index % len(names)]]
        chosen += [
            str(name) for name in rng.permutation([name for name in names if name != chosen[0]])[: rng.integers(3)]
        ]
        picture, masks = draw(chosen, rng)
        image_id = f"{chosen[0]}/{index:04d}.png"
        path = folder / "images" / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        labels = [names.index(name) for name in chosen]
        scores = [1.0, *rng.uniform(0.6, 1.0, len(labels) - 1).tolist()]
        regions = [
            {"label": label, "score": score, "mask": mask}
            for label, score, mask in zip(labels, scores, masks, strict=True)
        ]
        size = {"width": SIDE, "height": SIDE}
        rows.append(
            {"image_id": image_id, "label": labels[0], "labels": labels, "scores": scores, "regions": regions} | size
        )
        truth.append({"image_id": image_id, "label": chosen[0], "objects": [{"class": name} for name in chosen]})
    (folder / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    return sorted(rows, key=lambda row: row["image_id"])


def write_model_config(folder: Path) -> str:
    """Write the `config.json` of a ViT that is small enough to train in a test; returns its path."""
    from transformers import ViTConfig

    config = ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=SIDE, patch_size=8
    )
    config.save_pretrained(folder)
    return str(folder / "config.json")
