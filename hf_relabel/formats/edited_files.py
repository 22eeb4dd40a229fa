"""Read what people edited in an export of a release: COCO JSON, a FiftyOne folder, or Label Studio's JSON.

The classes are taken by name, as tools number them anew. Fields that a tool dropped are made up for by the masks
(`release/edits.py`). A folder from FiftyOne has the regions in `labels.json` (a `COCODetectionDataset`), and may have
the labels of images in `image_labels.json` (a `FiftyOneImageClassificationDataset`).
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hf_relabel.config.checks import regular_file
from hf_relabel.config.json_file import read_json
from hf_relabel.errors import FormatError
from hf_relabel.formats.coco_fields import LABELS
from hf_relabel.formats.coco_file import CocoFile
from hf_relabel.formats.fiftyone_folder import IMAGE_LABELS
from hf_relabel.formats.fiftyone_folder import LABELS as REGIONS
from hf_relabel.formats.segmentation import read_segmentation
from hf_relabel.release.edits import EditedImage, EditedRegion
from hf_relabel.vision.masks import encode

MAX_PIXELS = 200_000_000


def read_edited(path: Path) -> list[EditedImage]:
    """Read an edited file, or a folder that FiftyOne exported.

    Raises:
        FormatError: It is missing, damaged, or none of these formats.
    """
    file = path / REGIONS if path.is_dir() else path
    try:
        with open(regular_file(file), "rb") as opened:
            first = opened.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        when = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
    except OSError as error:
        raise FormatError(f"{file}: cannot be read ({error.strerror or error}); give an edited export") from error
    if first == b"[":
        return list(_tasks(file, when))
    labels = path / IMAGE_LABELS
    return list(_coco(file, when, _image_labels(labels) if path.is_dir() and labels.exists() else {}))


def _image_labels(path: Path) -> dict[str, frozenset[str]]:
    """The labels of images in FiftyOne's file, by the images' paths without suffix."""
    try:
        value = read_json(path)
        classes = value.get("classes") or []
        return {
            key: frozenset(_class_of(label, classes) for label in (labels if isinstance(labels, list) else [labels]))
            for key, labels in value["labels"].items()
            if labels is not None
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FormatError(
            f"{path}: damaged ({error!r}); export the labels of images again as a FiftyOneImageClassificationDataset"
        ) from error


def _class_of(label: Any, classes: list[Any]) -> str:
    """The class of a label: a name, a place among the classes, or an object with a name."""
    if isinstance(label, dict):
        label = label["label"]
    return str(classes[label] if isinstance(label, int) else label)


def _coco(path: Path, when: str, image_labels: Mapping[str, frozenset[str]]) -> Iterator[EditedImage]:
    coco = CocoFile(path)
    names = {}
    for category in coco.head.get("categories") or []:
        if not isinstance(category, dict) or not isinstance(category.get("name"), str):
            raise FormatError(f"{path}: the category {category!r} has no name")
        names[category.get("id")] = category["name"]

    def name(entry: Any, category: Any) -> str:
        if not isinstance(category, int) or category not in names:
            raise coco.error(entry, f"category {category!r} is not among the categories")
        return str(names[category])

    for place, image_id in enumerate(coco.names):
        image = coco.image(place)
        labels = image.value.get(LABELS)
        regions = []
        for entry in coco.annotations_of(place):
            value = entry.value
            segmentation = None
            if value.get("segmentation") and (size := coco.size(place)):
                try:
                    segmentation = read_segmentation(value["segmentation"], *size)
                except ValueError as error:
                    raise coco.error(entry, f"the segmentation {error}") from error
            region_id = value.get("region_id")
            regions.append(
                EditedRegion(
                    region_id if isinstance(region_id, str) else None,
                    name(entry, value.get("category_id")),
                    segmentation,
                )
            )
        listed = image_labels.get(PurePosixPath(image_id).with_suffix("").as_posix())
        if isinstance(labels, list):
            listed = frozenset(name(image, label) for label in labels)
        yield EditedImage(image_id, listed, regions, None, when)


def _tasks(path: Path, when: str) -> Iterator[EditedImage]:
    """The tasks of a Label Studio export (JSON) that someone has submitted."""
    try:
        tasks = read_json(path)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: not valid JSON ({error}); export the project as JSON again") from error
    for number, task in enumerate(tasks, start=1):
        try:
            done = [item for item in task.get("annotations") or [] if not item.get("was_cancelled")]
            if not done:
                continue
            last = max(done, key=lambda item: item.get("updated_at") or "")
            results = last["result"]
            chosen = [item["value"]["choices"] for item in results if item["type"] == "choices"]
            regions = [_region(item) for item in results if item["type"] in ("brushlabels", "polygonlabels")]
            labels = frozenset(label for choices in chosen for label in choices)
            yield EditedImage(
                str(task["data"]["image_id"]), labels, regions, _person(last.get("completed_by")),
                last.get("updated_at") or when, shows_labels=True,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise FormatError(
                f"{path}: task {number} is damaged ({error!r}), or hf-relabel did not export it; export the project as "
                "JSON (not JSON-MIN)"
            ) from error


def _person(value: Any) -> str | None:
    """A user of Label Studio: an object with an address, or only a number."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return f"user {value}" if isinstance(value, int) else value


def _region(item: dict[str, Any]) -> EditedRegion:
    width, height = int(item["original_width"]), int(item["original_height"])
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels")
    value = item["value"]
    if item["type"] == "brushlabels":
        return EditedRegion(None, str(value["brushlabels"][0]), encode(brush_mask(value["rle"], height, width)))
    points = np.array(value["points"], np.float64) / 100 * [width, height]
    segmentation = read_segmentation([points.ravel().tolist()], height, width)
    return EditedRegion(None, str(value["polygonlabels"][0]), segmentation, is_part=True)


def brush_mask(data: list[int], height: int, width: int) -> np.ndarray:
    """Decode a mask in Label Studio's run lengths (rle-pack, see `label_studio.brush_rle`): bool [height, width].

    Raises:
        ValueError: It is damaged, or of another size.
    """
    text = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(size: int) -> int:
        nonlocal place
        place += size
        if place > len(text):
            raise ValueError("a brush mask ends too early")
        return int(text[place - size : place], 2)

    number, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if number != height * width * 4:
        raise ValueError(f"a brush mask of {number // 4} pixels for an image of {width} x {height}")
    runs: list[tuple[int, int]] = []
    total = 0
    while total < number:
        is_run, length = take(1), take(sizes[take(2)]) + 1
        total += length
        if is_run:
            runs.append((length, take(word)))
        else:
            runs += [(1, take(word)) for _ in range(length)]
    values = np.repeat([value for _, value in runs], [length for length, _ in runs])[:number]
    return values.reshape(height, width, 4)[..., 3] > 127
