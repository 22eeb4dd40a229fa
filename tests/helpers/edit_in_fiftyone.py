"""Edit an export of a release in FiftyOne, by the lines that `hf-relabel export fiftyone` prints.

    python edit_in_fiftyone.py PRINTED EDITED      runs in the environment of scripts/readers.txt

PRINTED is what the command printed; EDITED is the folder to export to. In the first image, the region of a dog becomes
a cow; in the second, it is removed; the third gets the region of a tree; in the fourth, the label dog is removed and
cow is added.
"""

import sys
from pathlib import Path

import fiftyone
import numpy


def edit(dataset: fiftyone.Dataset) -> None:
    """Change the regions and labels."""
    first, second, third, fourth = (
        next(sample for sample in dataset if sample.filepath.endswith(f"{number}.jpg")) for number in range(4)
    )
    for detection in first["regions"].detections:
        if detection.label == "dog":
            detection.label = "cow"
    second["regions"].detections = [each for each in second["regions"].detections if each.label != "dog"]
    tree = fiftyone.Detection(label="tree", bounding_box=[0.7, 0, 0.25, 0.2], mask=numpy.ones((8, 15), bool))
    third["regions"].detections.append(tree)
    labels = [each for each in fourth["image_labels"].classifications if each.label != "dog"]
    fourth["image_labels"].classifications = [*labels, fiftyone.Classification(label="cow")]
    for sample in (first, second, third, fourth):
        sample.save()


if __name__ == "__main__":
    printed, folder = Path(sys.argv[1]).read_text(), sys.argv[2]
    reading, writing = printed.split("and after edits:")
    names = {"fiftyone": fiftyone}
    exec(reading[reading.index("dataset = ") :], names)
    edit(names["dataset"])
    exec(writing[: writing.index("hf-relabel review")].replace("edited/", f"{folder}/"), names)
