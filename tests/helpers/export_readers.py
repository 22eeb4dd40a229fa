"""Read an export with the tool it is for, and print what the tool understood as JSON.

    python export_readers.py READER PATH     runs in the environment of scripts/readers.txt

The answer is a list of images, each {"image", "regions": [{"name", "area", "score", "probability"}]}; values that a
tool does not know are null.
"""

import json
import sys
from pathlib import Path
from typing import Any


def region(name: str, area: float, score: Any = None, probability: Any = None) -> dict[str, Any]:
    """Describe a region as a tool sees it."""
    return {"name": name, "area": int(area), "score": score, "probability": probability}


def supervision_coco(folder: Path) -> list[dict[str, Any]]:
    """labels.json and data/, as in the FiftyOne export."""
    import supervision

    dataset = supervision.DetectionDataset.from_coco(
        str(folder / "data"), str(folder / "labels.json"), force_masks=True
    )
    return _of_supervision(dataset, folder / "data")


def supervision_yolo(folder: Path) -> list[dict[str, Any]]:
    """The YOLO export."""
    import supervision

    images, labels = folder / "images/train", folder / "labels/train"
    dataset = supervision.DetectionDataset.from_yolo(
        str(images), str(labels), str(folder / "data.yaml"), force_masks=True
    )
    return _of_supervision(dataset, images)


def _of_supervision(dataset: Any, images: Path) -> list[dict[str, Any]]:
    answer = []
    for path, _, found in dataset:
        regions = (
            [region(dataset.classes[label], mask.sum()) for label, mask in zip(found.class_id, found.mask, strict=True)]
            if len(found)
            else []
        )
        answer.append({"image": str(Path(path).relative_to(images)), "regions": regions})
    return answer


def datumaro_coco(folder: Path) -> list[dict[str, Any]]:
    """annotations/instances_train.json and images/train; CVAT reads COCO with a fork of datumaro."""
    from datumaro import Dataset

    dataset = Dataset.import_from(str(folder), "coco_instances")
    names = [label.name for label in dataset.categories()[next(iter(dataset.categories()))]]
    answer = []
    for item in dataset:
        regions: dict[int, dict[str, Any]] = {}
        for found in item.annotations:
            if found.type.name not in ("mask", "polygon"):
                continue
            area = found.get_area()
            kept = regions.setdefault(found.group, region(names[found.label], 0, found.attributes.get("score")))
            kept["area"] += int(area)
        answer.append({"image": item.id + ".jpg", "regions": list(regions.values())})
    return answer


def fiftyone_folder(folder: Path) -> list[dict[str, Any]]:
    """The FiftyOne export, by the importer that `fiftyone.Dataset.from_dir` uses."""
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    importer = COCODetectionDatasetImporter(str(folder), label_types=["segmentations"])
    answer = []
    with importer:
        for path, _, label in importer:
            found = label["segmentations"] if isinstance(label, dict) else label
            regions = [
                region(
                    each.label, each.mask.sum(), each.confidence or each["score"], each.get_field("label_probability")
                )
                for each in (found.detections if found else [])
            ]
            answer.append({"image": str(Path(path).relative_to(folder.resolve() / "data")), "regions": regions})
    return answer


def fiftyone_image_labels(folder: Path) -> list[dict[str, Any]]:
    """The labels of whole images in the FiftyOne export, by the importer that `merge_dir` uses."""
    from fiftyone.utils.data.importers import FiftyOneImageClassificationDatasetImporter

    importer = FiftyOneImageClassificationDatasetImporter(
        data_path=str(folder / "data"), labels_path=str(folder / "image_labels.json")
    )
    with importer:
        return [
            {
                "image": str(Path(path).relative_to(folder.resolve() / "data")),
                "labels": [[each.label, each.confidence] for each in label.classifications],
            }
            for path, _, label in importer
        ]


def label_studio(folder: Path) -> list[dict[str, Any]]:
    """The Label Studio export: each prediction must be valid for the labeling interface."""
    import numpy
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface
    from PIL import Image, ImageDraw

    interface = LabelInterface((folder / "label_config.xml").read_text())
    interface.validate()
    answer = []
    for task in json.loads((folder / "tasks.json").read_text()):
        [prediction] = task["predictions"]
        errors = interface.validate_prediction(prediction, return_errors=True)
        assert not errors, errors
        regions: dict[str, dict[str, Any]] = {}
        for result in prediction["result"]:
            if result["type"] == "choices":
                continue
            value, size = result["value"], (result["original_width"], result["original_height"])
            if result["type"] == "brushlabels":
                pixels = decode_rle(value["rle"]).reshape(size[1], size[0], 4)
                assert set(numpy.unique(pixels)) <= {0, 255}
                area = (pixels[..., 3] > 0).sum()
            else:
                canvas = Image.new("1", size)
                points = [(x * size[0] / 100 - 0.5, y * size[1] / 100 - 0.5) for x, y in value["points"]]
                ImageDraw.Draw(canvas).polygon(points, fill=1)
                area = numpy.asarray(canvas).sum()
            name = value[result["type"]][0]
            kept = regions.setdefault(result["id"].split("-")[0], region(name, 0, None, result["score"]))
            kept["area"] += int(area)
        answer.append({"image": task["data"]["image_id"], "regions": list(regions.values())})
    return answer


def label_studio_converter(folder: Path) -> list[dict[str, Any]]:
    """Brush tasks, accepted as annotations, through the SDK's converter to NumPy masks."""
    import re

    import numpy
    from label_studio_sdk.converter import Converter

    tasks = json.loads((folder / "tasks.json").read_text())
    answer = [{"image": task["data"]["image_id"], "regions": []} for task in tasks]
    for number, task in enumerate(tasks):
        [prediction] = task.pop("predictions")
        annotation = {"id": number, "completed_by": 1, "result": prediction["result"]}
        task |= {"id": number, "annotations": [annotation]}
    (folder / "accepted.json").write_text(json.dumps(tasks))
    (folder / "masks").mkdir()
    converter = Converter(str(folder / "label_config.xml"), str(folder), download_resources=False)
    converter.convert(str(folder / "accepted.json"), str(folder / "masks"), "BRUSH_TO_NUMPY", is_dir=False)
    for path in sorted((folder / "masks").glob("*.npy")):
        number, name = re.fullmatch(r"task-(\d+)-annotation-.*-by-1-regions-(.*)-\d+", path.stem).groups()
        answer[int(number)]["regions"].append(region(name, (numpy.load(path) > 0).sum()))
    return answer


if __name__ == "__main__":
    reader, path = sys.argv[1], Path(sys.argv[2])
    print("ANSWER " + json.dumps(globals()[reader](path), default=float))
