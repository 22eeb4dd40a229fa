"""The scores of a release for formats that cannot store them: two CSV files.

    labels.csv     image_id, class, probability, is_original: one line per label of an image
    regions.csv    image_id, file, line, class, score, label_probability: one line per region

`probability` is the estimated probability that the image has the label, `score` the labeler's own score of a region.
"""

import csv
from pathlib import Path
from typing import IO, Any

from hf_relabel.formats.coco_fields import PROBABILITY
from hf_relabel.formats.mask_formats import probability_of
from hf_relabel.release.reader import Release

LABELS, REGIONS = "labels.csv", "regions.csv"


class ScoreFiles:
    """Writes both files, one row of a release after the other.

    Args:
        labels: Open text file for the labels.
        regions: Open text file for the regions.
        class_names: The classes.
    """

    def __init__(self, labels: IO, regions: IO, class_names: list[str]):
        self.names = class_names
        self._labels, self._regions = csv.writer(labels), csv.writer(regions)
        self._labels.writerow(["image_id", "class", "probability", "is_original"])
        self._regions.writerow(["image_id", "file", "line", "class", "score", PROBABILITY])

    def add(self, row: dict[str, Any], file: str) -> None:
        """Add an image, whose regions are the lines of a file."""
        for label, score in zip(row["labels"], row["scores"], strict=True):
            is_original = int(label == row["label"])
            self._labels.writerow([row["image_id"], self.names[label], f"{score:.6g}", is_original])
        for line, region in enumerate(row["regions"], start=1):
            probability = probability_of(region["label"], row)
            shown = "" if probability is None else f"{probability:.6g}"
            name = self.names[region["label"]]
            self._regions.writerow([row["image_id"], file, line, name, f"{region['score']:.6g}", shown])


def open_csv(path: Path) -> IO:
    """Open a CSV file for writing."""
    return open(path, "w", encoding="utf-8", newline="")


COLUMNS = ["image_id", "label", "labels", "scores", "width", "height", "regions"]
"""The columns that `ScoreFiles` and the formats that use it read."""


def all_rows(release: Release) -> Any:
    """Iterate over a release's rows with the columns `COLUMNS`."""
    return release.rows("regions", COLUMNS)
