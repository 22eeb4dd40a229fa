"""Small photos with labels, regions and awkward names, and their release."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from release_folder import write_release

from hf_relabel.release.reader import Release

NAMES = ["cat", "<img src=x onerror=\"document.title='hacked'\">", "red & \u2028blue", "tree"]


def rows(images: int) -> list[dict[str, Any]]:
    """Rows with every case that a filter tells apart; scores depend on the number."""
    found = []
    for number in range(images):
        given = None if number % 10 == 9 else number % 4
        added = [label for label in range(4) if label != given][: number % 4]
        scores = {label: round(0.5 + 0.04 * ((number + label) % 12), 2) for label in added}
        if given is not None:
            scores[given] = 1.0
        labels = sorted(scores, key=lambda label: (-scores[label], label))
        mask = np.zeros((90, 120), bool)
        mask[20:60, 30 : 60 + number % 40] = True
        shown = [{"label": label, "score": scores[label], "mask": mask} for label in labels[: number % 3]]
        found.append(
            {
                "image_id": f"{'ab'[number % 2]}/<b>{number:04d}.jpg",
                "label": given,
                "labels": labels,
                "scores": [scores[label] for label in labels],
                "label_score": None if given is None or number % 5 == 0 else (number % 10) / 10,
                "width": 120,
                "height": 90,
                "regions": shown,
            }
        )
    return sorted(found, key=lambda row: row["image_id"])


def make_release(folder: Path, images: int) -> tuple[Release, list[dict[str, Any]]]:
    """A release in `folder/release`, its photos in `folder/images`, and true labels in `folder/truth.jsonl`."""
    made = rows(images)
    write_release(folder / "release", NAMES, made)
    with open(folder / "truth.jsonl", "w") as file:
        for number, row in enumerate(made):
            path = folder / "images" / row["image_id"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (120, 90), (number % 256, 90, 160)).save(path)
            truth = sorted({*row["labels"][: 1 + number % 2], number % 4})
            file.write(json.dumps({"image_id": row["image_id"], "labels": truth}) + "\n")
    return Release.open(folder / "release"), made
